"""The foundation of a fine-tuning, and where it starts."""

import pytest
import torch
from helpers import random_frame, tiny_model

from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.native.fine_tuned import load_foundation, save_start
from deepmd_gnn.native.writer import load_checkpoint


def test_elements_of_the_data(tmp_path):
    """In their order, with the energies that they had; others are named."""
    model = tiny_model(seed=3)
    save_checkpoint(model, tmp_path / "x.pt")
    found = load_foundation(tmp_path / "x.pt", None, ["H", "O"])
    coord, kinds, cell = random_frame(natoms=6, box_length=5.0, seed=1)
    frames = [
        (torch.tensor(coord[None]), torch.tensor(k[None]), torch.tensor(cell[None]))
        for k in (kinds, 1 - kinds)
    ]
    energies = [float(one(*frame)["energy"]) for one, frame in zip((model, found), frames, strict=True)]
    assert energies[0] == pytest.approx(energies[1], rel=1e-12)
    with pytest.raises(ValueError, match="does not know Cu of the data, only O H"):
        load_foundation(tmp_path / "x.pt", None, ["O", "Cu"])


def test_only_the_new_task_has_new_energies(tmp_path):
    model = tiny_model(seed=3)
    save_start(model, {"H": -9.0}, tmp_path / "x.pt", replayed=True)
    before = model.out_bias.flatten().tolist()
    for task, expected in (("finetuned", [before[0], -9.0]), ("replay", before)):
        assert load_checkpoint(tmp_path / "x.pt", task).out_bias.flatten().tolist() == expected
