"""The page about charges and spins, from extended XYZ to LAMMPS, and what it says about several ranks."""

import re

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from deepmd.infer import DeepPot
from documented import ROOT, PageRun
from lammps_runner import run_lammps
from tolerances import RANKS

pytestmark = [pytest.mark.slow, pytest.mark.lammps]


def write_ions(path):
    """Molecules whose energy depends on charge and spin."""
    rng = np.random.default_rng(0)
    frames = []
    for charge, spin in [(-1, 2), (0, 1), (1, 2), (0, 1), (-1, 2), (0, 1), (1, 2), (-1, 2)]:
        positions = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]) + rng.normal(0, 0.05, (3, 3))
        atoms = Atoms("OHH", positions=positions, info={"charge": charge, "spin": spin})
        energy = -470.0 + 6.0 * charge**2 + rng.normal(0, 0.1)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=rng.normal(0, 0.1, (3, 3)))
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")


def test_charges(tmp_path):
    write_ions(tmp_path / "ions.xyz")
    rules = {r'"numb_steps": \d+': '"numb_steps": 2', '"num_channels": 64': '"num_channels": 2'}
    outputs = PageRun(ROOT / "docs/charges.md", tmp_path, rules)()
    assert len(outputs) == 5
    values = np.load(next((tmp_path / "data/train").glob("*/set.000/fparam.npy")))
    assert {tuple(row) for row in values.tolist()} <= {(-1.0, 2.0), (0.0, 1.0), (1.0, 2.0)}
    # The folder that was written runs, on one rank and on two, with the energy of the page's charge and spin.
    script = (tmp_path / "md/in.lammps").read_text().replace("mace.pth", str(tmp_path / "mace.pth"))
    # After the style, which sets the format back.
    script = re.sub(
        r"^thermo_style .*$", r"\g<0>\nthermo_modify format float %.15g", script, flags=re.MULTILINE
    )
    atoms = ase.io.read(tmp_path / "ions.xyz", index=0)
    potential = DeepPot(str(tmp_path / "mace.pth"))
    expected = potential.eval(atoms.positions[None], None, [1, 0, 0], fparam=[-1, 2])[0].item()
    neutral = potential.eval(atoms.positions[None], None, [1, 0, 0], fparam=[0, 1])[0].item()
    assert abs(neutral - expected) > 1e-6
    for ranks in (1, 2):
        folder = tmp_path / f"ranks{ranks}"
        folder.mkdir()
        (folder / "structure.data").write_text((tmp_path / "md/structure.data").read_text())
        run = run_lammps(folder, script, ranks).check()
        lines = run.output.splitlines()
        first = next(k for k, line in enumerate(lines) if line.split()[:1] == ["Step"]) + 1
        assert abs(float(lines[first].split()[2]) - expected) <= max(RANKS["float64"], 1e-6), ranks
