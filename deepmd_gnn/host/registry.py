"""Enters a model into DeePMD-kit's backends."""

import sys
from collections.abc import Callable
from typing import TypeVar

from deepmd.pt.model.descriptor import BaseDescriptor
from deepmd.pt.model.model.model import BaseModel

from deepmd_gnn.files.import_order import run_waiting
from deepmd_gnn.host import classes, patches
from deepmd_gnn.host.descriptor_answers import DescriptorAnswers, NotExported
from deepmd_gnn.host.interface import HostInterface
from deepmd_gnn.host.sharing import Descriptor

Model = TypeVar("Model", bound=HostInterface)
Made = TypeVar("Made", bound=DescriptorAnswers)


def register(type_name: str) -> Callable[[type[Model]], type[Model]]:
    """Decorate a subclass of :class:`~deepmd_gnn.host.model.GraphModel`: it becomes ``"type": type_name`` for the host.

    Parameters
    ----------
    type_name : str
        Of the model section.

    Returns
    -------
    Callable
        Returns the class.
    """

    def enter(model_class: type[Model]) -> type[Model]:
        model_class.type_name = type_name
        model_class.title = model_class.title or type_name
        classes.add(type_name, model_class)
        BaseModel.register(type_name)(model_class)
        # The host looks up what it shares between tasks by the type of the section.
        if type_name not in BaseDescriptor.get_plugins():
            BaseDescriptor.register(type_name)(Descriptor)
        # If the model is imported before DeePMD-kit, the exportable backend has loaded its entry point meanwhile.
        if "deepmd.pt_expt" in sys.modules:
            enter_exportable()
        # The same for what evaluates models, which needs the host's whole model package.
        whole = hasattr(sys.modules.get("deepmd.pt.model.model"), "get_model")
        patches.apply("deepmd.pt" if whole else None)
        run_waiting()
        return model_class

    return enter


def register_descriptor(type_name: str) -> Callable[[type[Made]], type[Made]]:
    """Decorate a subclass of :class:`~deepmd_gnn.host.descriptor.GraphDescriptor`: it becomes ``"type": type_name`` of a descriptor section.

    Parameters
    ----------
    type_name : str
        Of the section.

    Returns
    -------
    Callable
        Returns the class.
    """

    def enter(made: type[Made]) -> type[Made]:
        made.type_name = type_name
        BaseDescriptor.register(type_name)(made)
        return made

    return enter


def enter_exportable() -> None:
    """Enter all models into the exportable backend's own registry, which needs their methods, not a common base class."""
    try:
        from deepmd.dpmodel.descriptor.base_descriptor import BaseDescriptor as PortableDescriptor
        from deepmd.pt_expt.descriptor.base_descriptor import BaseDescriptor as ExportableDescriptor
        from deepmd.pt_expt.model.model import BaseModel as ExportableModel
    except ImportError:  # being imported itself; its own entry point comes later
        return
    for name, model_class in classes.all_classes().items():
        ExportableModel.register(name)(model_class)
        is_descriptor = issubclass(BaseDescriptor.get_class_by_type(name), DescriptorAnswers)
        ExportableDescriptor.register(name)(NotExported if is_descriptor else Descriptor)
        if is_descriptor:  # this backend asks the portable classes as well
            PortableDescriptor.register(name)(NotExported)
    patches.apply("deepmd.pt_expt")
