"""``deepmd-gnn finetune``: what it writes, E0, replayed frames, and the model that comes out."""

import argparse
import json
import re
import shutil

import ase.io
import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from documented import ROOT
from helpers import tiny_model
from native_models import native
from training_data import composition_frames, write_system

from deepmd_gnn.cli import main
from deepmd_gnn.commands import finetune
from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.native.writer import load_checkpoint
from deepmd_gnn.tools import fine_tuning
from deepmd_gnn.tools.best_checkpoint import best_checkpoint

pytestmark = pytest.mark.usefixtures("preloaded")

SHIFTS = {"O": -1.5, "H": 0.25}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A foundation, and its own energies at another level of theory: shifted by element."""
    root = tmp_path_factory.mktemp("finetune")
    save_checkpoint(tiny_model(seed=9, scale=20.0), root / "start.pt")
    model = DeepPot(str(root / "start.pt"))
    for part, seed, natoms in (("train/a", 0, 8), ("train/b", 1, 6), ("valid/a", 2, 8)):
        path = root / "data" / part
        write_system(path, composition_frames(natoms, 6, seed, box_length=5.0))
        kinds = [int(kind) for kind in (path / "type.raw").read_text().split()]
        if part == "train/b":
            kinds = [0, 0, 0, 0, 1, 1]
            (path / "type.raw").write_text("\n".join(map(str, kinds)) + "\n")
        coord, box = (np.load(path / "set.000" / f"{name}.npy") for name in ("coord", "box"))
        energy, force, virial = model.eval(coord, box, kinds)
        energy = energy + sum(list(SHIFTS.values())[kind] for kind in kinds)
        for name, value in (("energy", energy), ("force", force), ("virial", virial)):
            np.save(path / "set.000" / f"{name}.npy", value.reshape(len(coord), -1))
    return root


def written(folder, tmp_path, *options):
    output = tmp_path / "tuned"
    arguments = ["finetune", str(folder / "start.pt"), str(folder / "data"), "-o", str(output)]
    assert main([*arguments, *options]) == 0
    return output


def tensors(path):
    return torch.load(path, weights_only=True)["model"]


def test_energies_of_the_new_level(folder, tmp_path, capsys):
    """Estimated from the differences to the foundation's energies: here exactly the shifts."""
    output = written(folder, tmp_path, "--dry-run")
    assert "least squares of the differences" in capsys.readouterr().out
    before, after = (
        tensors(path)["model.Default.out_bias"].flatten()
        for path in (folder / "start.pt", output / "start.pt")
    )
    np.testing.assert_allclose(after - before, list(SHIFTS.values()), atol=1e-9)
    assert not (output / "finetuned.pt").exists()


def test_data_in_a_database(folder, tmp_path):
    """The same energies, and perturbed frames, from an LMDB database."""
    data = [str(folder / "data" / part) for part in ("train", "valid")]
    assert main(["data", data[0], "--valid", data[1], "--layout", "lmdb", "-o", str(tmp_path / "data")]) == 0
    command = [
        "finetune",
        str(folder / "start.pt"),
        str(tmp_path / "data"),
        "-o",
        str(tmp_path / "x"),
        "--replay",
        "3",
    ]
    assert main([*command, "--dry-run"]) == 0
    content = json.loads((tmp_path / "x" / "input.json").read_text())
    assert content["training"]["data_dict"]["finetuned"]["training_data"]["systems"].endswith("train.lmdb")
    bias = tensors(tmp_path / "x" / "start.pt")["model.finetuned.out_bias"].flatten()
    order = load_checkpoint(tmp_path / "x" / "start.pt", "finetuned").type_map
    before = dict(
        zip(["O", "H"], tensors(folder / "start.pt")["model.Default.out_bias"].flatten(), strict=True)
    )
    for name, value in zip(order, bias, strict=True):
        assert abs(float(value - before[name]) - SHIFTS[name]) < 1e-9
    assert len(ase.io.read(tmp_path / "x" / "replay.xyz", ":")) == 3


