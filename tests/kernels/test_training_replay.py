"""Captured training steps, without a GPU: a graph that does anew what was captured."""

import copy
import logging

import numpy as np
import pytest
import torch
from helpers import assert_close, random_frame, tiny_model
from tolerances import NATIVE

from deepmd_gnn import mace
from deepmd_gnn.kernels.triton import replay, training_replay
from deepmd_gnn.kernels.triton.training_replay import TrainingReplay


class Again:
    """As a captured CUDA graph: writes what the function gives now into what it has given."""

    def __init__(self, function, results):
        self.function, self.results = function, results

    def replay(self):
        with torch.enable_grad():
            values = self.function()
        for kept, value in zip(self.results, values, strict=True):
            if kept is not None:
                kept.copy_(value.detach())


@pytest.fixture
def captured(monkeypatch):
    """Numbers of captured and ordinary evaluations."""
    made = []

    def record(function, pool):
        made.append(pool)
        results = [None if value is None else value.detach().clone() for value in function()]
        return Again(function, results), results

    monkeypatch.setattr(training_replay, "record", record)
    monkeypatch.setattr(training_replay, "new_pool", object)
    monkeypatch.setattr(training_replay, "memory", lambda: (10 * len(made), 0, 100))
    monkeypatch.setattr(training_replay, "aside", lambda function: function())
    monkeypatch.setattr(mace, "trains_on", lambda device: True)

    def training_step(self, graph, atype, nloc, nall):
        kept = self.__dict__.get("_training_replay")
        if kept is None or kept.model() is not self:
            kept = TrainingReplay(self)
            object.__setattr__(self, "_training_replay", kept)
        return kept(graph, atype, nloc, nall)

    monkeypatch.setattr(mace.MaceModel, "training_step", training_step)
    return made


def batches(number, natoms=5):
    """Batches of one size, with different numbers of edges."""
    found = []
    for seed in range(number):
        frames = [random_frame(natoms=natoms, box_length=4.6 + 0.4 * seed, seed=2 * seed + k) for k in (0, 1)]
        coord, atype, cell = (torch.tensor(np.stack(parts)) for parts in zip(*frames, strict=True))
        found.append((coord, atype, cell.flatten(1)))
    return found


def loss_of(model, batch):
    out = model(*batch)
    return out["force"].square().mean() + out["energy"].square().mean() + 0.1 * out["virial"].square().mean()


def trained(model, data, by_kernels):
    """Losses and weights of a training of some steps."""
    object.__setattr__(model, "_launches_kernels", by_kernels)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for batch in data:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, dict(model.named_parameters())


