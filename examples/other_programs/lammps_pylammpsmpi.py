"""LAMMPS on two ranks, driven from one Python by pylammpsmpi: a model `mace.pth` of O and H, and a structure `crystal.xyz`."""

import ase.io
import numpy as np
from deepmd.env import SHARED_LIB_DIR
from pylammpsmpi import LammpsASELibrary

atoms = ase.io.read("crystal.xyz").repeat(4)
atoms.rattle(0.05, seed=1)
lammps = LammpsASELibrary(cores=2)
lammps.interactive_lib_command(f"plugin load {SHARED_LIB_DIR}/libdeepmd_lmpplugin.so")
lammps.interactive_structure_setter(
    structure=atoms,
    units="metal",
    dimension=3,
    boundary="p p p",
    atom_style="atomic",
    el_eam_lst=["O", "H"],
    calc_md=False,
)
lammps.interactive_lib_command("pair_style deepmd mace.pth")
lammps.interactive_lib_command("pair_coeff * * O H")
lammps.interactive_lib_command("run 0")
energy, forces = lammps.interactive_energy_pot_getter(), lammps.interactive_forces_getter()
lammps.close()

# Check: without LAMMPS.
from deepmd.calculator import DP  # noqa: E402

atoms.calc = DP("mace.pth")
np.testing.assert_allclose(energy, atoms.get_potential_energy(), rtol=1e-9)
np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-6)
