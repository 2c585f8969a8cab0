"""The non-linearities of the last readout: against their formulas, and in a network against native MACE, there and back."""

import numpy as np
import pytest
import torch
from import_checks import assert_imported, frame
from native_models import native, native_evaluation

from deepmd_gnn import export_native, load_mace
from deepmd_gnn.config.checks import GATES
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.mace_network import build_energy
from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.nn.readouts import activate

FORMULAS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": lambda x: 1 - 2 / (np.exp(2 * x) + 1),
    "abs": np.abs,
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "None": lambda x: x,
}


@pytest.mark.parametrize("gate", GATES)
def test_formula(gate):
    x = np.linspace(-4, 4, 81)
    np.testing.assert_allclose(activate(torch.tensor(x), gate).numpy(), FORMULAS[gate](x), atol=1e-15)


@pytest.mark.parametrize("gate", [gate for gate in GATES if gate != "None"])
def test_unit_second_moment(gate):
    """The gain, which e3nn draws a million random numbers for, is near the integral."""
    config = MaceConfig(gate=gate, num_channels=2, max_L=0, max_ell=1, correlation=1)
    x = np.linspace(-10, 10, 20001)
    moment = (FORMULAS[gate](x) ** 2 * np.exp(-(x**2) / 2)).sum() * 1e-3 / (2 * np.pi) ** 0.5
    assert build_energy(config, [8]).readouts[-1].gain == pytest.approx(moment**-0.5, rel=1e-2)


@pytest.mark.parametrize(
    ("gate", "function"),
    [("elu", torch.nn.functional.elu), ("relu", torch.relu), ("sigmoid", torch.sigmoid)],
)
def test_as_native_there_and_back(gate, function, tmp_path):
    original = native(gate=function)
    coord, symbols, cell = frame()
    expected = native_evaluation(original, coord, symbols, cell)
    torch.save(original, tmp_path / "x.model")
    model = load_mace(tmp_path / "x.model")
    assert model.config.gate == gate
    assert_imported(model, expected, coord, symbols, cell)
    assert_imported(torch.jit.script(model), expected, coord, symbols, cell)
    save_checkpoint(model, tmp_path / "x.pt")
    export_native(tmp_path / "x.pt", tmp_path / "back.model")
    assert_imported(load_mace(tmp_path / "back.model"), expected, coord, symbols, cell)
