"""A model's options as plain values, one spelling for equal models: what is kept beside weights and compared. No torch here."""

from typing import Any

from deepmd_gnn.config.checks import parse_irreps
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.networks import Config
from deepmd_gnn.config.sections import sections_of

# Names of the tensors in a model, and the section of the input that each describes.
OPTION_TENSORS = {"network_options": "descriptor", "readout_options": "fitting_net"}
# The checkpoint's value stays; the input's is only said to be unused.
STATISTICS = ("avg_num_neighbors", "scale", "atomic_energies")
# No number of the model depends on them, or as little as on rounding.
_FREE = ("sel", "seed", "freeze", "enable_cueq", "precision", "num_channels", "max_L")
# Of layers 2, 3, …, which a model with one layer does not have.
_LATER_LAYERS = ("interaction", "MLP_irreps", "gate", "readout_cls")


def options_of(
    config: MaceConfig, type_map: list[str], pairs: list[list[int]], atoms: list[int]
) -> dict[str, dict[str, Any]]:
    """Describe a model by what must not change under its weights.

    Parameters
    ----------
    config : MaceConfig
        Options.
    type_map : list[str]
        Names of the types.
    pairs, atoms : list
        ``pair_exclude_types`` and ``atom_exclude_types``, indices.

    Returns
    -------
    dict[str, dict[str, Any]]
        For each name in :data:`OPTION_TENSORS` plain values, one spelling for equal models; exclusions by name.
    """
    values = {**vars(config), "correlation": config.correlations, "radial_MLP": list(config.radial_MLP)}
    for key in ("hidden_irreps", "edge_irreps", "MLP_irreps"):
        values[key] = None if values[key] is None else _spelled(str(values[key]))
    unused = _LATER_LAYERS if config.num_interactions == 1 else ()
    values = {key: value for key, value in values.items() if key not in unused}
    return described(type(config), values, type_map, pairs, atoms)


def described(
    network: type[Config],
    values: dict[str, Any],
    type_map: list[str],
    pairs: list[list[int]],
    atoms: list[int],
) -> dict[str, dict[str, Any]]:
    """Sort options into those of features and of readouts, and leave out what may change.

    Parameters
    ----------
    network : type
        Options of the network.
    values : dict[str, Any]
        Values, one spelling for equal models.
    type_map, pairs, atoms :
        See :func:`options_of`.

    Returns
    -------
    dict[str, dict[str, Any]]
        See :func:`options_of`.
    """
    described = {
        tensor: {
            key: values[key] for key in sections_of(network)[section] if key in values and key not in _FREE
        }
        for tensor, section in OPTION_TENSORS.items()
    }
    described["network_options"] |= {
        "type_map": list(type_map),
        "pair_exclude_types": sorted({"-".join(sorted((type_map[i], type_map[j]))) for i, j in pairs}),
        "atom_exclude_types": sorted({type_map[i] for i in atoms}),
    }
    return described


def _spelled(irreps: str) -> str:
    return " + ".join(f"{mul}x{ell}{parity}" for mul, ell, parity in parse_irreps(irreps))
