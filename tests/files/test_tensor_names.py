"""Names in checkpoints: the host's words for the parts, and back."""

import pytest
from helpers import tiny_model

from deepmd_gnn.files.tensor_names import model_name, stored_name


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("energy_model.readouts.0.linear.weight", "fitting_net.readouts.0.linear.weight"),
        ("energy_model.node_embedding.linear.weight", "descriptor.node_embedding.linear.weight"),
        ("network_options", "descriptor.options"),
        ("out_bias", "out_bias"),
    ],
)
def test_names(name, stored):
    assert stored_name(name) == stored
    assert model_name(stored) == name


def test_every_name_of_a_checkpoint_comes_back():
    for name in tiny_model().state_dict():
        assert stored_name(model_name(name)) == name
