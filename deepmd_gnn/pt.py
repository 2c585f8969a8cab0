"""Entry point ``deepmd.pt``: registers the models with DeePMD-kit's PyTorch backend."""

from deepmd_gnn.config.versions import check_versions
from deepmd_gnn.files.import_order import allow_e3nn_constants, once_imported

check_versions()
allow_e3nn_constants()


def load() -> None:
    """Do nothing: the registration happens when DeePMD-kit imports this module."""


def _register() -> None:
    import deepmd_gnn.networks  # noqa: F401
    from deepmd_gnn.host import patches

    patches.apply("deepmd.pt")


# DeePMD-kit's model package loads this entry point while it is being imported, and a network needs that package. If it is a
# network that is being imported first, the others follow it.
once_imported(_register)
