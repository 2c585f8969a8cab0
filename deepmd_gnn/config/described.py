"""A model's options as plain values, one spelling for equal models: what is kept beside weights and compared. No torch here."""

from typing import Any

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.networks import Config
from deepmd_gnn.config.sections import sections_of

# Names of the tensors in a model, and the section of the input that each describes.
OPTION_TENSORS = {"network_options": "descriptor", "readout_options": "fitting_net"}
# The checkpoint's value stays; the input's is only said to be unused.
STATISTICS = ("avg_num_neighbors", "scale", "atomic_energies")
# No number of the model depends on them, or as little as on rounding.
_FREE = ("sel", "seed", "freeze", "adapters", "enable_cueq", "precision", "num_channels", "max_L")


def options_of(
    config: Config, type_map: list[str], pairs: list[list[int]], atoms: list[int]
) -> dict[str, dict[str, Any]]:
    """Describe a model by what must not change under its weights.

    Parameters
    ----------
    config : MaceConfig or another network's
        Options.
    type_map : list[str]
        Names of the types.
    pairs, atoms : list
        ``pair_exclude_types`` and ``atom_exclude_types``, indices.

    Returns
    -------
    dict[str, dict[str, Any]]
        For each name in :data:`OPTION_TENSORS` plain values, one spelling for equal models; exclusions by name, and the type of
        the model, which MACE does not say.
    """
    values, sections = config.comparable(), sections_of(type(config))
    described = {
        tensor: {key: values[key] for key in sections[section] if key in values and key not in _FREE}
        for tensor, section in OPTION_TENSORS.items()
    }
    described["network_options"] |= {
        "type_map": list(type_map),
        "pair_exclude_types": sorted(
            {"-".join(sorted((type_map[i], type_map[j]))) for i, j in {(i, j) for i, j in pairs}}
        ),
        "atom_exclude_types": sorted({type_map[i] for i in set(atoms)}),
    }
    if config.kind != MaceConfig.kind:
        described["network_options"]["type"] = config.kind
    return described
