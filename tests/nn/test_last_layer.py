"""Features before the last layer, against gradients of the frame's energy by the weights of the last layer; their deviations."""

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from helpers import random_frame, rotation, tiny_model

from deepmd_gnn.nn.uncertainty import LastLayerUncertainty

NAMES = ("default", "last readout only", "readout with bias", "gate abs", "readout width", "zbl", "charged")


def tensors(coord, types, cell):
    box = None if cell is None else torch.tensor(np.asarray(cell).reshape(1, 9))
    return torch.tensor(np.asarray(coord)[None]), torch.as_tensor(np.asarray(types))[None], box


def uncertain(model, scale=1.0):
    """Any posterior: what it says does not matter for symmetry."""
    number = model.last_layer_size
    random = torch.Generator().manual_seed(3)
    factor = scale * torch.randn(number, number, generator=random, dtype=torch.float64)
    model.uncertainty.factor, model.uncertainty.members = factor, factor[:4].clone()
    return model


def gradient_by_weights(model, *inputs):
    """What autograd gives for the frame's energy, in the order of the last layer."""
    weights = dict(model.energy_model.named_parameters())
    chosen = [weights[name] for name in model.energy_model.last_layer()]
    graph = model.with_frame_values(model.graphs.of_frames(*inputs), None, 1)
    energy = model.network_energies(graph, None)[1:].sum()
    return torch.cat([one.flatten() for one in torch.autograd.grad(energy, chosen)])


@pytest.mark.parametrize("name", NAMES)
def test_features_are_gradients_by_the_last_weights(name):
    model = tiny_model(**ARCHITECTURES[name].options)
    inputs = tensors(*random_frame(ntypes=len(model.type_map)))
    expected = gradient_by_weights(model, *inputs)
    features = model.forward_last_layer(*inputs)
    assert features.shape[2] == model.last_layer_size == len(expected)
    assert (features.sum(dim=1)[0] - expected).abs().max() < 1e-12 * expected.abs().max()
    # The energy is linear in these weights: what changes with them is the product.
    weights = dict(model.energy_model.named_parameters())
    before = model(*inputs)["energy"]
    change = torch.randn(len(expected), dtype=torch.float64)
    begin = 0
    with torch.no_grad():
        for one in model.energy_model.last_layer():
            number = weights[one].numel()
            weights[one] += change[begin : begin + number].view_as(weights[one])
            begin += number
    assert abs(float(model(*inputs)["energy"] - before - expected @ change)) < 1e-9


def test_excluded_and_virtual_atoms_have_no_features():
    model = tiny_model(atom_exclude_types=[1])
    coord, types, cell = random_frame()
    types[3] = -1
    features = model.forward_last_layer(*tensors(coord, types, cell))[0]
    assert (features.abs().sum(dim=1) > 0).tolist() == (types == 0).tolist()


def test_deviations_do_not_depend_on_the_frame_of_reference():
    model = uncertain(tiny_model())
    coord, types, cell = random_frame()
    order, turned = np.random.default_rng(0).permutation(len(types)), rotation()
    first = model.forward_uncertainty(*tensors(coord, types, cell), None, True, True)
    for moved, kinds, box, place, turn in (
        (coord + [0.3, -2.0, 1.0], types, cell, slice(None), np.eye(3)),
        (coord @ turned.T, types, cell @ turned.T, slice(None), turned),
        (coord[order], types[order], cell, order, np.eye(3)),
    ):
        second = model.forward_uncertainty(*tensors(moved, kinds, box), None, True, True)
        assert torch.allclose(first["energy_std"], second["energy_std"], rtol=1e-10)
        for name in ("atom_energy_std", "force_std"):
            np.testing.assert_allclose(first[name][0][place], second[name][0], rtol=1e-9)
        expected = first["energy_std_gradient"][0][place].numpy() @ turn.T
        np.testing.assert_allclose(expected, second["energy_std_gradient"][0], atol=1e-11)


def test_gradient_and_forces_are_derivatives():
    """The gradient by central differences; the force's deviation from the energies of models with other last layers."""
    model = uncertain(tiny_model(), 0.1)
    coord, types, cell = random_frame()
    found = model.forward_uncertainty(*tensors(coord, types, cell), None, True, True)
    step, direction = 1e-4, np.random.default_rng(1).normal(size=coord.shape)
    ahead, behind = (
        float(model.forward_uncertainty(*tensors(coord + s * step * direction, types, cell))["energy_std"])
        for s in (1, -1)
    )
    slope = (found["energy_std_gradient"][0].numpy() * direction).sum()
    assert (ahead - behind) / (2 * step) == pytest.approx(slope, rel=1e-6)

    before = model(*tensors(coord, types, cell))["force"][0]
    variance = 0.0
    for change in model.uncertainty.members:
        other = tiny_model()
        weights, begin = dict(other.energy_model.named_parameters()), 0
        with torch.no_grad():
            for name in other.energy_model.last_layer():
                number = weights[name].numel()
                weights[name] += change[begin : begin + number]
                begin += number
        force = other(*tensors(coord, types, cell))["force"][0]
        variance = variance + (force - before).square().sum(dim=1) / len(model.uncertainty.members)
    np.testing.assert_allclose(found["force_std"][0, :, 0], variance.sqrt(), rtol=1e-9)


def test_nothing_is_known_at_first():
    uncertainty = LastLayerUncertainty()
    assert not uncertainty.is_known()
    zero = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    uncertainty.factor = torch.eye(3, dtype=torch.float64)
    assert uncertainty.is_known()
    uncertainty.deviations(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()
