"""The foundation of a fine-tuning, and where it starts."""

import pytest
import torch
from helpers import random_frame, tiny_model

from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.native.fine_tuned import check_trained, load_foundation, save_start
from deepmd_gnn.native.writer import load_checkpoint


def test_elements_of_the_data(tmp_path):
    """In their order, with the energies that they had; others are named."""
    model = tiny_model(seed=3)
    save_checkpoint(model, tmp_path / "x.pt")
    found, new = load_foundation(tmp_path / "x.pt", None, ["H", "O"])
    assert new == []
    coord, kinds, cell = random_frame(natoms=6, box_length=5.0, seed=1)
    frames = [
        (torch.tensor(coord[None]), torch.tensor(k[None]), torch.tensor(cell[None]))
        for k in (kinds, 1 - kinds)
    ]
    energies = [float(one(*frame)["energy"]) for one, frame in zip((model, found), frames, strict=True)]
    assert energies[0] == pytest.approx(energies[1], rel=1e-12)


def test_new_elements(tmp_path):
    """Energies of the others stay what they are; random weights are not left untrained."""
    model = tiny_model(seed=3)
    save_checkpoint(model, tmp_path / "x.pt")
    found, new = load_foundation(tmp_path / "x.pt", None, ["O", "Cu", "H"])
    assert new == ["Cu"]
    coord, kinds, cell = random_frame(natoms=6, box_length=5.0, seed=1)
    energies = [
        float(one(torch.tensor(coord[None]), torch.tensor(k[None]), torch.tensor(cell[None]))["energy"])
        for one, k in ((model, kinds), (found, 2 * kinds))
    ]
    assert energies[0] == pytest.approx(energies[1], rel=1e-12)
    check_trained(found, new, ("interactions.0.linear_up", "readouts"), adapters=False)
    check_trained(found, [], ("node_embedding",), adapters=False)
    with pytest.raises(
        ValueError, match="does not know Cu of the data.*--freeze products interactions.0.skip_tp"
    ):
        check_trained(found, new, ("products", "readouts", "interactions.0.skip_tp"), adapters=False)
    with pytest.raises(ValueError, match="--adapters, which have none"):
        check_trained(found, new, (), adapters=True)


def test_only_the_new_task_has_new_energies(tmp_path):
    model = tiny_model(seed=3)
    save_start(model, {"H": -9.0}, tmp_path / "x.pt", replayed=True)
    before = model.out_bias.flatten().tolist()
    for task, expected in (("finetuned", [before[0], -9.0]), ("replay", before)):
        assert load_checkpoint(tmp_path / "x.pt", task).out_bias.flatten().tolist() == expected
