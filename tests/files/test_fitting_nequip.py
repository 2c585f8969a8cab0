"""Sizes of NequIP's weights are counted without a network, so that a forged file cannot ask for memory."""

import dataclasses

import pytest
from nequip_models import tiny_nequip

from deepmd_gnn.files.fitting_nequip import nequip_misfit, sizes

ARCHITECTURES = {
    "default": {},
    "norm, no self-connection": {"nonlinearity_type": "norm", "use_sc": False, "l_max": 2, "num_layers": 3},
    "explicit irreps": {
        "irreps_edge_sh": "0e + 1o + 2e",
        "feature_irreps_hidden": "4x0o + 4x0e + 4x1o + 4x1e",
        "chemical_embedding_irreps_out": "3x0e",
        "conv_to_output_hidden_irreps_out": "5x0e",
        "num_layers": 3,
    },
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_sizes(name):
    model = tiny_nequip(**ARCHITECTURES[name])
    learned = dict(model.energy_model.named_parameters())
    assert {name: count for name, (count, _) in sizes(model.config, 2).items()} == {
        name: weight.numel() for name, weight in learned.items()
    }
    shapes = {name: tuple(weight.shape) for name, weight in learned.items()}
    assert nequip_misfit(model.config, 2, shapes) is None
    assert "type_map" in nequip_misfit(model.config, 3, shapes)
    more = dataclasses.replace(model.config, num_layers=5)
    assert "num_layers is 5" in nequip_misfit(more, 2, shapes)
    wide = dataclasses.replace(model.config, invariant_neurons=10**9)
    assert "conv_tp_weights.layer0.weight" in nequip_misfit(wide, 2, shapes)
    missing = {name: shape for name, shape in shapes.items() if "linear_up" not in name}
    assert "no weights" in nequip_misfit(model.config, 2, missing)
