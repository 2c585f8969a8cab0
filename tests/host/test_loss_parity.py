"""One batch through the trainer's loss: its terms, its gradients and one optimiser step equal native MACE's."""

import argparse

import numpy as np
import pytest
import torch
from architectures import architectures
from deepmd.pt.loss import EnergyStdLoss
from helpers import native_graph, native_model, tiny_model
from mace.modules import WeightedEnergyForcesLoss
from mace.modules.loss import WeightedEnergyForcesVirialsLoss
from mace.tools.scripts_utils import get_optimizer, get_params_options
from mace.tools.torch_geometric import Batch, Data
from tolerances import LOSS
from training_data import composition_frames

FRAMES = 3
LEARNING_RATE = 0.01
# Weights of the terms late in a training: the trainer interpolates between start and limit.
PROGRESS = 0.4
ARCHITECTURES = architectures("loss")


def batch_of(periodic):
    """Frames of one composition and random labels."""
    rng = np.random.default_rng(8)
    frames = composition_frames(9, FRAMES, 30, box_length=5.5)
    coord = np.stack([x for x, _, _ in frames])
    atype = np.tile(frames[0][1], (FRAMES, 1))
    cell = np.stack([c for _, _, c in frames]) if periodic else None
    labels = {
        "energy": torch.tensor(rng.normal(size=(FRAMES, 1))),
        "force": torch.tensor(rng.normal(size=coord.shape)),
    }
    if periodic:
        labels["virial"] = torch.tensor(rng.normal(size=(FRAMES, 9)))
    return coord, atype, cell, labels


def native_batch(model, coord, atype, cell, labels):
    """The batch as native's data loader would hand it over."""
    items = []
    for k in range(FRAMES):
        graph = native_graph(model, coord[k], atype[k], None if cell is None else cell[k])
        graph = {key: value for key, value in graph.items() if key not in ("batch", "ptr")}
        items.append(
            Data(
                **{**graph, "positions": graph["positions"].detach(), "head": torch.tensor(0)},
                num_nodes=len(atype[k]),
                weight=torch.tensor(1.0),
                energy_weight=torch.tensor(1.0),
                forces_weight=torch.tensor(1.0),
                virials_weight=torch.tensor(1.0),
                energy=labels["energy"][k, 0],
                forces=labels["force"][k],
                virials=labels["virial"][k].reshape(1, 3, 3) if cell is not None else None,
            )
        )
    return Batch.from_data_list(items)


def native_loss(model, native, coord, atype, cell, labels, weights):
    data = native_batch(model, coord, atype, cell, labels)
    out = native(
        data.to_dict(), training=True, compute_virials=cell is not None, compute_displacement=cell is not None
    )
    if cell is None:
        return WeightedEnergyForcesLoss(weights["e"], weights["f"]).double()(data, out)
    return WeightedEnergyForcesVirialsLoss(weights["e"], weights["f"], weights["v"]).double()(data, out)


def our_loss(model, coord, atype, cell, labels, weights):
    """The host's loss at a learning rate that gives these weights; they change with the learning rate."""
    prefactors = {}
    for term, weight in weights.items():
        limit = 3.0 * weight if weight else 0.0
        prefactors[f"limit_pref_{term}"] = limit
        prefactors[f"start_pref_{term}"] = limit + (weight - limit) / PROGRESS
    loss = EnergyStdLoss(LEARNING_RATE, **prefactors, intensive_ener_virial=True)
    inputs = {
        "coord": torch.tensor(coord),
        "atype": torch.tensor(atype),
        "box": None if cell is None else torch.tensor(cell.reshape(FRAMES, 9)),
    }
    found = {f"find_{key}": 1.0 for key in labels}
    return loss(inputs, model, {**labels, **found}, coord.shape[1], PROGRESS * LEARNING_RATE)[1]


def native_optimizer(native):
    """Native's, with its parameter groups and AMSGrad, which does not show in the first step."""
    args = argparse.Namespace(
        lr_params_factors="{}", freeze=None, lr=LEARNING_RATE, weight_decay=0.0, amsgrad=True, beta=0.9
    )
    args.optimizer = "adam"
    return get_optimizer(args, get_params_options(args, native))


@pytest.mark.parametrize("periodic", [True, False], ids=["virials", "molecules"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_gradients_and_one_step_equal_native(architecture, periodic):
    model = tiny_model(**ARCHITECTURES[architecture], atomic_energies=[0.0, 0.0])
    native = native_model(model)
    batch = batch_of(periodic)
    model.train()
    terms = {"e": 7.0, "f": 100.0, "v": 2.0 if periodic else 0.0}
    for only in ("e", "f", "v"):  # each term alone, then all
        weights = {key: value if key == only else 0.0 for key, value in terms.items()}
        if weights[only]:
            expected = native_loss(model, native, *batch, weights)
            assert our_loss(model, *batch, weights).item() == pytest.approx(expected.item(), rel=LOSS)

    optimizers = native_optimizer(native), torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    losses = native_loss(model, native, *batch, terms), our_loss(model, *batch, terms)
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=LOSS)
    before = {name: p.detach().clone() for name, p in native.named_parameters()}
    for optimizer, loss in zip(optimizers, losses, strict=True):
        loss.backward()
        optimizer.step()
    theirs, ours = dict(native.named_parameters()), dict(model.energy_model.named_parameters())
    for name, parameter in ours.items():
        expected = theirs[name].grad
        difference = (parameter.grad - expected).abs().max()
        assert difference <= LOSS * expected.abs().max(), name
        torch.testing.assert_close(
            parameter, theirs[name], rtol=0, atol=LOSS, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert (parameter - before[name]).abs().max() > 0.5 * LEARNING_RATE, name
