"""Options that a file states are compared with its weights before a network is built of them."""

import dataclasses

import pytest
import torch
from architectures import architectures
from helpers import tiny_model
from native_models import native

from deepmd_gnn import load_mace
from deepmd_gnn.files.fitting_weights import misfit
from deepmd_gnn.files.native_file import NotConvertible

# One of every kind of block, readout and layout.
OPTIONS = architectures("native")
FITTING = (
    "default", "one layer", "three layers", "scalars only", "pseudoscalars", "correlation per layer", "plain blocks",
    "density residual first", "attentive first", "non-linear first", "as MH-1", "edge irreps first", "agnostic product",
    "last readout only", "so3", "all irreps last", "readout with bias", "gaussian", "deep radial", "three elements",
)  # fmt: skip
FORGED = {
    "hidden_irreps": "30000x0e",
    "max_ell": 11,
    "correlation": 5,
    "radial_MLP": [8, 100000],
    "num_interactions": 100,
    "MLP_irreps": "10000x0e",
    "num_radial_basis": 10000,
    "edge_irreps": "4000x0e + 4000x1o",
    "interaction": "RealAgnosticResidualNonLinearInteractionBlock",
}


def described(model):
    shapes = {name: tuple(value.shape) for name, value in model.energy_model.state_dict().items()}
    return model.config, len(model.type_map), shapes


@pytest.mark.parametrize("name", FITTING)
def test_options_fit(name):
    assert misfit(*described(tiny_model(**OPTIONS[name]))) is None


@pytest.mark.parametrize("option", FORGED)
def test_forged_options(option):
    config, ntypes, shapes = described(tiny_model())
    found = misfit(dataclasses.replace(config, **{option: FORGED[option]}), ntypes, shapes)
    # Of the block it is the names of the weights that differ, of edge_irreps the layer that sends them.
    assert option in ("interaction", "edge_irreps", "max_ell", "correlation") or option in found
    assert found


def test_forged_number_of_elements():
    config, _, shapes = described(tiny_model())
    assert misfit(config, 1000, shapes).startswith("8 weights 'node_embedding.linear.weight', but type_map")


def test_forged_native_file(tmp_path, monkeypatch):
    """Refused before a network is built."""
    model = native()
    model.interactions[0].conv_tp_weights.hs = [4, 10**7, 10**7, 12]
    torch.save(model, tmp_path / "x.model")
    monkeypatch.setattr("deepmd_gnn.nn.energy.MaceEnergy", None)
    with pytest.raises(NotConvertible, match="does not fit its weights"):
        load_mace(tmp_path / "x.model")
