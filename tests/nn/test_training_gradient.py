"""Gradients of a loss on energy, forces and virial equal native MACE's, parameter by parameter."""

import numpy as np
import pytest
import torch
from architectures import architectures
from helpers import assert_close, native_graph, native_model, random_frame, tiny_model
from tolerances import FINITE_DIFFERENCE, TRAINING_GRADIENT
from training_data import loss_of

OPTIONS = architectures("training")


@pytest.mark.parametrize("option", OPTIONS)
def test_gradients_equal_native(option):
    model = tiny_model(**OPTIONS[option], atomic_energies=[0.0, 0.0])
    coord, atype, cell = random_frame(box_length=5.5)
    native = native_model(model)
    out = native(
        native_graph(model, coord, atype, cell),
        training=True,
        compute_virials=True,
        compute_displacement=True,
    )
    loss_of(out["energy"], out["forces"], out["virials"].reshape(9)).backward()
    expected = {name: p.grad for name, p in native.named_parameters() if p.grad is not None}

    model.train()
    ours = model(torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None]))
    loss_of(ours["energy"][0], ours["force"][0], ours["virial"][0]).backward()
    actual = {name: p.grad for name, p in model.energy_model.named_parameters() if p.grad is not None}
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        assert_close(actual[name].numpy(), gradient.numpy(), TRAINING_GRADIENT, name)


def test_every_parameter_is_trained():
    """Distributed training refuses parameters without a gradient."""
    model = tiny_model(num_interactions=3).train()
    coord, atype, cell = random_frame()
    out = model(torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None]))
    (out["energy"].sum() + out["force"].square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_second_derivatives_reach_the_coordinates():
    """The Hessian by autograd equals finite differences of forces."""
    model = tiny_model()
    coord, atype, _ = random_frame(natoms=4, box_length=4.0)
    x = torch.tensor(coord[None], requires_grad=True)
    force = model(x, torch.tensor(atype[None]))["force"]
    row = -torch.autograd.grad(force[0, 1, 2], x)[0][0].numpy()
    h = 1e-4
    numeric = np.zeros_like(coord)
    for i in range(4):
        for k in range(3):
            step = np.zeros_like(coord)
            step[i, k] = h
            up, down = (
                model(torch.tensor((coord + s * step)[None]), torch.tensor(atype[None]))["force"][0, 1, 2]
                for s in (1, -1)
            )
            numeric[i, k] = -(up - down).item() / (2 * h)
    assert_close(row, numeric, FINITE_DIFFERENCE)


@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "molecule"])
def test_hessian_of_frames(periodic):
    """Two frames at once: symmetric, and equal to finite differences of the forces of each."""
    model = tiny_model()
    frames = [random_frame(natoms=4, box_length=4.5, seed=seed) for seed in (0, 1)]
    coord = np.stack([x for x, _, _ in frames])
    atype = torch.tensor(np.stack([t for _, t, _ in frames]))
    cell = torch.tensor(np.stack([c.ravel() for _, _, c in frames])) if periodic else None
    model.enable_hessian()
    hessian = model(torch.tensor(coord), atype, cell)["hessian"].numpy()
    assert hessian.shape == (2, 12, 12)
    assert_close(hessian, hessian.transpose(0, 2, 1), FINITE_DIFFERENCE)
    model.hessian_mode = False
    h = 1e-4
    step = np.zeros_like(coord)
    step[:, 2, 1] = h
    up, down = (model(torch.tensor(coord + s * step), atype, cell)["force"].numpy() for s in (1, -1))
    assert_close(hessian[:, :, 7], -(up - down).reshape(2, 12) / (2 * h), FINITE_DIFFERENCE)


@pytest.mark.parametrize("frozen", [["node_embedding", "interactions"], ["readouts.1", "products.0.linear"]])
def test_frozen_parts_are_not_trained(frozen):
    model = tiny_model(freeze=frozen).train()
    before = {name: p.detach().clone() for name, p in model.energy_model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    coord, atype, cell = random_frame()
    out = model(torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None]))
    (out["energy"].sum() + out["force"].square().sum()).backward()
    optimizer.step()
    for name, parameter in model.energy_model.named_parameters():
        still = any(f"{name}.".startswith(f"{part}.") for part in frozen)
        assert torch.equal(parameter, before[name]) == still, name


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        (["interaction"], "'interaction', but no parameter begins so.*interactions"),
        (["node_embedding", "interactions", "products", "readouts"], "nothing to train"),
    ],
)
def test_wrong_parts_to_freeze_are_explained(frozen, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(freeze=frozen)
