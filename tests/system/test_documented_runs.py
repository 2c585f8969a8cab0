"""What pages show of molecular dynamics, of native models and of the examples is run, shortened."""

import json
import re
import shutil

import ase.io
import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from documented import ROOT, PageRun, copy_example
from lammps_runner import write_data
from native_models import native

from deepmd_gnn.datasets.export import export

pytestmark = [pytest.mark.slow, pytest.mark.lammps, pytest.mark.usefixtures("preloaded")]


def shortened_input(folder, training, **model):
    """Change the example's own input."""
    settings = json.loads((folder / "input.json").read_text())
    settings["model"].update(model)
    settings["training"].update(training)
    (folder / "input.json").write_text(json.dumps(settings))
    return settings


def test_molecular_dynamics(water):
    rules = {r"^run +\d+": "run 4", "out_freq 10": "out_freq 2", "-s data ": "-s data/data_3 "}
    PageRun(ROOT / "docs/molecular_dynamics.md", water, rules)()
    assert np.loadtxt(water / "deviation.txt").shape == (3, 7)
    assert np.loadtxt(water / "model_devi.out").reshape(-1, 8).shape[0] == 2
    flux = np.loadtxt(water / "flux.txt")
    assert np.abs(flux[:, 1:]).max() > 0


def test_lammps(water):
    """The whole input on one rank and on several, and its lines for other uses."""
    for new, old in (("a.pth", "mace.pth"), ("b.pth", "second.pth"), ("c.pth", "third.pth")):
        shutil.copy(water / old, water / new)
    rules = {r"^run +\d+": "run 2", "mpirun -n 4": "mpirun -n 2", "out_freq 10": "out_freq 1"}
    assert len(PageRun(ROOT / "docs/lammps.md", water, rules)()) == 2
    assert np.loadtxt(water / "model_devi.out").shape == (3, 7)


def test_other_programs(water):
    """i-PI, and a C program; both give the energy that Python gives."""
    positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    lines = [f"{name} {x} {y} {z}" for name, (x, y, z) in zip("OHH", positions, strict=True)]
    cell = "# CELL(abcABC): 30 30 30 90 90 90 cell{angstrom} positions{angstrom}"
    (water / "water.xyz").write_text("\n".join(["3", cell, *lines]) + "\n")
    # One socket per test run.
    socket = re.sub(r"\W", "", str(water))[-40:]
    rules = {
        "<total_steps>100<": "<total_steps>2<",
        "> 300 <": "> 1e-6 <",
        '"host": "water"': f'"host": "{socket}"',
        "<address>water<": f"<address>{socket}<",
        "ipi_water": f"ipi_{socket}",
    }
    outputs = PageRun(ROOT / "docs/other_programs.md", water, rules)()
    expected = DeepPot(str(water / "mace.pth")).eval(positions[None], None, [0, 1, 1])[0][0, 0]
    steps = np.loadtxt(water / "pimd.out")
    assert len(steps) == 3
    assert steps[0, 1] == pytest.approx(expected, abs=1e-5)
    (printed,) = (output for command, output in outputs.items() if "gcc" in command)
    lines = [line for line in printed.splitlines() if line.endswith(" eV")]
    assert float(lines[0].split()[0]) == pytest.approx(expected, abs=1e-6)


SCRIPT = """\
units metal
atom_style atomic
read_data data.lmp
pair_style deepmd mace.pth
pair_coeff * * H C O
fix 1 all nve
run 1
"""


