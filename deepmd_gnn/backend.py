"""Entry point ``deepmd.backend``: makes every ``dp`` process know the input keys of ``"type": "mace"``.

Loaded before any backend is chosen, so nothing here may import torch.
"""

from deepmd_gnn.config.versions import check_versions

check_versions()

# With other versions these could not be imported.
from deepmd.backend.dpmodel import DPModelBackend  # noqa: E402
from deepmd.backend.pt_expt import PyTorchExportableBackend  # noqa: E402
from deepmd.backend.pytorch import PyTorchBackend  # noqa: E402

import deepmd_gnn.config.argcheck  # noqa: E402, F401 - enters the input keys
from deepmd_gnn.files.backend_guard import guard, mend_portable  # noqa: E402

guard(PyTorchBackend, freezes_in_place=True)
guard(PyTorchExportableBackend, freezes_in_place=False)
mend_portable(DPModelBackend)


def load() -> None:
    """Do nothing: the registration happens when DeePMD-kit imports this module."""
