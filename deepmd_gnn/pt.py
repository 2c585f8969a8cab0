"""Entry point ``deepmd.pt``: registers the models with DeePMD-kit's PyTorch backend."""

from deepmd_gnn.config.versions import check_versions
from deepmd_gnn.files.import_order import allow_e3nn_constants, is_importing_model

check_versions()
allow_e3nn_constants()


def _register() -> None:
    # DeePMD-kit's model package loads this entry point while it is being imported, and the model needs that
    # package: import the host's module first, and leave the rest to the outer import if one is under way.
    if is_importing_model():
        return

    if not is_importing_model():
        import deepmd_gnn.mace  # noqa: F401 - and the other networks with it
        from deepmd_gnn.host import patches

        patches.apply("deepmd.pt")


_register()


def load() -> None:
    """Do nothing: the registration happens when DeePMD-kit imports this module."""
