"""Entry point ``deepmd.pt_expt``: registers the model with DeePMD-kit's exportable PyTorch backend."""

from deepmd_gnn.config.versions import check_versions
from deepmd_gnn.files.import_order import allow_e3nn_constants, is_importing_model
from deepmd_gnn.host.freezing import improve
from deepmd_gnn.host.inference_graphs import keep_types, search_here
from deepmd_gnn.host.sharing import Descriptor

check_versions()
allow_e3nn_constants()


def register(model_class: type) -> None:
    """Enter the model into the backend's own registry.

    Parameters
    ----------
    model_class : type
        :class:`~deepmd_gnn.mace.MaceModel`; the backend needs its methods, not a common base class.
    """
    try:
        from deepmd.pt_expt.descriptor.base_descriptor import BaseDescriptor
        from deepmd.pt_expt.model.model import BaseModel
    except ImportError:  # being imported itself; its own entry point comes later
        return
    BaseModel.register("mace")(model_class)
    BaseDescriptor.register("mace")(Descriptor)
    import deepmd.infer.deep_eval
    from deepmd.pt_expt.infer import deep_eval
    from deepmd.pt_expt.utils import serialization

    improve(serialization)
    keep_types(deepmd.infer.deep_eval)
    search_here(deep_eval)


def _register() -> None:
    if is_importing_model():
        return
    import deepmd.pt_expt.model.model  # noqa: F401 - first, as for the other backend

    if not is_importing_model():
        from deepmd_gnn.mace import MaceModel

        register(MaceModel)


_register()


def load() -> None:
    """Do nothing: the registration happens when DeePMD-kit imports this module."""
