"""The input schema of ``"type": "mace"``, made from :class:`deepmd_gnn.config.mace.MaceConfig`."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from dargs import Argument
from deepmd.utils.argcheck import model_args_plugin

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.sections import SECTIONS
from deepmd_gnn.config.versions import package_versions

DOC = "MACE, the equivariant message-passing interatomic potential (PyTorch backend)."


def _passes(check: Callable[[str, Any], None], key: str, value: Any) -> bool:
    check(key, value)  # raises a message that names the key, the value and what is allowed
    return True


def _argument(option: "dataclasses.Field[Any]") -> Argument:
    default = option.default
    if option.default_factory is not dataclasses.MISSING:
        default = option.default_factory()
    return Argument(
        option.name,
        [type(None) if t is None else t for t in option.metadata["types"]],
        optional=True,
        default=default,
        alias=list(option.metadata["alias"]),
        extra_check=partial(_passes, option.metadata["check"], option.name),
        doc=option.metadata["doc"],
    )


def _section(name: str, kind: str, doc: str) -> Argument:
    options = [o for o in dataclasses.fields(MaceConfig) if o.name in SECTIONS[name]]
    host_keys = [
        Argument("type", str, optional=True, default=kind, doc="Type of the section."),
        Argument(
            "trainable", bool, optional=True, default=True, doc="false: keep these weights as they are."
        ),
    ]
    return Argument(name, dict, [*host_keys, *map(_argument, options)], optional=True, doc=doc)


_SECTION_DOCS = {
    "descriptor": "What makes the node features, as a section of its own, which multi-task training can share.",
    "fitting_net": "What reads the energy off the features: readouts, scale and E0 of one task.",
}


@model_args_plugin.register("mace", doc=DOC)
def mace_model_args() -> list[Argument]:
    """Arguments of the MACE model.

    Returns
    -------
    list[Argument]
        One per field of :class:`~deepmd_gnn.config.mace.MaceConfig`, the same in two sections, and the keys that
        DeePMD-kit's trainer itself writes into the model section of a checkpoint.
    """
    # The default goes into the model section of every run, and with it into the checkpoint.
    info = {"versions": package_versions()}
    host_keys = [
        Argument(
            "info",
            dict,
            optional=True,
            default=info,
            doc="Written by the trainer: what the data contained, and versions.",
        ),
        Argument(
            "hessian_mode",
            bool,
            optional=True,
            default=False,
            doc="Written by the trainer: second derivatives are computed.",
        ),
        Argument(
            "model_branch_alias", list[str], optional=True, default=[], doc="Other names of this branch."
        ),
    ]
    sections = [
        _section("descriptor", "mace", _SECTION_DOCS["descriptor"]),
        _section("fitting_net", "ener", _SECTION_DOCS["fitting_net"]),
    ]
    return [*map(_argument, dataclasses.fields(MaceConfig)), *sections, *host_keys]
