"""Third-order force constants with phono3py, of a model `mace.pth` and a crystal `crystal.xyz`."""

import ase.io
import numpy as np
from ase import Atoms
from deepmd.calculator import DP
from phono3py import Phono3py
from phonopy.structure.atoms import PhonopyAtoms

calculator = DP("mace.pth")
crystal = ase.io.read("crystal.xyz")  # relaxed


def forces(cell):
    """Forces on the atoms of a displaced supercell, eV/Å."""
    atoms = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    atoms.calc = calculator
    return atoms.get_forces()


cell = PhonopyAtoms(crystal.symbols, cell=crystal.cell, scaled_positions=crystal.get_scaled_positions())
phonon = Phono3py(cell, supercell_matrix=[2, 2, 2])
phonon.generate_displacements(distance=0.01, is_plusminus=True)
phonon.forces = [forces(displaced) for displaced in phonon.supercells_with_displacements]
phonon.produce_fc2()
phonon.produce_fc3()
phonon.mesh_numbers = [2, 2, 2]
phonon.init_phph_interaction()
phonon.run_thermal_conductivity(temperatures=[300])

# Check: one block by second differences of forces, without symmetry.
atoms = Atoms(phonon.supercell.symbols, phonon.supercell.positions, cell=phonon.supercell.cell, pbc=True)
atoms.calc, step, mixed = calculator, 0.01, 0.0
for first in (1, -1):
    for second in (1, -1):
        displaced = atoms.copy()
        displaced.calc = calculator
        displaced.positions[0, 0] += first * step
        displaced.positions[-1, 1] += second * step
        mixed = mixed - first * second * displaced.get_forces() / (4 * step**2)
difference = np.abs(phonon.fc3[0, -1, :, 0, 1] - mixed).max()
print(f"third-order force constants within {difference:.1e} of {np.abs(mixed).max():.1e} eV/Å³")
assert difference < 0.02 * np.abs(mixed).max()