def test_isolated_atoms_count_first(folder, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    (data / "e0.json").write_text(json.dumps({"O": -7.0, "H": -2.0}))
    assert (
        main(["finetune", str(folder / "start.pt"), str(data), "-o", str(tmp_path / "x"), "--dry-run"]) == 0
    )
    assert tensors(tmp_path / "x" / "start.pt")["model.Default.out_bias"].flatten().tolist() == [-7.0, -2.0]


def test_replayed_frames_have_the_foundations_labels(folder, tmp_path, capsys):
    output = written(folder, tmp_path, "--replay", "5", "--replay-weight", "0.25", "--dry-run")
    assert (
        "5 frames labelled by the foundation, 25% of the steps; the new data have 75%"
        in capsys.readouterr().out
    )
    model = DeepPot(str(folder / "start.pt"))
    frames = ase.io.read(output / "replay.xyz", ":")
    assert len(frames) == 5
    for atoms in frames:
        kinds = [["O", "H"].index(symbol) for symbol in atoms.get_chemical_symbols()]
        energy, force, virial = model.eval(
            atoms.positions.reshape(1, -1), np.array(atoms.cell).reshape(1, 9), kinds
        )
        np.testing.assert_allclose(atoms.info["REF_energy"], energy[0, 0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(atoms.arrays["REF_forces"], force[0], rtol=0, atol=1e-10)
        np.testing.assert_allclose(np.ravel(atoms.info["REF_virials"]), virial[0], rtol=0, atol=1e-10)
    content = json.loads((output / "input.json").read_text())
    assert content["training"]["model_prob"] == {"finetuned": 0.75, "replay": 0.25}
    start, foundation = tensors(output / "start.pt"), tensors(folder / "start.pt")
    bias = {name: start[f"model.{name}.out_bias"].flatten() for name in ("finetuned", "replay")}
    np.testing.assert_allclose(bias["finetuned"] - bias["replay"], list(SHIFTS.values()), atol=1e-9)
    for name, value in foundation.items():
        if name.endswith("weight"):
            for task in ("finetuned", "replay"):
                assert torch.equal(start[name.replace("Default", task)], value), name


def test_structures_of_a_file(folder, tmp_path, capsys):
    """Those with elements of the data; the same seed takes the same."""
    ase.io.write(
        tmp_path / "pool.xyz",
        [ase.Atoms("OH", [[0, 0, 0], [0, 0, d]]) for d in (0.9, 1.0, 1.1)]
        + [ase.Atoms("Cu2", [[0, 0, 0], [0, 0, 2]])],
    )
    output = written(
        folder, tmp_path, "--replay", "9", "--replay-from", str(tmp_path / "pool.xyz"), "--dry-run"
    )
    assert [len(atoms) for atoms in ase.io.read(output / "replay.xyz", ":")] == [2, 2, 2]
    ase.io.write(tmp_path / "copper.xyz", ase.Atoms("Cu2", [[0, 0, 0], [0, 0, 2]]))
    assert (
        main(
            [
                "finetune",
                str(folder / "start.pt"),
                str(folder / "data"),
                "-o",
                str(tmp_path / "x"),
                "--replay",
                "1",
                "--replay-from",
                str(tmp_path / "copper.xyz"),
            ]
        )
        == 1
    )
    assert "none of 1 frames has only elements of data and foundation, H O" in capsys.readouterr().err


def test_new_elements(folder, tmp_path, capsys):
    """They are told; the foundation labels structures of its own elements only."""
    data = tmp_path / "data"
    shutil.copytree(folder / "data", data)
    for path in data.rglob("type_map.raw"):
        path.write_text("O\nC\n")
    ase.io.write(
        tmp_path / "pool.xyz",
        [ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.2]]), ase.Atoms("OC", [[0, 0, 0], [0, 0, 1.2]])],
    )
    command = [
        "finetune",
        str(folder / "start.pt"),
        str(data),
        "-o",
        str(tmp_path / "x"),
        "--dry-run",
        "--replay",
        "3",
    ]
    assert main([*command, "--replay-from", str(tmp_path / "pool.xyz")]) == 0
    assert "new elements, whose weights start at random: C" in capsys.readouterr().out
    assert [atoms.get_chemical_formula() for atoms in ase.io.read(tmp_path / "x" / "replay.xyz", ":")] == [
        "O2"
    ]
    command[4] = str(tmp_path / "y")
    assert main(command) == 1
    assert "cannot label training frames. Give --replay-from with structures of O." in capsys.readouterr().err
    assert (
        main(["finetune", str(folder / "start.pt"), str(data), "-o", str(tmp_path / "z"), "--adapters", "2"])
        == 1
    )
    assert "weights of new elements start at random" in capsys.readouterr().err
    assert not (tmp_path / "z").exists()


def test_frozen_parts_of_both_tasks(folder, tmp_path):
    output = written(
        folder, tmp_path, "--replay", "2", "--freeze", "node_embedding", "interactions.0", "--dry-run"
    )
    model = json.loads((output / "input.json").read_text())["model"]
    assert model["shared_dict"]["network"]["freeze"] == ["node_embedding", "interactions.0"]


def done(output):
    """Steps of a training."""
    return tensors(output / "model.ckpt.pt")["_extra_state"]["train_infos"]["step"]


def change(output, key, value):
    """Change an input's section on training."""
    content = json.loads((output / "input.json").read_text())
    content["training"][key] = value
    (output / "input.json").write_text(json.dumps(content))


