"""Entry point ``deepmd.pt_expt``: registers the models with DeePMD-kit's exportable PyTorch backend."""

from deepmd_gnn.config.versions import check_versions
from deepmd_gnn.files.import_order import allow_e3nn_constants, is_importing_model

check_versions()
allow_e3nn_constants()


def load() -> None:
    """Do nothing: the registration happens when DeePMD-kit imports this module."""


def _register() -> None:
    if is_importing_model():
        return
    import deepmd.pt_expt.model.model  # noqa: F401 - first, as for the other backend

    if not is_importing_model():
        import deepmd_gnn.networks  # noqa: F401
        from deepmd_gnn.host import registry

        registry.enter_exportable()


_register()