NETWORKS = {
    "default": {},
    "sums over edges in torch": {
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "interaction": "RealAgnosticDensityInteractionBlock",
        "interaction_first": "RealAgnosticDensityInteractionBlock",
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_trains_as_without(name, captured):
    """Fewer edges and more from step to step: the same losses, the same weights after them."""
    model = tiny_model(**NETWORKS[name])
    data = batches(6)
    data = data[:3] + data[:2:-1]
    expected, weights = trained(copy.deepcopy(model), data, False)
    losses, found = trained(model, data, True)
    assert_close(np.array(losses), np.array(expected), NATIVE["float64"])
    for key, value in weights.items():
        assert_close(found[key].detach().numpy(), value.detach().numpy(), NATIVE["float64"])
    assert len(captured) >= 2  # evaluation and gradients
    assert len(captured) < 2 * len(data)
    assert copy.deepcopy(model).__dict__["_training_replay"] is None


def step_with_capture(model, data):
    """A model that has captured a step."""
    trained(model, data * 3, True)
    replays = model.__dict__["_training_replay"]
    assert replays.steps
    return replays


def test_two_evaluations_at_once(captured):
    """The second one must not overwrite what the gradients of the first one need."""
    model = tiny_model()
    (batch, other) = batches(2)
    step_with_capture(model, [batch])
    weights = list(model.parameters())
    first, second = loss_of(model, batch), loss_of(model, other)
    found = [torch.autograd.grad(loss, weights, allow_unused=True) for loss in (first, second)]
    object.__setattr__(model, "_launches_kernels", False)
    for ours, one in zip(found, (batch, other), strict=True):
        exact = torch.autograd.grad(loss_of(model, one), weights, allow_unused=True)
        for mine, theirs in zip(ours, exact, strict=True):
            assert (mine is None) == (theirs is None)
            if mine is not None:
                assert_close(mine.numpy(), theirs.numpy(), NATIVE["float64"])


def test_gradients_twice(captured):
    model = tiny_model()
    (batch,) = batches(1)
    step_with_capture(model, [batch])
    weights = [next(iter(model.parameters()))]
    loss = loss_of(model, batch)
    first = torch.autograd.grad(loss, weights, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(2.0 * loss, weights, retain_graph=True)[0], 2.0 * first)
    loss_of(model, batch)  # overwrites
    with pytest.raises(RuntimeError, match="Evaluate the model again"):
        torch.autograd.grad(loss, weights)


def test_other_weights(captured):
    """Weights that lie elsewhere, and others that are trained."""
    model = tiny_model()
    (batch,) = batches(1)
    replays = step_with_capture(model, [batch])
    layer = model.energy_model.interactions[0].linear_up
    for change in (
        lambda: setattr(layer, "weight", torch.nn.Parameter(layer.weight.data)),  # in the same place
        lambda: layer.weight.requires_grad_(False),
    ):
        change()
        loss_of(model, batch).backward()
        assert not replays.steps
        trained(model, [batch] * 3, True)
        assert replays.steps


def test_processes_that_share_weights(captured, monkeypatch):
    model = tiny_model()
    (batch,) = batches(1)
    step_with_capture(model, [batch])
    before = len(captured)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    trained(model, batches(1, natoms=4) * 4, True)
    with torch.no_grad():
        model(*batch)
    assert len(captured) == before


def test_memory_of_captured_steps_is_given_back(captured, monkeypatch):
    """Where an ordinary evaluation does not find enough."""
    model = tiny_model()
    replays = step_with_capture(model, batches(1))
    derivatives = mace.MaceModel.derivatives

    def scarce(self, *arguments):
        if replays.steps:
            raise torch.OutOfMemoryError("no memory")
        return derivatives(self, *arguments)

    monkeypatch.setattr(mace.MaceModel, "derivatives", scarce)
    losses, _ = trained(model, batches(1, natoms=4), True)
    assert np.isfinite(losses).all()
    assert not replays.works


@pytest.mark.parametrize("fault", ["memory", "numbers", "nothing"])
def test_what_cannot_be_captured(fault, captured, monkeypatch, caplog):
    """Training goes on without."""
    exact = training_replay.record

    def record(function, pool):
        if fault == "memory":
            raise RuntimeError("out of memory")
        graph, results = exact(function, pool)
        if fault == "nothing":
            graph.replay = lambda: None
        graph.function = lambda: [None if value is None else 1.1 * value for value in function()]
        return graph, results

    monkeypatch.setattr(training_replay, "record", record)
    model = tiny_model()
    data = batches(1) * 5
    expected = trained(copy.deepcopy(model), data, False)[0]
    with caplog.at_level(logging.INFO, "deepmd"):
        losses = trained(model, data, True)[0]
    assert_close(np.array(losses), np.array(expected), NATIVE["float64"])
    assert caplog.text.count("training steps are not captured") == 1


def test_steps_hold_little_memory(captured, monkeypatch, caplog):
    """A step is two graphs, of ten bytes each here."""
    model = tiny_model()
    replays = step_with_capture(model, batches(1))
    assert list(replays.held.values()) == [20]
    with caplog.at_level(logging.INFO, "deepmd"):
        trained(model, batches(1, natoms=4) * 5, True)
    assert len(replays.steps) == 1
    assert replays.works
    assert caplog.text.count("of 8 atoms are not captured") == 1


def test_few_sizes_are_captured(captured, monkeypatch):
    monkeypatch.setattr(training_replay, "KEPT", 1)
    model = tiny_model()
    replays = step_with_capture(model, batches(1))
    trained(model, batches(1, natoms=4) * 4, True)
    assert [size[1] for size in replays.steps] == [5]
    assert replay.BEFORE_CAPTURE == 2
