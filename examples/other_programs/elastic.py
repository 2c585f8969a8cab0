"""Elastic constants with matcalc: a model `mace.pth` and a relaxed crystal `crystal.xyz`."""

import ase.io
import numpy as np
from matcalc import ElasticityCalc, PESCalculator
from pymatgen.io.ase import AseAtomsAdaptor

calculator = PESCalculator.load_deepmd("mace.pth")
crystal = ase.io.read("crystal.xyz")
calculation = ElasticityCalc(
    calculator, relax_structure=False, norm_strains=(-0.002, 0.002), shear_strains=(-0.002, 0.002)
)
tensor = calculation.calc(AseAtomsAdaptor.get_structure(crystal))["elastic_tensor"].voigt  # eV/Å³

# Check: differences of the calculator's own stress, ions where the strain takes them.
step, expected = 1e-3, np.zeros((6, 6))
for row, (i, j) in enumerate([(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]):
    for sign in (1, -1):
        strain = np.zeros((3, 3))
        strain[i, j] += sign * step / 2
        strain[j, i] += sign * step / 2
        strained = crystal.copy()
        strained.set_cell(crystal.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        strained.calc = calculator
        expected[row] += sign * strained.get_stress() / (2 * step)
difference = np.abs(tensor - expected).max()
print(f"elastic constants within {difference:.1e} of {expected.max():.1e} eV/Å³")
assert difference < 1e-3 * expected.max()
