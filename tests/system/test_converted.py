"""A converted native model does what a model of DeePMD-kit does: ASE, training, freezing, LAMMPS on ranks."""

import json
import platform
import re
import subprocess
import zipfile
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from deepmd.calculator import DP
from deepmd.infer import DeepPot
from deepmd_run import run_dp
from helpers import assert_close, our_results, random_frame, tiny_model
from lammps_cases import STRONG
from lammps_runner import NKTV2P, PRESSURE_ORDER, run_lammps, write_data
from tolerances import IMPORTED, NATIVE
from training_data import composition_frames, write_system

from deepmd_gnn import convert
from deepmd_gnn.cli import main
from deepmd_gnn.files.summary import summarise
from deepmd_gnn.native.conversion import save_checkpoint

pytestmark = pytest.mark.usefixtures("preloaded")

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
{style}
compute press all pressure NULL virial
thermo_style custom step pe c_press[1] c_press[2] c_press[3] c_press[4] c_press[5] c_press[6] vol
thermo_modify format float %.17g
dump 1 all custom 1 dump.txt id fx fy fz
dump_modify 1 format float %.17g sort id
run 0
"""


def in_lammps(folder, style, ranks, grid):
    """Energy, forces, stress (xx yy zz xy xz yz) and volume of the periodic reference structure."""
    folder.mkdir(exist_ok=True)
    atoms, _ = reference(10)
    types = [["H", "C", "O"].index(symbol) for symbol in atoms.get_chemical_symbols()]
    write_data(folder / "data.lmp", atoms.get_positions(wrap=True), types, atoms.cell.array, 3)
    run = run_lammps(folder, SCRIPT.format(grid=grid, style=style), ranks).check()
    lines = (folder / "log.lammps").read_text().splitlines()
    header = next(k for k, line in enumerate(lines) if line.split()[:1] == ["Step"])
    _, energy, *pressure, volume = map(float, lines[header + 1].split())
    table = np.loadtxt((folder / "dump.txt").read_text().splitlines()[9:])
    assert len(table) == len(atoms), run.output
    return energy, table[:, 1:], -np.array(pressure) / NKTV2P, volume


@pytest.mark.lammps
@pytest.mark.parametrize(("ranks", "grid"), [(1, "* * *"), (2, "2 1 1")])
def test_lammps(ranks, grid, files, tmp_path):
    """The periodic reference structure on one and two ranks: MACECalculator's numbers."""
    atoms, expected = reference(10)
    style = f"pair_style deepmd {files / 'x.pth'}\npair_coeff * * H C O"
    energy, force, stress, volume = in_lammps(tmp_path, style, ranks, grid)
    assert abs(energy - expected["energy"]) <= IMPORTED["energy"]
    assert np.abs(force - expected["forces"]).max() <= IMPORTED["force"]
    assert np.abs(stress - expected["stress"].reshape(9)[PRESSURE_ORDER]).max() <= IMPORTED["stress"]
    assert volume == pytest.approx(atoms.get_volume(), rel=1e-12)


@pytest.mark.lammps
def test_lammps_with_dispersion(files, tmp_path):
    """The lines of the documentation: MACECalculator's numbers and those of D3 alone, added."""
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text()
    style = re.search(r"pair_style hybrid/overlay.*?(?=\n```)", page, re.DOTALL).group()
    arguments = re.search(r"dispersion/d3 [\d\w. ]*", style).group()
    alone = in_lammps(tmp_path / "d3", f"pair_style {arguments}\npair_coeff * * H C O", 1, "* * *")
    assert alone[0] < -0.1
    _, expected = reference(10)
    native = expected["energy"], expected["forces"], expected["stress"].reshape(9)[PRESSURE_ORDER]
    for ranks, grid in ((1, "* * *"), (2, "2 1 1")):
        both = in_lammps(tmp_path / str(ranks), style.replace("mace.pth", str(files / "x.pth")), ranks, grid)
        for key, value, first, second in zip(
            ("energy", "force", "stress"), both, native, alone, strict=False
        ):
            assert np.abs(value - first - second).max() <= IMPORTED[key], (key, ranks)


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
def test_finetune_with_other_elements(files, training, tmp_path):
    """One new, one missing, all reordered: the network and its statistics stay, E0 fits the new data."""
    elements = ["O", "N", "H"]
    config = json.loads(json.dumps(training))
    config["model"]["type_map"] = elements
    config["learning_rate"] |= {"start_lr": 1e-12, "stop_lr": 1e-13}
    run_dp(tmp_path, "train", config, "--finetune", str(files / "x.pt"))
    before, after = weights(files / "x.pt"), weights(tmp_path / "model.ckpt.pt")
    for name in ("descriptor.avg_num_neighbors", "fitting_net.scale"):
        key = f"model.Default.{name}"
        assert torch.equal(after[key], before[key])
    folder = Path(config["training"]["training_data"]["systems"][0])
    coord, cell, energy = (np.load(folder / "set.000" / f"{key}.npy") for key in ("coord", "box", "energy"))
    symbols = ["OH"[int(kind)] for kind in (folder / "type.raw").read_text().split()]
    results = []
    for path, known in ((files / "x.pt", ["H", "C", "O"]), (tmp_path / "model.ckpt.pt", elements)):
        model = DeepPot(str(path))
        assert model.get_type_map() == known
        results.append(model.eval(coord, cell, [known.index(symbol) for symbol in symbols]))
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=0, atol=1e-8)
    errors = [(result[0] - energy.reshape(-1, 1)).mean() for result in results]
    assert abs(errors[0]) > 1.0  # another reference of the energy
    assert abs(errors[1]) < 1e-6


