"""A converted native model does what a model of DeePMD-kit does: ASE, training, freezing, LAMMPS on ranks."""

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from deepmd.calculator import DP
from deepmd_run import run_dp
from lammps_runner import NKTV2P, PRESSURE_ORDER, run_lammps, write_data
from tolerances import IMPORTED
from training_data import composition_frames, write_system

from deepmd_gnn import convert

DATA = Path(__file__).parents[1] / "data"
SOURCE = DATA / "v0.3.6_mace02_com1_swa.model"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    for suffix in ("pt", "pth"):
        convert(SOURCE, folder / f"x.{suffix}")
    return folder


def reference(index):
    atoms = ase.io.read(DATA / "ref_structures.extxyz", index)
    data = np.load(DATA / "v0.3.6_mace02_com1_swa.ref.npz")
    return atoms, {
        key: data[f"{index}/{key}"] for key in ("energy", "forces", "stress") if f"{index}/{key}" in data
    }


@pytest.mark.parametrize("suffix", ["pt", "pth"])
@pytest.mark.parametrize("index", [0, 10])
def test_ase(suffix, index, files):
    atoms, expected = reference(index)
    atoms.calc = DP(str(files / f"x.{suffix}"))
    assert abs(atoms.get_potential_energy() - expected["energy"]) <= IMPORTED["energy"]
    assert np.abs(atoms.get_forces() - expected["forces"]).max() <= IMPORTED["force"]
    if "stress" in expected:
        difference = atoms.get_stress(voigt=False) - expected["stress"].reshape(3, 3)
        assert np.abs(difference).max() <= IMPORTED["stress"]


SCRIPT = """
units metal
atom_style atomic
newton on
processors {grid}
read_data data.lmp
pair_style deepmd {model}
pair_coeff * * H C O
compute press all pressure NULL virial
thermo_style custom step pe c_press[1] c_press[2] c_press[3] c_press[4] c_press[5] c_press[6] vol
thermo_modify format float %.17g
dump 1 all custom 1 dump.txt id fx fy fz
dump_modify 1 format float %.17g sort id
run 0
"""


@pytest.mark.lammps
@pytest.mark.parametrize(("ranks", "grid"), [(1, "* * *"), (2, "2 1 1")])
def test_lammps(ranks, grid, files, tmp_path):
    """The periodic reference structure on one and two ranks: MACECalculator's numbers."""
    atoms, expected = reference(10)
    types = [["H", "C", "O"].index(symbol) for symbol in atoms.get_chemical_symbols()]
    write_data(tmp_path / "data.lmp", atoms.get_positions(wrap=True), types, atoms.cell.array, 3)
    run = run_lammps(tmp_path, SCRIPT.format(grid=grid, model=files / "x.pth"), ranks).check()
    lines = (tmp_path / "log.lammps").read_text().splitlines()
    header = next(k for k, line in enumerate(lines) if line.split()[:1] == ["Step"])
    _, energy, *pressure, volume = map(float, lines[header + 1].split())
    table = np.loadtxt((tmp_path / "dump.txt").read_text().splitlines()[9:])
    assert len(table) == len(atoms), run.output
    assert abs(energy - expected["energy"]) <= IMPORTED["energy"]
    assert np.abs(table[:, 1:] - expected["forces"]).max() <= IMPORTED["force"]
    stress = -np.array(pressure) / NKTV2P
    assert np.abs(stress - expected["stress"].reshape(9)[PRESSURE_ORDER]).max() <= IMPORTED["stress"]
    assert volume == pytest.approx(atoms.get_volume(), rel=1e-12)


@pytest.fixture(scope="module")
def training(files, tmp_path_factory):
    """The input that convert wrote, with data of two of the model's elements."""
    data = write_system(tmp_path_factory.mktemp("data") / "a", composition_frames(8, 4, 0, box_length=5.0))
    config = json.loads((files / "x.json").read_text())
    config["training"] |= {
        "training_data": {"systems": [data], "batch_size": 1},
        "numb_steps": 1,
        "save_freq": 1,
        "seed": 1,
    }
    return config


def weights(path):
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["--finetune", "--init-model"])
def test_training_goes_on(how, files, training, tmp_path):
    """One step moves the weights by about the learning rate: it starts from the converted ones."""
    run_dp(tmp_path, "train", training, how, str(files / "x.pt"))
    before, after = weights(files / "x.pt"), weights(tmp_path / "model.ckpt.pt")
    assert set(before) == set(after)
    moved = False
    for name, value in before.items():
        if (".descriptor." in name or ".fitting_net." in name) and value.is_floating_point():
            assert (after[name] - value).abs().max() < 1e-3, name
            moved = moved or not torch.equal(after[name], value)
    assert moved
    same_energies = torch.equal(after["model.Default.out_bias"], before["model.Default.out_bias"])
    assert same_energies == (how == "--init-model")


@pytest.mark.slow
def test_freeze(files, tmp_path):
    run_dp(tmp_path, "freeze", None, "-c", str(files / "x.pt"), "-o", "y.pth")
    atoms, expected = reference(0)
    atoms.calc = DP(str(tmp_path / "y.pth"))
    assert np.abs(atoms.get_forces() - expected["forces"]).max() <= IMPORTED["force"]


@pytest.mark.slow
def test_exportable_backend(tmp_path):
    convert(SOURCE, tmp_path / "x.pt2")
    for index in (0, 10):
        atoms, expected = reference(index)
        atoms.calc = DP(str(tmp_path / "x.pt2"))
        assert abs(atoms.get_potential_energy() - expected["energy"]) <= IMPORTED["energy"]
        assert np.abs(atoms.get_forces() - expected["forces"]).max() <= IMPORTED["force"]


def test_input_is_not_overwritten(tmp_path):
    (tmp_path / "x.json").write_text("mine")
    convert(SOURCE, tmp_path / "x.pt")
    assert (tmp_path / "x.json").read_text() == "mine"
