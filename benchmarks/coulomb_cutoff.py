"""How a Coulomb energy that ends at a cutoff compares with Ewald's sum, and in a molecule with that of all pairs.

    python benchmarks/coulomb_cutoff.py

Fixed charges: water (192 atoms, O −0.834, H 0.417), molten salt (216 atoms of ±1, a crystal shaken by 0.4 Å) and a cluster of
water without a cell. Printed are root mean squares of the error of forces, relative to those of the reference in percent, for four
ways to end: cut off (as mlip 0.2.5), shifted in energy and force, a conducting reaction field, and damped by 0.2/Å and shifted.
"""

import argparse
from pathlib import Path

import ase.build
import ase.io
import numpy as np
from scipy.special import erfc

HERE = Path(__file__).parent


def ewald_forces(positions, charges, cell, alpha=0.4, reach=14.0, order=14):
    """Forces of Ewald's sum with conducting surroundings, e²/Å²; cell orthorhombic."""
    lengths = np.diag(cell)
    forces = pair_forces(
        positions, charges, cell, reach,
        lambda r: erfc(alpha * r) / r**2 + 2 * alpha / np.pi**0.5 * np.exp(-((alpha * r) ** 2)) / r,
    )  # fmt: skip
    waves = np.stack(np.meshgrid(*[np.arange(-order, order + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    waves = 2 * np.pi * waves[np.any(waves != 0, axis=1)] / lengths
    square = (waves**2).sum(1)
    kept = square < (2 * np.pi * order / lengths.max()) ** 2
    waves, square = waves[kept], square[kept]
    weight = 4 * np.pi / np.prod(lengths) * np.exp(-square / (4 * alpha**2)) / square
    phase = positions @ waves.T
    structure = (charges[:, None] * np.exp(1j * phase)).sum(0)
    along = charges[:, None] * weight * np.imag(np.exp(1j * phase) * structure.conj())
    return forces + along @ waves


def pair_forces(positions, charges, cell, reach, strength):
    """Forces of pairs within `reach`, of which `strength` is minus the derivative of the potential by the distance."""
    images = np.zeros((1, 3))
    if cell is not None:
        count = np.ceil(reach / np.diag(cell)).astype(int)
        images = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in count], indexing="ij"), -1).reshape(
            -1, 3
        ) * np.diag(cell)
    forces = np.zeros_like(positions)
    for image in images:
        vectors = positions[:, None] - positions[None] - image
        distance = np.sqrt((vectors**2).sum(-1))
        close = (distance > 1e-9) & (distance < reach)
        safe = np.where(close, distance, 1.0)
        force = np.where(close, strength(safe) / safe, 0.0) * charges[:, None] * charges
        forces += (force[..., None] * vectors).sum(1)
    return forces


def endings(reach, damping=0.2):
    """Name → minus the derivative of the potential by the distance."""

    def damped(r):
        return erfc(damping * r) / r**2 + 2 * damping / np.pi**0.5 * np.exp(-((damping * r) ** 2)) / r

    return {
        "cut off": lambda r: 1 / r**2,
        "shifted": lambda r: 1 / r**2 - 1 / reach**2,
        "reaction field": lambda r: 1 / r**2 - r / reach**3,
        "damped": lambda r: damped(r) - damped(reach),
    }


def systems(seed=0):
    """Name, positions, charges and cell (None without)."""
    rng = np.random.default_rng(seed)
    water = ase.io.read(HERE / "water192.xyz")
    charge = np.where(water.numbers == 8, -0.834, 0.417)
    yield "water", water.positions, charge, np.array(water.cell)
    salt = ase.build.bulk("NaCl", "rocksalt", a=5.64, cubic=True) * (3, 3, 3)
    moved = salt.positions + rng.normal(scale=0.4, size=(len(salt), 3))
    yield "salt", moved, np.where(salt.numbers == 11, 1.0, -1.0), np.array(salt.cell)
    yield "cluster", *cluster(water, charge, 6.0), None


def cluster(water, charge, radius):
    """Whole molecules within `radius` of the first oxygen."""
    oxygen = np.flatnonzero(water.numbers == 8)
    vectors = water.get_distances(oxygen[0], oxygen, mic=True, vector=True)
    positions, charges = [], []
    for place, vector in zip(oxygen, vectors, strict=True):
        if np.linalg.norm(vector) > radius:
            continue
        others = np.flatnonzero(water.numbers == 1)
        bonds = water.get_distances(place, others, mic=True, vector=True)
        near = np.argsort(np.linalg.norm(bonds, axis=1))[:2]
        positions += [vector, *(vector + bonds[near])]
        charges += [charge[place], *charge[others[near]]]
    return np.array(positions), np.array(charges)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cutoffs", type=float, nargs="+", default=[6.0, 8.0, 10.0, 12.0, 15.0])
    args = parser.parse_args()
    print("| system | cutoff, Å | cut off | shifted | reaction field | damped |\n|---|---|---|---|---|---|")
    for name, positions, charges, cell in systems():
        if cell is None:
            reference = pair_forces(positions, charges, None, np.inf, lambda r: 1 / r**2)
        else:
            reference = ewald_forces(positions, charges, cell)
        size = np.sqrt((reference**2).mean())
        for reach in args.cutoffs:
            found = [pair_forces(positions, charges, cell, reach, way) for way in endings(reach).values()]
            errors = [100 * np.sqrt(((forces - reference) ** 2).mean()) / size for forces in found]
            print(f"| {name} | {reach:g} | " + " | ".join(f"{error:.2g}" for error in errors) + " |")


if __name__ == "__main__":
    main()
