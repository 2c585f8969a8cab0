"""Entry point ``deepmd.pt``: registers the model with DeePMD-kit's PyTorch backend."""

import sys

from deepmd_gnn import argcheck as argcheck
from deepmd_gnn.e3nn_compat import allow_e3nn_constants

allow_e3nn_constants()


def _is_importing_model() -> bool:
    """Tell whether ``deepmd_gnn.mace`` is on the import stack, half initialised."""
    module = sys.modules.get("deepmd_gnn.mace")
    return module is not None and not hasattr(module, "MaceModel")


def _register() -> None:
    # DeePMD-kit's model package loads this entry point while it is being imported, and the model needs that
    # package: import the host's module first, and leave the rest to the outer import if one is under way.
    if _is_importing_model():
        return
    import deepmd.pt.model.model.model  # noqa: F401 - first, see above

    if not _is_importing_model():
        import deepmd_gnn.mace  # noqa: F401


_register()


def load() -> None:
    """Do nothing: the registration happens when DeePMD-kit imports this module."""
