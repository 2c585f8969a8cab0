"""From the model section of an input to a checked configuration. No torch here."""

import logging
from typing import Any, TypeVar

from deepmd_gnn.config.fields import renamed
from deepmd_gnn.config.foreign import translated
from deepmd_gnn.config.mace import MaceConfig, fail
from deepmd_gnn.config.mm_types import element_of, is_mm
from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.config.sections import canonical_names, flatten, is_default
from deepmd_gnn.config.versions import newer_writer

log = logging.getLogger("deepmd.deepmd_gnn")  # below the host's logger, so that `dp train` prints it

# Generic keys of DeePMD-kit's model section; the model class handles some, the others do not change this model.
_HOST_KEYS = frozenset(
    [
        "type",
        "type_map",
        "pair_exclude_types",
        "atom_exclude_types",
        "preset_out_bias",
        "data_stat_nbatch",
        "data_stat_protect",
        "data_bias_nsample",
        "info",
        "model_branch_alias",
        "finetune_head",
        "hessian_mode",
        "srtab_add_bias",
    ]
)


Network = TypeVar("Network", MaceConfig, NequipConfig)


def config_from_options(options: dict[str, Any], network: type[Network] = MaceConfig) -> Network:  # type: ignore[assignment]
    """Pick the configuration out of a model section.

    Parameters
    ----------
    options : dict[str, Any]
        Fields of `network` or their aliases, and generic keys of the host; in the model section itself or in its sections
        ``descriptor`` and ``fitting_net``.
    network : type
        Options of the network.

    Returns
    -------
    MaceConfig or another network's

    Raises
    ------
    ValueError
        If a key is unknown or given in two spellings, or a value is out of range.
    """
    try:
        return _config(options, network)
    except ValueError as found:
        error = renamed(found, network.kind)
        newer = newer_writer((options.get("info") or {}).get("versions"))
        if newer:
            raise ValueError(f"{network.kind} model: this file {newer}. ({error})") from found
        raise error from None


def _config(options: dict[str, Any], network: type[Network]) -> Network:
    names = canonical_names(network)
    given: dict[str, Any] = {}
    flat = flatten(options, network)
    if network is MaceConfig:
        flat = translated(flat, is_default)
    for key, value in flat.items():
        if key in _HOST_KEYS or key.startswith("_"):
            continue
        if key not in names:
            raise ValueError(f"mace model: unknown key '{key}'. Known keys: {', '.join(sorted(names))}.")
        if names[key] in given:
            raise ValueError(
                f"mace model: '{key}' and another spelling of '{names[key]}' are both given; keep one."
            )
        given[names[key]] = value
    return network(**given)


def exclusion_tables(
    ntypes: int, pairs: list[list[int]], atoms: list[int]
) -> tuple[list[list[bool]], list[bool]]:
    """Tabulate ``pair_exclude_types`` and ``atom_exclude_types``.

    Parameters
    ----------
    ntypes : int
        Number of types.
    pairs : list[list[int]]
        Pairs of types that do not see each other.
    atoms : list[int]
        Types whose atoms contribute no energy.

    Returns
    -------
    tuple[list[list[bool]], list[bool]]
        Which pairs are neighbours, and which types contribute.

    Raises
    ------
    ValueError
        If a type is out of range.
    """
    # A list of a stranger's file may repeat them a million times.
    distinct, silent = {(i, j) for i, j in pairs}, set(atoms)
    for index in [*silent, *(i for pair in distinct for i in pair)]:
        if not 0 <= index < ntypes:
            raise ValueError(
                f"mace model: excluded type {index} is out of range; the model has {ntypes} types."
            )
    excluded = distinct | {(j, i) for i, j in distinct}
    allowed = [[(i, j) not in excluded for j in range(ntypes)] for i in range(ntypes)]
    return allowed, [i not in silent for i in range(ntypes)]


def check_type_map(type_map: list[str], atomic_numbers: dict[str, int]) -> list[int]:
    """Translate element names.

    Parameters
    ----------
    type_map : list[str]
        Chemical symbols and MM types (:mod:`~deepmd_gnn.config.mm_types`).
    atomic_numbers : dict[str, int]
        Atomic number of every known element.

    Returns
    -------
    list[int]
        Atomic numbers in the order of `type_map`.

    Raises
    ------
    ValueError
        If `type_map` is empty, repeats an element or names an unknown one.
    """
    if not type_map:
        fail("type_map", type_map, 'a non-empty list of elements, e.g. ["O", "H"]')
    if len(set(type_map)) < len(type_map):
        fail("type_map", type_map, "a list that names each element once")
    elements = [element_of(name) for name in type_map]
    unknown = [
        name for name, element in zip(type_map, elements, strict=True) if atomic_numbers.get(element, 0) < 1
    ]
    if unknown:
        fail(
            "type_map",
            type_map,
            'a list of chemical symbols, e.g. ["O", "H"], or of MM types like mH, HW and OW; not known: '
            + ", ".join(map(str, unknown)),
        )
    return [atomic_numbers[element] for element in elements]


def warn_of_jumps(config: MaceConfig) -> None:
    """Say in the log if the energy jumps when a neighbour crosses the cutoff."""
    if config.jumps_at_cutoff:
        log.warning(
            "MACE apply_cutoff: true with %s: the energy jumps when a neighbour crosses r_max. New models should leave it "
            "out or write false.",
            " and ".join(sorted({str(config.interaction_first), config.interaction})),
        )


def check_mm_types(type_map: list[str], config: MaceConfig) -> None:
    """Refuse architectures in which an MM atom far from all others has an energy.

    Parameters
    ----------
    type_map : list[str]
        Names of the types.
    config : MaceConfig
        Architecture.

    Raises
    ------
    ValueError
        If there are MM types and the first layer or the readout gives a lone atom an energy, or only MM types.
    """
    mm = [name for name in type_map if is_mm(name)]
    if not mm:
        return
    if len(mm) == len(type_map):
        fail("type_map", type_map, "a list with at least one type that is no MM type")
    names = ", ".join(mm)
    if "Residual" in str(config.interaction_first):
        fail(
            "interaction_first",
            config.interaction_first,
            f"a block without Residual: with MM types ({names}) a lone atom must have no energy but E0",
        )
    if config.use_embedding_readout:
        fail(
            "use_embedding_readout",
            True,
            f"false: with MM types ({names}) a lone atom must have no energy but E0",
        )
    if config.use_coulomb_term:
        fail("use_coulomb_term", True, f"false: atoms of MM types ({names}) would get charges")
    if config.readout_cls != "NonLinearReadoutBlock":
        fail(
            "readout_cls",
            config.readout_cls,
            f"NonLinearReadoutBlock: with MM types ({names}) a lone atom must have no energy but E0",
        )
