"""Charge, spin and other quantities of a structure, for models that depend on them."""

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from helpers import TINY, our_results, random_frame, tiny_model

from deepmd_gnn.config.embeddings import features
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.tools.batch_evaluation import BatchEvaluation
from deepmd_gnn.tools.evaluation import load_potential
from deepmd_gnn.tools.quantities import frame_values, quantities_of, quantities_of_potential

CHARGED = ARCHITECTURES["charged"].options
QUANTITIES = features(CHARGED["embeddings"])


def test_section():
    assert quantities_of({**TINY, **CHARGED}) == QUANTITIES
    assert quantities_of({**TINY, "embedding_specs": CHARGED["embeddings"]}) == QUANTITIES
    assert quantities_of(TINY) == quantities_of({"type": "nequip"}) == quantities_of(None) == []
    assert quantities_of({"type": "dpa3"}) == []


def test_values():
    assert frame_values({}, QUANTITIES) is None
    assert frame_values({"charge": -1}, QUANTITIES).tolist() == [-1.0, 1.0, 0.3]
    assert frame_values({"fparam": [1, 2, 0.5]}, QUANTITIES).tolist() == [1.0, 2.0, 0.5]
    with pytest.raises(ValueError, match=r"total_spin in atoms.info is 9, but must be a whole number from 0 to 4"):  # fmt: skip
        frame_values({"spin": 9}, QUANTITIES)
    with pytest.raises(ValueError, match=r"fparam .1.0, 2.0, 0.5. and, by other keys, .-1.0, 1.0, 0.3."):
        frame_values({"fparam": [1, 2, 0.5], "charge": -1}, QUANTITIES)
    pressure = features({**CHARGED["embeddings"], "pressure": {"type": "continuous", "emb_dim": 1}})
    with pytest.raises(ValueError, match="also depends on pressure, which atoms.info does not have"):
        frame_values({"charge": -1}, pressure)


def test_frames_of_a_file(tmp_path):
    """Each frame has its own values; those that have none are counted."""
    model = tiny_model(**CHARGED)
    torch.jit.script(model).save(str(tmp_path / "model.pth"))
    potential = load_potential(tmp_path / "model.pth")
    # Written without the host, the file does not say what it is; the host's own do.
    potential.deep_eval.model_def_script = {**TINY, **CHARGED}
    assert quantities_of_potential(potential) == QUANTITIES
    coord, types, cell = random_frame()
    numbers = np.where(types == 0, 8, 1)
    states = [{"charge": 1}, {}, {"charge": -2, "total_spin": 3}]
    frames = [Frame("x", k, numbers, coord, cell, (True, True, True), info) for k, info in enumerate(states)]
    evaluation = BatchEvaluation([potential])
    found = [prediction.energy for _, prediction in evaluation(iter(frames))]
    rows = [[1.0, 1.0, 0.3], [0.0, 1.0, 0.3], [-2.0, 3.0, 0.3]]
    for energy, row in zip(found, rows, strict=True):
        values = torch.tensor([row], dtype=torch.float64)
        assert abs(energy - our_results(model, coord, types, cell, fparam=values)["energy"].item()) < 1e-10
    assert evaluation.defaulted == 1
    with pytest.raises(DataError, match="descriptors of models whose energy depends on charge"):
        BatchEvaluation([potential], descriptors=lambda *_: None)
