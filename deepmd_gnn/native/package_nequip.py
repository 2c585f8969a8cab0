"""Models of the package nequip 0.6 as ours: its configuration, and what of it has no counterpart here."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase.data import atomic_numbers

from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.files.native_file import NotConvertible
from deepmd_gnn.files.nequip_package import NAME, UNREADABLE, PackageFile, read_package_file
from deepmd_gnn.native.description import HeadError, NativeDescription
from deepmd_gnn.native.nequip_weights import build, check_weights, chosen_config
from deepmd_gnn.native.reader import explained
from deepmd_gnn.nequip import NequipModel
from deepmd_gnn.nn.nequip_names import ANCHOR, rescaling

HEAD = "Default"
# Options and their defaults in the package; None: it has to be there.
_OPTIONS: dict[str, Any] = {
    "r_max": None,
    "num_layers": 3,
    "nonlinearity_type": "gate",
    "num_basis": 8,
    "BesselBasis_trainable": True,
    "PolynomialCutoff_p": 6,
    "invariant_layers": 1,
    "invariant_neurons": 8,
    "use_sc": True,
    "irreps_edge_sh": None,
    "feature_irreps_hidden": None,
    "chemical_embedding_irreps_out": None,
    "conv_to_output_hidden_irreps_out": None,
}
# What adds something to the network that is here as well, or nothing.
_BUILDERS = (
    "SimpleIrrepsConfig", "EnergyModel", "PerSpeciesRescale", "ForceOutput", "StressForceOutput", "PartialForceOutput",
    "RescaleEnergyEtc", "uniform_initialize_FCs", "initialize_from_state", "load_model_state",
)  # fmt: skip
_ACTIVATIONS = {"e": "silu", "o": "tanh"}
# The only values that are possible here, which are the package's defaults.
_FIXED: dict[str, Any] = {
    "resnet": False,
    "nonlinearity_scalars": _ACTIVATIONS,
    "nonlinearity_gates": _ACTIVATIONS,
    "edge_sh_normalization": "component",
    "edge_sh_normalize": True,
    "reduce": "sum",
}
# The package takes an option of a part of the network also with the name of the part before it.
_PARTS = re.compile(
    r"(layer\d+_convnet|ConvNetLayer|convolution|InteractionBlock|radial_basis|RadialBasisEdgeEncoding|basis|BesselBasis|cutoff|"
    r"PolynomialCutoff|spharm_edges|SphericalHarmonicEdgeAttrs|chemical_embedding|conv_to_output_hidden|"
    r"output_hidden_to_scalar|AtomwiseLinear|AtomwiseReduce|total_energy_sum|one_hot|OneHotAtomEncoding)(_|$)|(trainable|p|irreps_out|field|out_field|"
    r"set_features)$"
)


def describe_package(file: PackageFile) -> NativeDescription:
    """Say what a model of the package is.

    Parameters
    ----------
    file : PackageFile
        Its content.

    Returns
    -------
    NativeDescription
        With fields of :class:`~deepmd_gnn.config.nequip.NequipConfig` as options, and the package's shifts as
        ``atomic_energies``.

    Raises
    ------
    NotConvertible
        If an option has no counterpart here, is not in the configuration, or does not fit the weights.
    """
    path, given = file.path, file.config
    foreign = next(_foreign(given), None)
    if foreign:
        raise NotConvertible(f"{path}: {foreign}, which has no counterpart here. Not converted.")
    type_map = _type_map(path, given)
    options = {key: given.get(key, default) for key, default in _OPTIONS.items()}
    missing = [key for key, value in options.items() if value is None]
    neighbors = given.get("avg_num_neighbors", UNREADABLE)  # a training writes what it has found
    neighbors = 1.0 if neighbors is None else neighbors  # then nothing is divided
    missing += [] if _is_number(neighbors) else ["a number as avg_num_neighbors"]
    embedding = next((value for name, value in file.state.items() if name.endswith(ANCHOR)), None)
    missing += [] if embedding is not None else [f"weights '{ANCHOR}'"]
    if missing:
        raise NotConvertible(
            f"{path} lacks {', '.join(missing)}, which models of {NAME} have. Not converted."
        )
    if isinstance(options["irreps_edge_sh"], int):
        options["irreps_edge_sh"] = " + ".join(
            f"{ell}{'eo'[ell % 2]}" for ell in range(min(options["irreps_edge_sh"], 12) + 1)
        )
    try:
        scale, shifts = rescaling(file.state, len(type_map))
        config = NequipConfig(
            **options,
            avg_num_neighbors=float(neighbors),
            scale=scale,
            atomic_energies=dict(zip(type_map, shifts.tolist(), strict=True)),
            precision=str(embedding.dtype).removeprefix("torch.") if embedding is not None else "",
        )
    except (ValueError, TypeError) as error:
        raise NotConvertible(
            f"{path} has options that are not possible here: {error} Not converted."
        ) from error
    check_weights(path, file.state, len(type_map), config)
    found = {key: value for key, value in config.to_dict().items() if key != "seed"}
    return NativeDescription(found, type_map, [HEAD], 0, [float(neighbors)] * config.num_layers)


def load_package_nequip(
    source: str | Path,
    head: str | None = None,
    elements: list[str] | None = None,
    precision: str | None = None,
    sel: int | None = None,
) -> tuple[NequipModel, str] | None:
    """Load a model of the package; nothing in its files is executed.

    Parameters
    ----------
    source : str or Path
        See :func:`~deepmd_gnn.files.nequip_package.read_package_file`.
    head : str, optional
        There is one only, ``"Default"``.
    elements, precision, sel
        As for :func:`~deepmd_gnn.native.reader.load_mace`.

    Returns
    -------
    tuple[NequipModel, str] or None
        In eval mode, with the package's numbers, and its head; None if `source` is something else.

    Raises
    ------
    NotConvertible
        If the model has options that are not possible here.
    ValueError
        If head, elements or precision do not fit the model.
    """
    with explained(source, f"models of {NAME}"):
        file = read_package_file(source)
        if file is None:
            return None
        if head not in (None, HEAD):
            raise HeadError(f"The file has no head '{head}': models of {NAME} have one, without a name.")
        description = describe_package(file)
        config = chosen_config(description.options, precision, sel)
        return build(file.state, None, description.type_map, config, elements), HEAD


def _foreign(given: dict[str, Any]) -> Iterator[str]:
    """What a configuration has that is not possible here, as the beginning of a sentence."""
    builders = given.get("model_builders")
    if not isinstance(builders, list) or "EnergyModel" not in builders:
        yield f"its model_builders are {builders!r}, without 'EnergyModel'"
    else:
        yield from (f"its model_builders have {name!r}" for name in builders if name not in _BUILDERS)
    for key, value in _FIXED.items():
        found = given.get(key, value)
        if key == "nonlinearity_scalars" and isinstance(found, dict):
            found = {**_ACTIVATIONS, **found}
        if key == "nonlinearity_gates" and isinstance(found, dict):
            found = {**found, "o": "tanh"}  # gates are even
        if found != value:
            yield f"'{key}' is {found!r} and not {value!r}"
    for key, value in given.items():
        if key not in _OPTIONS and _PARTS.match(key) and value is not None:
            yield f"it has the option '{key}' ({value!r}) of a part of the network"


def _type_map(path: Path, given: dict[str, Any]) -> list[str]:
    """Chemical symbols of the types."""
    names, symbols = given.get("type_names"), given.get("type_to_chemical_symbol")
    found = names if isinstance(names, list) else []
    if isinstance(symbols, dict):
        found = [symbols.get(str(number), name) for number, name in enumerate(found)]
    known = [name for name in found if isinstance(name, str) and atomic_numbers.get(name, 0) > 0]
    if (
        not found
        or known != found
        or len(set(known)) < len(found)
        or len(found) != given.get("num_types", len(found))
    ):
        raise NotConvertible(
            f"{path} has the types {names!r}; each has to be an element, once. Not converted."
        )
    return known


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")
