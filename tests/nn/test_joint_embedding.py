"""Charge, spin and other quantities of frames: native MACE's numbers for several frames with values of their own."""

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from helpers import native_graph, native_model, our_results, random_frame, tiny_model
from native_models import default_dtype
from tolerances import NATIVE

from deepmd_gnn.nn.joint_embedding import Category

CHARGED = ARCHITECTURES["charged"].options
NAMES = ("total_charge", "total_spin", "temperature")
STATES = [[1.0, 2.0, 0.5], [-3.0, 0.0, 0.1], [0.0, 1.0, 0.3]]
BLOCKS = {
    "default": {},
    "with its readout": {"use_embedding_readout": True},
    "one layer": {"num_interactions": 1},
    "residual first": {"interaction_first": "RealAgnosticResidual"},
    "density, float32": {"interaction": "RealAgnosticDensityResidual", "precision": "float32"},
    "attentive": {"interaction": "RealAgnosticAttResidual", "interaction_first": "RealAgnosticAttResidual"},
    "non-linear": {
        "interaction": "RealAgnosticResidualNonLinear",
        "interaction_first": "RealAgnosticResidualNonLinear",
    },
}


def native_states(model, coord, atype, cell, states):
    """Energies without E0 (the embedding's among them), forces and virials of one frame in several states."""
    native = native_model(model)
    found = []
    for state in states:
        graph = native_graph(model, coord, atype, cell)
        for name, value in zip(NAMES, state, strict=True):
            graph[name] = torch.tensor([value], dtype=torch.float64)
        with default_dtype():
            out = native(graph, compute_virials=True, compute_displacement=True)
        found.append(
            {
                "energy": out["energy"].item(),
                "force": out["forces"].detach().numpy(),
                "virial": out["virials"].detach().numpy().reshape(9),
            }
        )
    return found


@pytest.mark.parametrize("name", BLOCKS)
def test_several_frames_equal_native(name):
    model = tiny_model(**CHARGED, **BLOCKS[name])
    coord, atype, cell = random_frame(box_length=5.5)
    expected = native_states(model, coord, atype, cell, STATES)
    frames = len(STATES)
    found = model(
        torch.tensor(coord).expand(frames, -1, -1),
        torch.as_tensor(atype).expand(frames, -1),
        torch.tensor(cell.reshape(1, 9)).expand(frames, 9),
        torch.tensor(STATES, dtype=torch.float64),
    )
    bias = model.out_bias[0, atype, 0].sum().item()
    tolerance = NATIVE[model.config.precision]
    energies = [one["energy"] for one in expected]
    assert np.ptp(energies) > 1e-3
    for frame, one in enumerate(expected):
        largest = max(1.0, abs(one["energy"]))
        assert abs(found["energy"][frame].item() - bias - one["energy"]) <= tolerance * largest
        for key in ("force", "virial"):
            values = found[key][frame].detach().numpy().reshape(one[key].shape)
            assert np.abs(values - one[key]).max() <= tolerance * max(1.0, np.abs(one[key]).max()), key


def test_each_frame_sees_its_own_values():
    """Frames of a batch are those that are evaluated one by one."""
    model = tiny_model(**CHARGED)
    frames = [random_frame(seed=seed) for seed in range(3)]
    whole = model(
        torch.tensor(np.stack([x for x, _, _ in frames])),
        torch.as_tensor(np.stack([t for _, t, _ in frames])),
        torch.tensor(np.stack([c.reshape(9) for _, _, c in frames])),
        torch.tensor(STATES, dtype=torch.float64),
    )
    for k, (frame, state) in enumerate(zip(frames, STATES, strict=True)):
        alone = our_results(model, *frame, fparam=torch.tensor([state], dtype=torch.float64))
        assert np.abs(whole["energy"][k].detach().numpy() - alone["energy"]).max() < 1e-12
        assert np.abs(whole["force"][k].detach().numpy() - alone["force"]).max() < 1e-12


def test_no_class_is_no_number():
    """While a program runs nothing can be refused."""
    category = Category(torch.arange(6.0).view(3, 2), offset=1)
    values = torch.tensor([[-1.0], [1.0], [2.0], [-2.0], [0.5], [float("nan")]], dtype=torch.float64)
    rows = category(values)
    assert rows[:2].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert bool(rows[2:].isnan().all())
    rows[:2].sum().backward()
    assert category.weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]
