"""Harmonic phonons with phonopy, of a model `mace.pth` and a crystal `crystal.xyz`."""

import ase.io
import numpy as np
from ase import Atoms
from deepmd.calculator import DP
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

calculator = DP("mace.pth")
crystal = ase.io.read("crystal.xyz")  # relaxed


def forces(cell):
    """Forces on the atoms of a displaced supercell, eV/Å."""
    atoms = Atoms(cell.symbols, cell=cell.cell, scaled_positions=cell.scaled_positions, pbc=True)
    atoms.calc = calculator
    return atoms.get_forces()


cell = PhonopyAtoms(crystal.symbols, cell=crystal.cell, scaled_positions=crystal.get_scaled_positions())
phonon = Phonopy(cell, supercell_matrix=[2, 2, 2])
phonon.generate_displacements(distance=0.01, is_plusminus=True)
phonon.forces = [forces(displaced) for displaced in phonon.supercells_with_displacements]
phonon.produce_force_constants()
frequencies = phonon.run_qpoints([[0.5, 0, 0]]).frequencies[0]  # THz, negative where they are imaginary

# Check: one column of the Hessian of the supercell, without symmetry.
atoms = Atoms(phonon.supercell.symbols, phonon.supercell.positions, cell=phonon.supercell.cell, pbc=True)
atoms.calc, step, sides = calculator, 0.005, []
for sign in (1, -1):
    atoms.positions[0, 0] += sign * step
    sides.append(atoms.get_forces())
    atoms.positions[0, 0] -= sign * step
column = (sides[1] - sides[0]) / (2 * step)  # eV/Å², (atoms, 3)
difference = np.abs(phonon.force_constants[0, :, 0] - column).max()
print(f"frequencies {frequencies.round(3)} THz; force constants within {difference:.1e} eV/Å²")
assert difference < 1e-3 * np.abs(column).max()
