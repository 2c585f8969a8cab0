"""The workflows of the examples, shortened, and their scripts on inputs with a known answer."""

import argparse
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from deepmd.infer import DeepPot
from deepmd.main import main as dp
from deepmd_run import working_directory
from documented import blocks
from helpers import random_frame, tiny_model
from lammps_cases import STRONG, freeze

from deepmd_gnn import uncertainty
from deepmd_gnn.cli import main as deepmd_gnn

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def script(name):
    """Functions of a script."""
    return runpy.run_path(str(EXAMPLES / name), run_name="example")


def run(folder, *command):
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


# --- radial distribution functions -------------------------------------------------------------------------------


def write_dump(path, types, frames, length):
    with path.open("w") as file:
        for step, coord in enumerate(frames):
            file.write(
                f"ITEM: TIMESTEP\n{step}\nITEM: NUMBER OF ATOMS\n{len(types)}\nITEM: BOX BOUNDS pp pp pp\n"
            )
            file.write(f"0 {length}\n" * 3 + "ITEM: ATOMS id type x y z\n")
            for index, (kind, position) in enumerate(zip(types, coord, strict=True)):
                file.write(f"{index + 1} {kind} " + " ".join(map(str, position)) + "\n")


def test_rdf_of_an_ideal_gas_is_one(tmp_path):
    rng = np.random.default_rng(0)
    types = np.repeat([1, 2], [100, 200])
    write_dump(tmp_path / "gas", types, rng.uniform(0, 12, (20, 300, 3)), 12)
    distribution = script("water/rdf.py")["distribution"]
    for pair in ((1, 1), (1, 2), (2, 2)):
        assert distribution(tmp_path / "gas", pair, np.linspace(2, 6, 5)) == pytest.approx(1, abs=0.03)


def test_rdf_of_a_lattice_counts_neighbours(tmp_path):
    points = np.array(list(np.ndindex(4, 4, 4)), dtype=float) * 3.0
    write_dump(tmp_path / "lattice", np.ones(64, int), [points], 12)
    edges = np.array([2.9, 3.1, 4.1, 4.4])
    found = script("water/rdf.py")["distribution"](tmp_path / "lattice", (1, 1), edges)
    shells = 4 / 3 * np.pi * np.diff(edges**3) * 63 / 12**3
    assert found * shells == pytest.approx([6, 0, 12])


# --- elastic constants -------------------------------------------------------------------------------------------


def test_elastic_constants_are_second_derivatives_of_the_energy():
    from ase.calculators.emt import EMT
    from ase.units import GPa

    functions = script("molybdenum/elastic.py")
    atoms = functions["relaxed"](EMT(), "Cu", "fcc", 3.7)
    assert np.abs(atoms.get_stress()).max() < 1e-5
    found = functions["stiffness"](atoms, 1e-3)

    def energy(strain):
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
        return moved.get_potential_energy()

    h = 2e-3
    uniaxial, shear = np.diag([h, 0, 0]), 0.5 * h * (np.eye(3)[[1, 0, 2]] - np.diag([0, 0, 1]))
    for strain, value in ((uniaxial, found[0, 0]), (shear, found[5, 5])):
        expected = (energy(strain) - 2 * energy(0 * strain) + energy(-strain)) / h**2 / atoms.get_volume()
        assert value == pytest.approx(expected / GPa, rel=2e-3)


# --- heat flux ---------------------------------------------------------------------------------------------------


def test_green_kubo_of_a_known_process():
    """A flux that forgets exponentially: κ = σ² τ / (V k T²)."""
    functions = script("heat_flux/green_kubo.py")
    rng = np.random.default_rng(1)
    spacing, tau, sigma = 0.01, 0.1, 3.0
    keep = np.exp(-spacing / tau)
    noise = rng.normal(0, sigma * np.sqrt(1 - keep**2), (100000, 3))
    flux = np.zeros_like(noise)
    for step in range(1, len(noise)):
        flux[step] = keep * flux[step - 1] + noise[step]
    kappa = functions["conductivity"](flux, 300.0, 1000.0, spacing)
    expected = functions["TO_SI"] * sigma**2 * tau / (1000.0 * functions["BOLTZMANN"] * 300.0**2)
    assert kappa[100] == pytest.approx(expected, rel=0.05)
    assert functions["TO_SI"] == pytest.approx(1602.18, rel=1e-5)
    assert functions["BOLTZMANN"] == pytest.approx(8.617333e-5, rel=1e-6)


