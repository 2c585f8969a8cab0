"""Entry point ``deepmd.backend``: makes every ``dp`` process know the input keys of ``"type": "mace"``.

Loaded before any backend is chosen, so nothing here may import torch.
"""

from deepmd_gnn.versions import check_versions

check_versions()

from deepmd_gnn import argcheck as argcheck  # noqa: E402 - with other versions it could not be imported


def load() -> None:
    """Do nothing: the registration happens when DeePMD-kit imports this module."""