def test_import(tmp_path):
    """The way of a native model to LAMMPS, to training, and back."""
    shutil.copy(ROOT / "tests/data/v0.3.6_mace02_com1_swa.model", tmp_path / "MACE.model")
    torch.save(native(heads=["omat_pbe", "mp_pbe"]), tmp_path / "MACE-MH.model")
    atoms = ase.io.read(ROOT / "tests/data/ref_structures.extxyz", 10)
    types = [["H", "C", "O"].index(symbol) for symbol in atoms.get_chemical_symbols()]
    write_data(tmp_path / "data.lmp", atoms.get_positions(wrap=True), types, atoms.cell.array, 3)
    (tmp_path / "in.lammps").write_text(SCRIPT)
    data = copy_example("acac", tmp_path) / "data" / "train_300K"

    def set_data(folder):
        settings = json.loads((folder / "mace.json").read_text())
        settings["training"].update(
            training_data={"systems": [str(data)], "batch_size": 1}, numb_steps=1, save_freq=1
        )
        (folder / "mace.json").write_text(json.dumps(settings))

    def write_one(folder):
        settings = json.loads((folder / "mace.json").read_text())
        (folder / "one.json").write_text(
            json.dumps(settings | {"model": {"type": "mace", "type_map": ["H", "C", "O"]}})
        )

    def set_data_of_heads(folder):
        settings = json.loads((folder / "heads.json").read_text())
        for task in settings["training"]["data_dict"].values():
            task["training_data"].update(systems=[str(data)], batch_size=1)
        settings["training"].update(numb_steps=1, save_freq=1)
        (folder / "heads.json").write_text(json.dumps(settings))

    run = PageRun(
        ROOT / "docs/import.md",
        tmp_path,
        {"mpirun -n 4": "mpirun -n 2"},
        before={
            "dp --pt train mace.json": set_data,
            "dp --pt train one.json": write_one,
            "dp --pt train heads.json": set_data_of_heads,
        },
        script=SCRIPT,
    )
    assert len(run()) == 11
    frozen = DeepPot(str(tmp_path / "water.pth"))
    assert frozen.get_type_map() == ["O", "H"]
    for name in ("x.model", "water.model"):
        assert (tmp_path / name).exists()


# --- examples ----------------------------------------------------------------------------------------------------


def test_fine_tuning_in_one_command(tmp_path):
    torch.save(native(), tmp_path / "foundation.model")
    export([copy_example("acac", tmp_path, 6) / "data" / "train_300K"], tmp_path / "frames.xyz")
    rules = {"--replay 200": "--replay 4 --steps 2", "--adapters 4$": "--adapters 2 --steps 1"}
    freeze = "dp --pt-expt freeze -c tuned/finetuned.pt"
    PageRun(ROOT / "docs/fine_tuning.md", tmp_path, rules, skip=[freeze])()
    assert DeepPot(str(tmp_path / "tuned" / "finetuned.pt")).get_type_map()
    # One step: the model is that of the only checkpoint, whichever way it is made.
    first, second = (
        torch.load(tmp_path / name, weights_only=True)["model"]
        for name in ("model.pt", "narrow/finetuned.pt")
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items() if torch.is_tensor(value))


def test_fine_tuning(tmp_path):
    for name in ("acac", "fine_tuning"):
        copy_example(name, tmp_path)
    shutil.copytree(ROOT / "tests" / "data", tmp_path / "tests" / "data")
    rules = {
        r'\["numb_steps"\] = \d+': '["numb_steps"] = 2',
        "-n 650": "-n 2",
        r"check mace.pth": "check mace.pth --ranks 0",
    }
    PageRun(ROOT / "examples/fine_tuning/README.md", tmp_path / "examples" / "fine_tuning", rules)()


def test_acac(tmp_path):
    folder = copy_example("acac", tmp_path)
    settings = shortened_input(folder, {"numb_steps": 4, "disp_freq": 2, "save_freq": 4})
    settings["validating"]["validation_freq"] = 2
    (folder / "input.json").write_text(json.dumps(settings))
    PageRun(ROOT / "examples/acac/README.md", folder, {"-n 650": "-n 2"})()
    assert {path.name for path in folder.glob("best_ema.ckpt*")}
    assert re.search(r"Force\s+RMSE\s*: \d", (folder / "dp.log").read_text())


