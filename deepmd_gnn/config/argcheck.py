"""The input schema of ``"type": "mace"`` and the other networks, made from their options (:mod:`deepmd_gnn.config.networks`)."""

import dataclasses
from functools import partial
from typing import Any

from dargs import Argument
from deepmd.utils.argcheck import descrpt_args_plugin, model_args_plugin

from deepmd_gnn.config import descriptor
from deepmd_gnn.config.fields import check_value
from deepmd_gnn.config.foreign import FOREIGN, ForeignOption, check_alone
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.config.networks import Config
from deepmd_gnn.config.sections import canonical_names, sections_of
from deepmd_gnn.config.versions import package_versions

DOC = "MACE, the equivariant message-passing interatomic potential (PyTorch backend)."
DESCRIPTOR_DOC = "Node features of MACE, for any fitting_net (dp --pt)."
NEQUIP_DOC = "NequIP, the equivariant message-passing interatomic potential (PyTorch backend)."


def _passes(option: "dataclasses.Field[Any]", kind: str, value: Any) -> bool:
    check_value(option, kind, value)
    return True


def _argument(kind: str, option: "dataclasses.Field[Any]") -> Argument:
    default = option.default
    if option.default_factory is not dataclasses.MISSING:
        default = option.default_factory()
    return Argument(
        option.name,
        [type(None) if t is None else t for t in option.metadata["types"]],
        optional=True,
        default=default,
        alias=list(option.metadata["alias"]),
        extra_check=partial(_passes, option, kind),
        doc=option.metadata["doc"],
    )


def _foreign(option: ForeignOption) -> Argument:
    """An option of another library; without a default, so that it is only there if a user wrote it."""
    return Argument(
        option.name,
        [type(None) if t is None else t for t in option.types],
        optional=True,
        extra_check=partial(check_alone, option.name),
        doc=f"Of the library mlip: {option.doc}",
    )


def _section(network: type[Config], name: str, kind: str, doc: str) -> Argument:
    options = [o for o in dataclasses.fields(network) if o.name in sections_of(network)[name]]
    host_keys = [
        Argument("type", str, optional=True, default=kind, doc="Type of the section."),
        Argument(
            "trainable", bool, optional=True, default=True, doc="false: keep these weights as they are."
        ),
    ]
    return Argument(
        name, dict, [*host_keys, *map(partial(_argument, network.kind), options)], optional=True, doc=doc
    )


_SECTION_DOCS = {
    "descriptor": "What makes the node features, as a section of its own, which multi-task training can share.",
    "fitting_net": "What reads the energy off the features: readouts, scale and E0 of one task.",
}


@model_args_plugin.register("mace", doc=DOC)
def mace_model_args() -> list[Argument]:
    """Arguments of the MACE model, see :func:`network_args`."""
    return network_args(MaceConfig)


@model_args_plugin.register("nequip", doc=NEQUIP_DOC)
def nequip_model_args() -> list[Argument]:
    """Arguments of the NequIP model, see :func:`network_args`."""
    return network_args(NequipConfig)


@descrpt_args_plugin.register("mace", doc=DESCRIPTOR_DOC)
def mace_descriptor_args() -> list[Argument]:
    """Arguments of MACE as the descriptor of a standard model; keys that only the model has are refused by name."""
    host_keys = [
        Argument(
            "exclude_types",
            list[list[int]],
            optional=True,
            default=[],
            doc="Pairs of types that do not see each other.",
        ),
        Argument("trainable", bool, optional=True, default=True, doc="false: keep the weights as they are."),
    ]
    options = [_argument(MaceConfig.kind, option) for option in descriptor.fields()]
    for option in options:
        if option.name == "sel":
            option.default = descriptor.DEFAULT_SEL
            option.doc = descriptor.SEL_DOC
    return [*options, *map(_refused, descriptor.REFUSED), *host_keys]


def _refused(name: str) -> Argument:
    """An option of the model that a descriptor does not have; in the schema so that the message can say what to do."""
    return Argument(
        name,
        object,
        optional=True,
        alias=[spelling for spelling, key in canonical_names(MaceConfig).items() if key == name != spelling],
        extra_check=lambda _value: descriptor.refuse(name, name),
        doc=f"Not here: {descriptor.REFUSED[name]}.",
    )


def network_args(network: type[Config]) -> list[Argument]:
    """Arguments of a network's model section.

    Parameters
    ----------
    network : type
        Its options.

    Returns
    -------
    list[Argument]
        One per option, the same in two sections, and the keys that DeePMD-kit's trainer itself writes into the model section
        of a checkpoint.
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
        _section(network, "descriptor", network.kind, _SECTION_DOCS["descriptor"]),
        _section(network, "fitting_net", "ener", _SECTION_DOCS["fitting_net"]),
    ]
    foreign = map(_foreign, FOREIGN.values()) if network is MaceConfig else []
    return [
        *map(partial(_argument, network.kind), dataclasses.fields(network)),
        *foreign,
        *sections,
        *host_keys,
    ]
