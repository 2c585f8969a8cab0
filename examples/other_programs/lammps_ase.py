"""LAMMPS as a calculator of ASE, by `LAMMPSlib`: a model `mace.pth` of O and H, and a structure `crystal.xyz`."""

import ase.io
import deepmd.pt  # noqa: F401  before LAMMPS: it loads MPI and torch
import numpy as np
from ase.calculators.lammpslib import LAMMPSlib
from deepmd.env import SHARED_LIB_DIR

atoms = ase.io.read("crystal.xyz").repeat(2)
atoms.rattle(0.05, seed=1)
atoms.calc = LAMMPSlib(
    lmpcmds=[
        f"plugin load {SHARED_LIB_DIR}/libdeepmd_lmpplugin.so",
        "pair_style deepmd mace.pth",
        "pair_coeff * * O H",
    ],
    lammps_header=["units metal", "atom_style atomic", "atom_modify map yes sort 0 0.0"],
    atom_types={"O": 1, "H": 2},
)
energy, forces, stress = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()

# Check: without LAMMPS.
from deepmd.calculator import DP  # noqa: E402

atoms.calc = DP("mace.pth")
np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-9)
np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-6)
np.testing.assert_allclose(stress, atoms.get_stress(), atol=1e-7)
