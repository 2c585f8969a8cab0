"""`data`, `init`, `lammps` and `evaluate` as typed: from extended XYZ to an input, a folder for LAMMPS, and errors."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from deepmd.common import j_loader
from deepmd.utils.argcheck import normalize
from helpers import tiny_model
from lammps_cases import freeze
from shared_files import once

import deepmd_gnn.commands.data
import deepmd_gnn.commands.evaluate
import deepmd_gnn.commands.init
import deepmd_gnn.commands.lammps  # noqa: F401 - the rule of tests/system/test_tests.py
from deepmd_gnn.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Commands run where the files are."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = []
    for k in range(12):
        atoms = Atoms(
            "OHHOHH",
            positions=rng.normal(0, 0.05, (6, 3))
            + [[0, 0, 0], [1, 0, 0], [0, 1, 0], [2.5, 0, 2], [3.5, 0, 2], [2.5, 1, 2]],
        )
        atoms.set_cell([7, 7, 7])
        atoms.pbc = True
        atoms.info = {
            "REF_energy": rng.normal(),
            "config_type": "ab"[k % 2],
            "REF_stress": rng.normal(size=6) * 0.01,
        }
        atoms.arrays["REF_forces"] = rng.normal(size=(6, 3))
        images.append(atoms)
    images.append(Atoms("O", info={"REF_energy": -5.0, "config_type": "IsolatedAtom"}))
    ase.io.write("train.xyz", images)
    return tmp_path


@pytest.fixture(scope="module")
def model(shared_folder):
    """A frozen model of H and O."""

    def make(path):
        freeze(tiny_model(type_map=["H", "O"], atomic_energies={"H": -1.25, "O": -5.0}), path)

    return once(shared_folder / "data_commands.pth", make)


def run(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_from_xyz_to_an_input_and_back(capsys, folder):
    out = run(capsys, "data", "train.xyz", "-o", "data")
    assert "data/train/H4O2: 11 frames of 6 atoms; energy, force, virial" in out
    assert "data/valid/H4O2: 1 frames" in out
    assert "data/e0.json: isolated atoms, not among the training data: O -5.000000 eV" in out
    assert out.endswith("Next: deepmd-gnn init data -o input.json\n")
    out = run(
        capsys,
        "init",
        "data",
        "-o",
        "input.json",
        "--set",
        "training.numb_steps=7",
        "--set",
        "model.num_channels=4",
    )
    assert out.endswith("Next: dp --pt train input.json\n")
    settings = normalize(j_loader("input.json"))
    assert settings["model"]["atomic_energies"] == "data/e0.json"
    assert settings["training"]["numb_steps"] == settings["training"]["save_freq"] == 7
    assert run(capsys, "data", "data", "-o", "back.xyz") == "back.xyz: 12 frames\n"
    report = json.loads(
        run(capsys, "data", "back.xyz", "-o", "again", "--valid-fraction", 0, "--layout", "lmdb", "--json")
    )
    assert report["labels"] == {"energy: REF_energy": 12, "forces: REF_forces": 12, "stress: REF_stress": 12}
    assert "virials" not in (folder / "back.xyz").read_text()


def test_init_like_a_call_makes_the_data(capsys):
    with open("run.yaml", "w") as file:
        file.write(
            "train_file: train.xyz\nvalid_fraction: 0.25\nmax_num_epochs: 4\nbatch_size: 3\nr_max: 4.0\nloss: universal\n"
        )
    out = run(capsys, "init", "new", "-o", "input.yaml", "--like", "run.yaml")
    assert "new/valid/H4O2: 3 frames" in out
    assert "--r_max=4.0: translated → model.r_max (the same)" in out
    assert "--loss=universal: replaced → loss" in out
    settings = normalize(j_loader("input.yaml"))
    assert settings["training"]["numb_steps"] == 4 * 3
    assert settings["model"]["r_max"] == 4.0


def test_init_from_a_foundation_model(capsys, model):
    """The file is converted, and the input has its architecture."""
    source = "/".join(__file__.split("/")[:-2]) + "/data/v0.3.6_mace02_com1_swa.model"
    own = Path("v0.3.6_mace02_com1_swa_start.json")
    own.write_text("mine")
    out = run(
        capsys,
        "init",
        "new",
        "-o",
        "input.json",
        "--like",
        f"mace_run_train --train_file=train.xyz --foundation_model={source} --E0s=average",
    )
    start = "v0.3.6_mace02_com1_swa_start.pt"
    assert out.endswith(f"Next: dp --pt train input.json --finetune {start}\n")
    assert own.read_text() == "mine"
    settings = normalize(j_loader("input.json"))
    assert settings["model"]["hidden_irreps"] == "16x0e"
    assert settings["model"]["type_map"] == ["H", "O"]
    err = run(
        capsys, "init", "new", "-o", "b.json", "--like", "mace_run_train --foundation_model=tiny", code=1
    )
    assert "--foundation_model tiny: no such file, and mace-torch knows no such model" in err


def test_time_budget(capsys):
    run(capsys, "data", "train.xyz", "-o", "data")
    out = run(capsys, "init", "data", "--size", "small", "--time", "30s", "--set", "model.num_channels=2")
    assert "30s at " in out
    assert "s per step, measured here" in out
    assert normalize(j_loader("input.json"))["training"]["numb_steps"] >= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "train.xyz", "-o", "train.xyz"], "train.xyz: is there already"),
        (["data", "nothing.xyz", "-o", "data"], "nothing.xyz: no such file"),
        (["data", "train.xyz", "-o", "data", "--valid-fraction", "2"], "--valid-fraction 2 must be"),
        (["data", "train.xyz", "-o", "data", "--energy-key", "E", "--forces-key", "F", "--stress-key", "S"], "no frame has a label"),
        (["init", "nothing"], "nothing: no such folder"),
        (["init", "nothing", "-o", "train.xyz"], "train.xyz: is there already"),
        (["init", "nothing", "-o", "a.txt"], "must end in .json or .yaml"),
        (["init", "nothing", "--like", "mace_run_train --r_max=4"], "names no train_file"),
        (["init", "nothing", "--e0", "x.json"], "--e0 x.json: no such file"),
        (["lammps", "train.xyz", "nothing.pth", "-o", "md"], "no such file"),
        (["lammps", "train.xyz", "nothing.pth", "-o", "md", "--steps", "0"], "--steps 0 must be above 0"),
        (["lammps", "train.xyz", "nothing.pth", "-o", "md", "--relax-cell"], "belongs to --run minimize"),
        (["evaluate", "nothing.pth", "train.xyz", "-o", "out.xyz"], "no such file"),
        (["evaluate", "nothing.pth", "train.xyz", "-o", "train.xyz"], "is there already"),
        (["evaluate", "nothing.pth", "nothing.xyz", "-o", "out.xyz"], "nothing.xyz: no such file"),
    ],
)  # fmt: skip
def test_bad_input(arguments, words, capsys):
    assert words in run(capsys, *arguments, code=1)


def test_lammps_folder(model, capsys, folder):
    out = run(capsys, "lammps", "train.xyz", model, "-o", "md", "--frame", 3, "--replicate", 1, 1, 2)
    assert "md: 12 atoms, types H O" in out
    assert sorted(path.name for path in (folder / "md").iterdir()) == [
        "data_commands.pth",
        "in.lammps",
        "structure.data",
    ]
    assert "is there already" in run(capsys, "lammps", "train.xyz", model, "-o", "md", code=1)


def test_evaluate(model, capsys):
    """Errors are those of what is written, energies and forces those of the model, and the plot takes the file."""
    answer = json.loads(
        run(
            capsys,
            "evaluate",
            model,
            "train.xyz",
            "-o",
            "out.xyz",
            "--json",
            "--batch-size",
            5,
            "--node-energies",
            "--descriptors",
            "invariant",
        )
    )
    images = ase.io.read("out.xyz", ":")
    assert answer["frames"] == len(images) == 13
    errors = np.concatenate(
        [(a.arrays["MACE_forces"] - a.arrays["REF_forces"])[a.numbers == 8] for a in images[:12]]
    )
    assert answer["errors"]["element"]["O"]["forces"]["rmse"] == pytest.approx(
        np.sqrt(np.mean(errors**2)), rel=1e-6
    )
    assert set(answer["errors"]["system"]) == {"a", "b", "IsolatedAtom"}
    stress = np.concatenate(
        [(a.info["MACE_stress"][[0, 4, 8, 5, 2, 1]] - a.info["REF_stress"]) for a in images[:12]]
    )
    full = stress.reshape(-1, 6) ** 2 @ [1, 1, 1, 2, 2, 2] / 9
    assert answer["errors"]["all"]["stress"]["rmse"] == pytest.approx(np.sqrt(full.mean()), rel=1e-6)
    for atoms in images:
        assert atoms.arrays["MACE_node_energies"].sum() == pytest.approx(atoms.info["MACE_energy"])
        assert atoms.arrays["MACE_descriptors"].shape == (len(atoms), 8)
    for by in ("system", "element"):
        run(capsys, "plot", "parity", "out.xyz", "--by", by, "-o", f"{by}.png")
    out = run(
        capsys,
        "evaluate",
        model,
        "train.xyz",
        "-o",
        "two.xyz",
        "--committee",
        model,
        "--descriptors",
        "all",
        "--aggregate",
        "per_element_mean",
    )
    assert "IsolatedAtom" in out
    last = ase.io.read("two.xyz", 0)
    assert last.info["MACE_energy_std"] == last.info["MACE_max_forces_std"] == 0.0
    assert set(last.info["MACE_descriptors"]) == {"H", "O"}
    ase.io.write("c.xyz", Atoms("C"))
    assert "has atoms of C, but the model knows only H, O" in run(
        capsys, "evaluate", model, "c.xyz", "-o", "d.xyz", code=1
    )