@pytest.mark.slow
def test_both_tasks_train_and_one_comes_out(folder, tmp_path, capfd):
    output = tmp_path / "tuned"
    arguments = ["finetune", str(folder / "start.pt"), str(folder / "data"), "-o", str(output)]
    options = ["--replay", "4", "--replay-weight", "0.5", "--steps", "6", "--rate", "0.01", "--patience", "3"]
    status = main([*arguments, *options])
    out, err = capfd.readouterr()
    assert status == 0, err[-2000:]
    # These data are the foundation's own, so that the first validation is the best one.
    assert "has not fallen for 3 validations, since step 1" in out
    assert "Note: of step 1 there is no checkpoint" in err
    assert "the training ends with step 4: the validation error of forces has not fallen" in err
    assert re.search(
        r"shared weights at the end: finetuned \d+% \(norm [\d.e-]+, 50% of the steps\), replay \d+%", err
    )
    assert done(output) == 4
    # Nothing is left to do.
    assert main(["finetune", "--restart", str(output)]) == 0
    assert done(output) == 4
    before, after = tensors(output / "start.pt"), tensors(output / "model.ckpt.pt")
    for task in ("finetuned", "replay"):
        name = f"model.{task}.fitting_net.readouts.0.linear.weight"
        assert not torch.equal(before[name], after[name]), task
    shared = "descriptor.interactions.0.linear_up.weight"
    assert torch.equal(after[f"model.finetuned.{shared}"], after[f"model.replay.{shared}"])
    assert not torch.equal(before[f"model.replay.{shared}"], after[f"model.replay.{shared}"])
    step, rows = best_checkpoint(output, "finetuned").step, np.loadtxt(output / "lcurve.out")
    assert rows[:, 5][rows[:, 0] == step] == rows[1:, 5].min()  # of the first step there is no checkpoint
    assert f"finetuned.pt: the model of step {step} of 4 (least validation error of forces, " in out
    best = tensors(output / f"model.ckpt-{step}.pt")
    DeepPot(str(output / "finetuned.pt"))
    assert "of the model section is not used" not in capfd.readouterr().err
    result = tensors(output / "finetuned.pt")
    assert not [name for name in result if ".replay." in name]
    for name, value in result.items():
        if torch.is_tensor(value) and not name.endswith("options"):  # they say the statistics that it has now
            assert torch.equal(value, best[name.replace("Default", "finetuned")]), name
    # It shall not end early: more steps to do than were done, and none left.
    change(output, fine_tuning.PATIENCE, 0)
    for _ in range(2):
        (output / "finetuned.pt").unlink()
        assert main(["finetune", "--restart", str(output)]) == 0
        assert done(output) == 6
        assert (output / "finetuned.pt").is_file()


@pytest.mark.slow
def test_adapters_of_a_native_model(folder, tmp_path):
    torch.save(native(), tmp_path / "x.model")
    arguments = ["finetune", str(tmp_path / "x.model"), str(folder / "data"), "-o", str(tmp_path / "y")]
    assert main([*arguments, "--adapters", "2", "--steps", "2"]) == 0
    assert any("adapters" in name for name in tensors(tmp_path / "y" / "model.ckpt.pt"))
    assert not any("adapters" in name for name in tensors(tmp_path / "y" / "finetuned.pt"))
    assert DeepPot(str(tmp_path / "y" / "finetuned.pt")).get_type_map() == ["O", "H"]


def test_every_option_is_on_the_page():
    parser = argparse.ArgumentParser()
    finetune.add_parsers(parser.add_subparsers())
    own = parser._subparsers._group_actions[0].choices["finetune"]
    page = (ROOT / "docs/fine_tuning.md").read_text()
    for action in own._actions:
        for option in action.option_strings:
            if option.startswith("--") and option not in ("--help", "--seed", "--output"):
                assert option in page, option


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "needs a FOUNDATION, a DATA folder and -o FOLDER"),
        (["start.pt", "data", "-o", "data"], "is there already"),
        (["start.pt", "data", "-o", "x", "--adapters", "2", "--replay", "3"], "--adapters cannot be combined with --replay"),
        (["start.pt", "data", "-o", "x", "--adapters", "2", "--freeze", "products"], "--adapters cannot be combined with --freeze"),
        (["start.pt", "data", "-o", "x", "--patience", "-1"], "--patience -1 must be a number of validations"),
        (["start.pt", "data", "-o", "x", "--replay-from", "a.xyz"], "say with --replay how many"),
        (["start.pt", "data", "-o", "x", "--replay", "3", "--replay-weight", "1"], "a share between 0 and 1"),
        (["--restart", "data"], "no model.ckpt.pt to go on from"),
    ],
)  # fmt: skip
def test_refused(options, words, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert main(["finetune", *options]) == 1
    assert words in capsys.readouterr().err
