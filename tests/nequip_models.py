"""Small NequIP models."""

from deepmd_gnn.nequip import NequipModel

TINY = {
    "r_max": 4.0,
    "num_layers": 2,
    "num_basis": 4,
    "invariant_neurons": 8,
    "seed": 1,
    "avg_num_neighbors": 8.0,
    "scale": 1.3,
    "atomic_energies": {"O": -5.0, "H": -1.25},
}
SIMPLE = {"l_max": 1, "num_features": 4}


def tiny_nequip(**options):
    """A tiny NequIP model in eval mode; of `SIMPLE` what `options` do not spell as irreps."""
    simple = {} if any("irreps" in key for key in options) else SIMPLE
    return NequipModel(options.pop("type_map", ["O", "H"]), **{**TINY, **simple, **options}).eval()
