"""Lattice constant and elastic constants of a cubic crystal from a frozen model: ``python elastic.py mace.pth Mo bcc 3.16``."""

import argparse

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import StrainFilter
from ase.optimize import BFGS
from ase.units import GPa
from deepmd.calculator import DP

# Order of ASE's stress components (Voigt), as strain directions.
VOIGT = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def relaxed(calculator, element: str, structure: str, a: float) -> Atoms:
    """Cubic cell without stress.

    Parameters
    ----------
    calculator : ase.calculators.calculator.Calculator
        The model.
    element, structure : str
        As for :func:`ase.build.bulk`.
    a : float
        Lattice constant to start from, Å.

    Returns
    -------
    ase.Atoms
    """
    atoms = bulk(element, structure, a=a, cubic=True)
    atoms.calc = calculator
    BFGS(StrainFilter(atoms), logfile=None).run(fmax=1e-4, steps=200)
    return atoms


def stiffness(atoms: Atoms, strain: float) -> np.ndarray:
    """Elastic constants C_ij = dσ_i/dε_j by central differences, atoms not relaxed.

    For a crystal with one atom per primitive cell there is nothing to relax.

    Parameters
    ----------
    atoms : ase.Atoms
        Without stress, with a calculator.
    strain : float
        Size of the strain; shear strains are engineering strains, 2ε.

    Returns
    -------
    numpy.ndarray
        GPa, shape (6, 6).
    """
    columns = []
    for a, b in VOIGT:
        stresses = []
        for sign in (1, -1):
            deformation = np.eye(3)
            deformation[a, b] += 0.5 * sign * strain
            deformation[b, a] += 0.5 * sign * strain
            strained = atoms.copy()
            strained.calc = atoms.calc
            strained.set_cell(atoms.cell @ deformation, scale_atoms=True)
            stresses.append(strained.get_stress())
        columns.append((stresses[0] - stresses[1]) / (2 * strain))
    return np.array(columns).T / GPa


def main() -> None:
    """Print the constants of a cubic crystal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="frozen model")
    parser.add_argument("element", nargs="?", default="Mo")
    parser.add_argument("structure", nargs="?", default="bcc")
    parser.add_argument("a", nargs="?", type=float, default=3.16, help="Å, to start from")
    parser.add_argument("--strain", type=float, default=0.005)
    options = parser.parse_args()
    atoms = relaxed(DP(options.model), options.element, options.structure, options.a)
    c = stiffness(atoms, options.strain)
    print(f"a   = {atoms.cell[0, 0]:.4f} Å")
    print(f"C11 = {c[:3, :3].diagonal().mean():.1f} GPa")
    print(f"C12 = {c[:3, :3][~np.eye(3, dtype=bool)].mean():.1f} GPa")
    print(f"C44 = {c[3:, 3:].diagonal().mean():.1f} GPa")


if __name__ == "__main__":
    main()