def test_molybdenum(tmp_path):
    folder = copy_example("molybdenum", tmp_path)
    shortened_input(
        folder,
        {"numb_steps": 2, "disp_freq": 1, "save_freq": 2},
        hidden_irreps="2x0e + 2x1o",
        r_max=3.5,
        correlation=2,
    )
    outputs = PageRun(ROOT / "examples/molybdenum/README.md", folder, {"-n 23": "-n 2"})()
    lines = outputs["python elastic.py mace.pth"].splitlines()
    assert [line.split()[0] for line in lines[-4:]] == ["a", "C11", "C12", "C44"]
    assert "rmse_v" in (folder / "lcurve.out").read_text().splitlines()[0]


def test_water(tmp_path, model_files):
    """Training to radial distribution functions, which show the O–H bond whatever the model does in two femtoseconds."""
    folder = copy_example("water", tmp_path)
    shortened_input(folder, {"numb_steps": 2, "disp_freq": 1, "save_freq": 2}, num_channels=2, r_max=3.0)
    steps = "-var equilibrate 2 -var steps 4"
    rules = {
        "-n 80": "-n 2",
        "in.lammps$": f"in.lammps {steps}",
        "in.rdf$": f"in.rdf {steps} -var every 2",
    }
    frozen = model_files(".pt2")["one_layer"]
    assert len(PageRun(ROOT / "examples/water/README.md", folder, rules, frozen=frozen)()) == 6
    table = np.loadtxt(folder / "rdf.txt")
    assert 0.9 < table[np.argmax(table[:, 2]), 0] < 1.1


def test_heat_flux(water):
    folder = copy_example("heat_flux", water.parents[1])
    rules = {
        "in.lammps$": "in.lammps -var model ../water/mace.pth -var equilibrate 2 -var steps 20 -var every 2"
    }
    outputs = PageRun(ROOT / "examples/heat_flux/README.md", folder, rules)()
    assert "W/(m K)" in outputs["python green_kubo.py flux.txt"]
    assert np.loadtxt(folder / "flux.txt").shape == (11, 6)
    assert (folder / "conductivity.png").exists()


def test_data(tmp_path):
    """From extended XYZ to parity plot and two ranks; the file that the page takes for granted is made of an example's data."""
    export([ROOT / "examples/acac/data/valid_300K"], tmp_path / "train.xyz")
    quick = "--size small --set training.numb_steps=2 --set model.num_channels=2 --set model.max_ell=1 --set model.correlation=1"
    rules = {
        r"init data -o input.json$": f"init data -o input.json {quick}",
        # Compiling takes a minute; test_model_files in test_documented.py does it.
        r"mace\.pt2": "mace.pth",
        r"(lammps data/valid .*)": r"\1 --steps 2",
        r"max_num_epochs: 40": "max_num_epochs: 1",
    }
    run = PageRun(ROOT / "docs/data.md", tmp_path, rules)
    assert len(run()) == 10
    assert (tmp_path / "md/final.data").exists()
    assert json.loads((tmp_path / "native.json").read_text())["training"]["numb_steps"] == 9


def test_nequip(tmp_path):
    """Models of the package; weights, stored with the options they belong to; what does not fit would be named."""
    files = ROOT / "tests/data/nequip/files"
    shutil.copytree(files / "trained", tmp_path / "results/water")
    shutil.copy(files / "deployed.pth", tmp_path / "water_deployed.pth")
    with np.load(ROOT / "tests/data/nequip/reference.npz") as file:
        options, prefix = json.loads(str(file["default/options"])), "default/weights/"
        weights = {
            k.removeprefix(prefix): torch.as_tensor(v) for k, v in file.items() if k.startswith(prefix)
        }
    torch.save(weights, tmp_path / "best_model.pth")
    rules = {r"NequipModel\(.*\)": f'NequipModel(["O", "H"], **{options!r})'}
    assert len(PageRun(ROOT / "docs/nequip.md", tmp_path, rules)()) == 3
    assert json.loads((tmp_path / "nequip.json").read_text())["model"]["type"] == "nequip"
    assert (tmp_path / "nequip.pth").exists()
