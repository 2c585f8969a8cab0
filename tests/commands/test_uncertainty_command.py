"""``deepmd-gnn uncertainty``, and what other commands make of its checkpoint."""

import json
import shutil

import pytest
import torch
from deepmd_run import base_input, run_dp
from documented import ROOT, PageRun
from helpers import tiny_model
from training_data import composition_frames, write_system

from deepmd_gnn.cli import main
from deepmd_gnn.commands import uncertainty
from deepmd_gnn.datasets.extxyz import read_extxyz
from deepmd_gnn.native.conversion import save_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("command")
    for name, seed in (("train", 1), ("valid", 2)):
        write_system(path / name, composition_frames(6, 8, seed=seed))
    save_checkpoint(tiny_model(), path / "plain.pt")
    arguments = ["plain.pt", "train", "--valid", "valid", "-o", "sure.pt", "--committee", "members", "--members", "2"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert main(["uncertainty", *arguments]) == 0
    return path


def tensors(path):
    return torch.load(path, weights_only=True)["model"]


def test_only_a_posterior_is_added(folder):
    plain, sure = tensors(folder / "plain.pt"), tensors(folder / "sure.pt")
    added = {f"model.Default.uncertainty.{name}" for name in ("factor", "members", "force_scale", "description")}  # fmt: skip
    assert set(sure) == set(plain) | added
    assert sure["model.Default.uncertainty.members"].shape == (8, 8)
    for name, value in plain.items():
        assert value == sure[name] if name == "_extra_state" else torch.equal(value, sure[name])
    assert sorted(one.name for one in (folder / "members").iterdir()) == ["member_1.pt", "member_2.pt"]


def test_info_and_evaluate(folder, capsys, tmp_path):
    assert main(["info", str(folder / "sure.pt")]) == 0
    assert "Uncertainty        LLPR, 8 features of 8 frames, calibrated on 8 validation frames" in capsys.readouterr().out  # fmt: skip
    arguments = [str(folder / "sure.pt"), str(folder / "valid"), "-o", str(tmp_path / "out.xyz"), "--forces-std", "--json"]  # fmt: skip
    assert main(["evaluate", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["energy_std"]["rms_ratio"] == pytest.approx(1.0)
    frame = next(iter(read_extxyz(tmp_path / "out.xyz")))
    assert frame.info["MACE_energy_std"] > 0.0
    assert frame.arrays["MACE_node_energies_std"].shape == frame.arrays["MACE_forces_std"].shape == (6,)
    arguments = [str(folder / "plain.pt"), *arguments[1:3], str(tmp_path / "none.xyz"), "--forces-std"]
    assert main(["evaluate", *arguments]) == 1
    assert "has no uncertainty. Make it with" in capsys.readouterr().err


def test_a_training_drops_it(folder, tmp_path):
    config = base_input([str(folder / "train")], [], steps=2)
    config["model"] = {**config["model"], "atomic_energies": {"O": -5.0, "H": -1.25}}
    run_dp(tmp_path, "train", config, "--init-model", str(folder / "sure.pt"), "--skip-neighbor-stat")
    assert not [name for name in tensors(tmp_path / "model.ckpt-2.pt") if ".uncertainty." in name]
    assert "the uncertainty of the model is dropped" in (tmp_path / "train.log").read_text()


@pytest.mark.slow
def test_the_page(folder, tmp_path):
    shutil.copy(folder / "plain.pt", tmp_path / "model.ckpt.pt")
    for name in ("train", "valid"):
        shutil.copytree(folder / name, tmp_path / "data" / name)
    assert main(["data", str(folder / "valid"), "-o", str(tmp_path / "test.xyz")]) == 0
    PageRun(ROOT / "docs/uncertainty.md", tmp_path, {})()
    assert (tmp_path / "member_1.pth").exists()


def test_what_is_refused(folder, capsys, tmp_path):
    torch.jit.script(tiny_model()).save(str(tmp_path / "m.pth"))
    for words, *arguments in (
        ("Give the checkpoint (.pt) that it was frozen from", str(tmp_path / "m.pth")),
        ("end its name with .pt", str(folder / "plain.pt"), "-o", str(tmp_path / "x.pth")),
        ("must be 1 or more", str(folder / "plain.pt"), "--draws", "0"),
        ("must be a positive number", str(folder / "plain.pt"), "--regularisation", "-1"),
        ("is there already", str(folder / "plain.pt"), "-o", str(folder / "sure.pt")),
        ("is there already", str(folder / "plain.pt"), "--committee", str(folder / "members")),
        ("is there already", str(folder / "plain.pt"), "--committee", str(folder / "plain.pt")),
    ):
        assert main(["uncertainty", arguments[0], str(folder / "train"), *arguments[1:]]) == 1
        assert words in capsys.readouterr().err, words
    assert uncertainty.run.__doc__
