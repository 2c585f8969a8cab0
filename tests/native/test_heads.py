"""All heads of a native file at once: tasks of one checkpoint, each with native's numbers."""

import json

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import run_dp
from native_models import SYMBOLS, native, native_evaluation
from tolerances import IMPORTED
from training_data import composition_frames, write_system

from deepmd_gnn.cli import main
from deepmd_gnn.native.heads import convert_heads

HEADS = ["pt_head", "Default"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    torch.save(native(heads=HEADS), root / "x.model")
    assert main(["convert", str(root / "x.model"), "-o", str(root / "x.pt"), "--all-heads"]) == 0
    return root


def frame():
    rng = np.random.default_rng(3)
    return rng.uniform(0.0, 6.0, (8, 3)), np.eye(3) * 6.0, [0, 1, 2, 0, 1, 2, 0, 0]


@pytest.mark.parametrize("head", HEADS)
def test_each_has_native_numbers(head, folder):
    coord, cell, kinds = frame()
    original = torch.load(folder / "x.model", weights_only=False)
    symbols = [SYMBOLS[kind] for kind in kinds]
    expected = native_evaluation(original, coord, symbols, cell, HEADS.index(head))
    energy, force, _ = DeepPot(str(folder / "x.pt"), head=head).eval(
        coord.reshape(1, -1), cell.reshape(1, 9), kinds
    )
    assert abs(float(energy[0, 0]) - np.ravel(expected["energy"])[0]) <= IMPORTED["energy"]
    assert np.abs(force[0] - expected["force"].reshape(-1, 3)).max() <= IMPORTED["force"]


def test_what_is_told(folder, capsys):
    assert main(["info", str(folder / "x.pt")]) == 0
    out = capsys.readouterr().out
    assert all(head in out for head in HEADS)


@pytest.mark.slow
def test_fine_tuning_one_with_the_others_kept(folder, tmp_path):
    """The input that was written, with data; a shared network that is not trained keeps the other head's energies to the bit."""
    data = write_system(tmp_path / "data", composition_frames(8, 4, 0, box_length=5.0))
    config = json.loads((folder / "x.json").read_text())
    config["model"]["shared_dict"]["network"]["trainable"] = False
    config["learning_rate"] = {"type": "cosine", "start_lr": 0.01, "stop_lr": 0.001}
    config["training"] |= {
        "numb_steps": 2,
        "save_freq": 2,
        "seed": 1,
        "model_prob": {"pt_head": 0.0, "Default": 1.0},
    }
    for task in config["training"]["data_dict"].values():
        task["training_data"]["systems"] = [data]
    run_dp(tmp_path, "train", config, "--finetune", str(folder / "x.pt"))
    before, after = (
        torch.load(path, weights_only=True)["model"] for path in (folder / "x.pt", tmp_path / "model.ckpt.pt")
    )
    for name, value in before.items():
        if torch.is_tensor(value) and name.endswith("weight"):
            trained = ".Default.fitting_net." in name
            assert torch.equal(value, after[name]) != trained, name


def test_refused(folder, capsys):
    with pytest.raises(ValueError, match="must end in .pt: a frozen file has one head"):
        convert_heads(folder / "x.model", folder / "x.pth")
    assert main(["convert", str(folder / "x.model"), "-o", "y.pt", "--all-heads", "--head", "pt_head"]) == 1
    assert "give one of the two" in capsys.readouterr().err