@pytest.mark.slow
def test_freeze(files, tmp_path):
    run_dp(tmp_path, "freeze", None, "-c", str(files / "x.pt"), "-o", "y.pth")
    atoms, expected = reference(0)
    atoms.calc = DP(str(tmp_path / "y.pth"))
    assert np.abs(atoms.get_forces() - expected["forces"]).max() <= IMPORTED["force"]


def described(path, kernels, layers=2):
    """What a compiled file says of itself."""
    summary = summarise(path)
    assert (summary["kernels"] is not None) == kernels
    # Either compares LAMMPS' list with what it should hold.
    assert b"mace_checked_input" in path.read_bytes()
    assert [table["nodes"] >= 128 for table in summary["radial_tables"]] == [True] * layers


def assert_for_any_cpu(path):
    """Neither kernels nor TorchInductor's part of a file touch registers wider than those that every x86-64 CPU has."""
    with zipfile.ZipFile(path) as archive:
        (program,) = (name for name in archive.namelist() if name.endswith(".so"))
        library = path.with_suffix(".so")
        library.write_bytes(archive.read(program))
    code = subprocess.run(["objdump", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "%xmm" in code or platform.machine() != "x86_64"
    assert not re.search(r"%[yz]mm", code)
    assert summarise(path)["compiled_for"]["cpu_isa"] in ("INVALID_VEC_ISA", "ASIMD")


@pytest.mark.slow
def test_exportable_backend(tmp_path):
    convert(SOURCE, tmp_path / "x.pt2", cpu="generic")
    described(tmp_path / "x.pt2", kernels=True)
    assert_for_any_cpu(tmp_path / "x.pt2")
    for index in (0, 10):
        atoms, expected = reference(index)
        atoms.calc = DP(str(tmp_path / "x.pt2"))
        assert abs(atoms.get_potential_energy() - expected["energy"]) <= IMPORTED["energy"]
        assert np.abs(atoms.get_forces() - expected["forces"]).max() <= IMPORTED["force"]


@pytest.mark.slow
def test_without_kernels(tmp_path):
    """With radial tables only; of a small model, because TorchInductor takes minutes for the code of a larger one."""
    model = tiny_model(max_L=0, max_ell=1, correlation=1, num_interactions=1, **STRONG)
    save_checkpoint(model, tmp_path / "x.pt")
    assert (
        main(
            [
                "freeze",
                str(tmp_path / "x.pt"),
                "-o",
                str(tmp_path / "x.pt2"),
                "--no-kernels",
                "--cpu",
                "generic",
            ]
        )
        == 0
    )
    described(tmp_path / "x.pt2", kernels=False, layers=1)
    assert_for_any_cpu(tmp_path / "x.pt2")
    coord, atype, cell = random_frame(17, 6.5)
    expected = our_results(model, coord, atype, cell)
    energy, force, virial = DeepPot(str(tmp_path / "x.pt2")).eval(coord[None], cell[None], atype)
    for key, value in (("energy", energy[0]), ("force", force[0]), ("virial", virial[0])):
        assert_close(value, expected[key], NATIVE["float64"], key)


@pytest.mark.parametrize("option", ["--no-kernels", "--no-tables"])
def test_only_a_compiled_file_has_kernels(option, files, tmp_path, capsys):
    assert main(["freeze", str(files / "x.pt"), "-o", str(tmp_path / "x.pth"), option]) == 1
    assert f"{option} is for a .pt2" in capsys.readouterr().err


def test_input_is_not_overwritten(tmp_path):
    (tmp_path / "x.json").write_text("mine")
    convert(SOURCE, tmp_path / "x.pt")
    assert (tmp_path / "x.json").read_text() == "mine"
