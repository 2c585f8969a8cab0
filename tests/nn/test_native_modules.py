"""Modules of e3nn and native MACE, one by one, against ours made from them; and what every network says about its elements."""

import pytest
import torch
from helpers import assert_close, random_frame, tiny_model
from native_models import default_dtype
from tolerances import NATIVE

from deepmd_gnn.mace_modules import (
    linear_from,
    o3,  # e3nn itself cannot be imported first
    radial_network_from,
    spherical_harmonics_up_to,
)
from deepmd_gnn.nn.network import EnergyNetwork

IRREPS = "4x0e + 4x1o + 4x2e"


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def native_layout(rows, irreps):
    """From (node, component, channel) to native's channels before components, irrep by irrep."""
    parts, begin = [], 0
    for _, ir in o3.Irreps(irreps):
        parts.append(rows[:, begin : begin + ir.dim].transpose(1, 2).flatten(1))
        begin += ir.dim
    return torch.cat(parts, dim=1)


def test_linear_maps():
    """An irrep of the output that nothing leads to stays zero."""
    with default_dtype():
        native = o3.Linear(IRREPS, "6x0e + 6x1e + 6x1o")
    x = random(5, 9, 4)
    found = linear_from(native)(x, torch.zeros(5, 1))
    assert_close(
        native_layout(found, "6x0e + 6x1e + 6x1o").detach().numpy(),
        native(native_layout(x, IRREPS)).detach().numpy(),
        NATIVE["float64"],
    )
    assert not found[:, 1:4].any()


def test_linear_maps_per_element():
    """A fully connected product with the one-hot element."""
    with default_dtype():
        native = o3.FullyConnectedTensorProduct(IRREPS, "3x0e", "4x0e + 4x1o")
    x, one_hot = random(5, 9, 4), torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1, 0]]
    found = linear_from(native, 3)(x, one_hot)
    assert_close(
        native_layout(found, "4x0e + 4x1o").detach().numpy(),
        native(native_layout(x, IRREPS), one_hot).detach().numpy(),
        NATIVE["float64"],
    )


def test_radial_networks():
    from e3nn.nn import FullyConnectedNet

    with default_dtype():
        native = FullyConnectedNet([3, 8, 5], torch.nn.functional.silu)
    x = random(6, 3)
    assert_close(
        radial_network_from(native)(x).detach().numpy(), native(x).detach().numpy(), NATIVE["float64"]
    )


@pytest.mark.parametrize("max_ell", [1, 3])
def test_spherical_harmonics(max_ell):
    x = random(8, 3)
    expected = o3.spherical_harmonics(range(max_ell + 1), x, normalize=True, normalization="component")
    assert_close(spherical_harmonics_up_to(max_ell)(x).numpy(), expected.numpy(), NATIVE["float64"])


# --- networks ---------------------------------------------------------------------------------------------------


def test_features_are_put_side_by_side():
    layers = [random(3, 4, 2), random(3, 1, 2)]
    found = EnergyNetwork().feature_columns(layers)
    assert found.shape == (3, 10)
    assert torch.equal(found[:, :8].reshape(3, 4, 2), layers[0])
    assert torch.equal(found[:, 8:], layers[1][:, 0])


def test_what_a_network_fills_in():
    with pytest.raises(NotImplementedError):
        EnergyNetwork()(None, None)
    with pytest.raises(NotImplementedError):
        EnergyNetwork().element_axes()


@pytest.mark.parametrize(
    "options",
    [{}, {"interaction": "RealAgnosticResidualNonLinear", "apply_cutoff": False}],
    ids=["default", "non-linear"],
)
def test_weights_of_an_element_are_read_for_its_atoms_only(options):
    """Those of the other element, changed, leave a structure without it as it is."""
    model = tiny_model(**options)
    coord, _, cell = random_frame(natoms=6, box_length=5.0)
    inputs = torch.tensor(coord[None]), torch.tensor(cell[None])
    axes = model.energy_model.element_axes()
    state = model.energy_model.state_dict()
    assert axes.keys() <= state.keys()

    def energies():
        return [
            float(model(inputs[0], torch.full((1, 6), kind), inputs[1])["energy"].detach()) for kind in (0, 1)
        ]

    before = energies()
    for name, (inner, _) in axes.items():
        state[name].view(inner, 2, -1)[:, 1] *= 1.5
    after = energies()
    assert after[0] == pytest.approx(before[0], rel=1e-13)
    assert abs(after[1] - before[1]) > 1e-4 * abs(before[1])