@pytest.mark.slow
@pytest.mark.lammps
def test_heat_flux_in_lammps(tmp_path):
    """The flux that LAMMPS writes is the one of per-atom energies, virials and velocities in Python."""
    from lammps_runner import load_model

    freeze(tiny_model(**STRONG), tmp_path / "mace.pth")
    from deepmd_gnn.tools.structures import Structure

    coord, types, cell = random_frame(40, 8.0, seed=3, triclinic=False)
    Structure(coord, types, cell, ["O", "H"], "").write_lammps_data(tmp_path / "start.data")
    text = (EXAMPLES / "heat_flux" / "in.lammps").read_text()
    text = text.replace(
        "run  ${steps}",
        "dump d all custom 2 moving.txt id type x y z vx vy vz\ndump_modify d sort id format float %.17g\nrun ${steps}",
    )
    text = text.replace("file flux.txt", "file flux.txt format ' %.12g'")
    (tmp_path / "in.lammps").write_text(text)
    variables = {"model": "mace.pth", "data": "start.data", "equilibrate": 2, "steps": 20, "every": 2}
    run(
        tmp_path,
        "lmp",
        "-in",
        "in.lammps",
        *(word for key, value in variables.items() for word in ("-var", key, value)),
    )
    flux = np.loadtxt(tmp_path / "flux.txt")
    model = load_model(tmp_path / "mace.pth")
    masses = np.array([15.9994, 1.00794])
    for block in (tmp_path / "moving.txt").read_text().split("ITEM: TIMESTEP\n")[1:]:
        lines = block.splitlines()
        table = np.array([line.split() for line in lines[8:]], dtype=float)
        kinds, position, velocity = table[:, 1].astype(int) - 1, table[:, 2:5], table[:, 5:8]
        _, _, _, energy, virial = model.eval(position[None], cell[None], kinds, atomic=True)
        kinetic = 0.5 * masses[kinds] * np.sum(velocity**2, axis=1) * 1.0364269e-4
        expected = velocity.T @ (energy[0, :, 0] + kinetic)
        expected += np.einsum("iab,ia->b", virial[0].reshape(-1, 3, 3), velocity)
        row = flux[flux[:, 0] == int(lines[0])]
        assert row[0, 1:4] == pytest.approx(expected, rel=1e-5, abs=1e-5 * np.abs(expected).max())
    assert len(flux) == 11
    assert "W/(m K)" in run(tmp_path, "python", EXAMPLES / "heat_flux" / "green_kubo.py", "flux.txt")


# --- active learning ---------------------------------------------------------------------------------------------


def active_learning(folder, options):
    """Run the loop with the arguments of the page and these; the programs that it starts."""
    loop = script("active_learning/loop.py")
    (line,) = (b.text for b in blocks(EXAMPLES / "active_learning/README.md") if b.kind == "sh")
    python, name, *shown = line.split()
    assert (python, name) == ("python", "loop.py")
    commands = []

    def in_this_process(command, folder):
        """Python without its imports; everything else as it is."""
        commands.append(command[0])
        if command[0] == "dp":
            with working_directory(folder):
                dp([*command[1:], "--log-path", "dp.log"])
        elif command[0] == "deepmd-gnn":
            with working_directory(folder):
                assert deepmd_gnn(command[1:]) == 0
        else:
            run(folder, *command)

    with patch.dict(loop["main"].__globals__, {"run": in_this_process}):
        short = "--training-steps 2 --md-steps 20 --new 3 --low 1e-6 --high 1e6"
        loop["main"]([*shown, *short.split(), *options.split(), "--folder", str(folder)])
    return commands


@pytest.mark.slow
@pytest.mark.lammps
@pytest.mark.usefixtures("preloaded")
def test_active_learning(tmp_path, capsys):
    """Two rounds of two models: labels are the reference's, and what was selected is trained on."""
    commands = active_learning(tmp_path, "--rounds 2 --models 2")
    assert commands == [*["dp"] * 4, "lmp"] * 2
    assert capsys.readouterr().out.count("3 new configurations") == 2
    settings = json.loads((tmp_path / "round_1" / "model_2" / "input.json").read_text())
    assert [Path(name).name for name in settings["training"]["training_data"]["systems"]] == [
        "data_0",
        "data_1",
    ]
    assert settings["model"]["seed"] == 2
    import ase
    from ase.calculators.emt import EMT

    load = {
        key: np.load(tmp_path / f"data_2/set.000/{key}.npy")
        for key in ("coord", "box", "energy", "force", "virial")
    }
    atoms = ase.Atoms("Cu32", load["coord"][0].reshape(-1, 3), cell=load["box"][0].reshape(3, 3), pbc=True)
    atoms.calc = EMT()
    assert load["energy"][0] == pytest.approx(atoms.get_potential_energy())
    assert load["force"][0] == pytest.approx(atoms.get_forces().ravel())
    assert load["virial"][0] == pytest.approx(-atoms.get_volume() * atoms.get_stress(voigt=False).ravel())


@pytest.mark.slow
@pytest.mark.lammps
@pytest.mark.usefixtures("preloaded")
def test_active_learning_by_the_last_layer(tmp_path, capsys):
    """One model, whose frozen file knows how sure it is: what it selects is within the bounds by `deepmd_gnn.uncertainty`."""
    commands = active_learning(tmp_path, "--rounds 1 --select llpr")
    assert commands == ["dp", "deepmd-gnn", "dp", "lmp"]
    told = re.search(r"largest deviation ([\d.]+) eV/Å, 0 % .* 3 new", capsys.readouterr().out)
    chosen = np.load(tmp_path / "data_1/set.000/coord.npy")
    box = np.load(tmp_path / "data_1/set.000/box.npy")
    model = DeepPot(str(tmp_path / "round_0/model_1/mace.pth"))
    found = uncertainty(model, chosen, box, np.zeros(32, dtype=int), forces=True)["force_std"]
    assert found.shape == (3, 32, 1)
    assert 0 < found.max() <= float(told[1]) + 5e-4


def test_selection_at_random():
    """Without a model's opinion all configurations are candidates, whatever the bounds."""
    loop = script("active_learning/loop.py")
    options = argparse.Namespace(select="random", new=3, low=5.0, high=6.0)
    chosen, told = loop["choose"](options, None, None, list(range(10)), np.random.default_rng(0))
    assert told == ""
    assert len(set(chosen)) == 3
    assert set(chosen) <= set(range(10))


def test_selection():
    select = script("active_learning/loop.py")["select"]
    deviation = np.array([0.01, 0.3, 0.2, 5.0, 0.1, 0.06])
    assert select(deviation, 0.05, 1.0, 10, np.random.default_rng(0)).tolist() == [1, 2, 4, 5]
    assert len(select(deviation, 0.05, 1.0, 2, np.random.default_rng(0))) == 2
