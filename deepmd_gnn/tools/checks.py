"""Physics that a model of interatomic energies must obey, tested on a model file from outside."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from deepmd_gnn.tools.structures import Structure

# Per precision: relative rounding of the network's results, and step of the finite differences in Å.
_ROUNDING = {"float64": 1e-9, "float32": 2e-5}
_STEP = {"float64": 1e-3, "float32": 5e-3}
# What finite differences of order h⁴ and interpolated radial functions leave in float64, and rounding in float32.
_DIFFERENCE = {"float64": 1e-6, "float32": 2e-3}
# Å on both sides of the cutoff, and what extrapolates to none what is of first and second order in them.
_AT_CUTOFF = ((4e-4, 1 / 3), (2e-4, -2.0), (1e-4, 8 / 3))
# Of the cutoff: how far away the neighbour in the test of smoothness may be.
_NEIGHBOUR = 0.6
# Pairs of types in that test, drawn at random; a model of the whole periodic table has 7921.
_MOST_PAIRS = 100
# Components of the central difference of fourth order: steps and weights.
_STENCIL = ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12))


class Results(NamedTuple):
    """Of one evaluation."""

    energy: float
    """eV."""
    force: np.ndarray
    """eV/Å, shape (natom, 3)."""
    virial: np.ndarray
    """eV, shape (3, 3)."""
    atom_energy: np.ndarray
    """eV, shape (natom,)."""
    atom_virial: np.ndarray
    """eV, shape (natom, 3, 3)."""


Evaluate = Callable[[Structure], Results]


@dataclass(frozen=True)
class Check:
    """Outcome of one check."""

    name: str
    """Short name."""
    statement: str
    """What was tested."""
    deviation: float | None
    """Largest deviation, relative to the largest force component (energies: times 1 Å); None if not run."""
    limit: float
    """What is allowed."""
    reason: str = ""
    """Why it was not run."""

    @property
    def passed(self) -> bool | None:
        """None if it was not run."""
        return None if self.deviation is None else bool(self.deviation <= self.limit)  # NaN does not pass

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "passed": self.passed}


class PhysicsChecks:
    """All checks that need nothing but evaluations.

    Parameters
    ----------
    evaluate : Callable
        The model.
    structure : Structure
        Atoms to test it on.
    r_max : float
        Cutoff in Å.
    precision : str
        Of the network, ``"float64"`` or ``"float32"``.
    mirrored : bool
        Whether mirror images shall have the same energy; not so for models with ``use_so3``.
    seed : int
        Of displacements, rotations and permutations.
    """

    def __init__(
        self,
        evaluate: Evaluate,
        structure: Structure,
        r_max: float,
        precision: str,
        mirrored: bool = True,
        seed: int = 0,
    ) -> None:
        self.mirrored = mirrored
        self.evaluate, self.structure, self.r_max, self.precision = evaluate, structure, r_max, precision
        self.rng = np.random.default_rng(seed)
        self.rounding = _ROUNDING[precision]
        self.reference = evaluate(structure)
        self.scale = max(float(np.abs(self.reference.force).max()), 1e-12)

    def all(self) -> Iterator[Check]:
        """Run them, one after the other.

        Yields
        ------
        Check
        """
        yield self.forces()
        yield self.virial()
        yield self.sums()
        yield self.translation()
        yield self.rotation()
        yield self.inversion()
        yield self.permutation()
        yield self.supercell()
        yield self.smoothness()

    def forces(self) -> Check:
        """Forces along random directions of all atoms, against differences of energies."""
        deviations = []
        for _ in range(3):
            direction = self.rng.uniform(-1, 1, self.structure.coord.shape)

            def displaced_by(step: float, direction: np.ndarray = direction) -> Structure:
                return self.structure.moved(self.structure.coord + step * direction)

            slope = self._slope(displaced_by)
            expected = -float(np.sum(self.reference.force * direction))
            deviations.append(abs(slope - expected) / float(np.linalg.norm(direction)))
        return self._check("forces", "forces are −dE/dr", max(deviations), _DIFFERENCE[self.precision])

    def virial(self) -> Check:
        """Virial along random strains, against differences of energies."""
        deviations = []
        for _ in range(2):
            strain = self.rng.uniform(-1, 1, (3, 3))
            reach = float(np.abs(self.structure.coord).max())

            def strained(step: float, strain: np.ndarray = strain, reach: float = reach) -> Structure:
                deformation = np.eye(3) + step / reach * strain
                cell = None if self.structure.cell is None else self.structure.cell @ deformation.T
                return self.structure.moved(self.structure.coord @ deformation.T, cell)

            slope = reach * self._slope(strained)
            expected = -float(np.sum(self.reference.virial * strain))
            deviations.append(abs(slope - expected) / (reach * self.structure.natoms**0.5))
        return self._check("virial", "the virial is −dE/dε", max(deviations), _DIFFERENCE[self.precision])

    def sums(self) -> Check:
        """Atomic energies and virials add up, and no force acts on the whole."""
        found, natoms = self.reference, self.structure.natoms
        deviation = max(
            abs(found.atom_energy.sum() - found.energy) / natoms,
            float(np.abs(found.atom_virial.sum(axis=0) - found.virial).max()) / natoms,
            float(np.abs(found.force.sum(axis=0)).max()),
        )
        return self._check("sums", "atomic energies and virials add up, forces to zero", deviation)

    def translation(self) -> Check:
        """All atoms elsewhere, and some moved by cell vectors."""
        moved = self.structure.coord + self.rng.uniform(-5, 5, 3)
        if self.structure.cell is not None:
            moved += self.rng.integers(-1, 2, moved.shape) @ self.structure.cell
        deviation = self._deviation(self.evaluate(self.structure.moved(moved)), self.reference)
        return self._check("translation", "moved atoms, and images of atoms, change nothing", deviation)

    def rotation(self) -> Check:
        """Turned by a random angle about a random axis."""
        turn, triangle = np.linalg.qr(self.rng.normal(size=(3, 3)))
        turn *= np.sign(np.diag(triangle))
        turn *= np.sign(np.linalg.det(turn))
        cell = None if self.structure.cell is None else self.structure.cell @ turn.T
        found = self.evaluate(self.structure.moved(self.structure.coord @ turn.T, cell))
        back = found._replace(force=found.force @ turn, virial=turn.T @ found.virial @ turn)
        return self._check(
            "rotation", "forces and virial turn with the atoms", self._deviation(back, self.reference)
        )

    def inversion(self) -> Check:
        """The mirror image."""
        statement = "the mirror image has the same energy"
        if not self.mirrored:
            return Check("inversion", statement, None, self.rounding, "the model has use_so3")
        found = self.evaluate(self.structure.moved(-self.structure.coord))
        back = found._replace(force=-found.force)
        return self._check("inversion", statement, self._deviation(back, self.reference))

    def permutation(self) -> Check:
        """The same atoms in another order."""
        order = self.rng.permutation(self.structure.natoms)
        found = self.evaluate(_ordered(self.structure, order))
        back = np.empty_like(found.force)
        back[order] = found.force
        deviation = self._deviation(found._replace(force=back), self.reference)
        return self._check("permutation", "the order of the atoms changes nothing", deviation)

    def supercell(self) -> Check:
        """Twice the system has twice the energy: a doubled cell, or two clusters out of reach."""
        structure, natoms = self.structure, self.structure.natoms
        if structure.cell is not None:
            double = structure.repeated((2, 1, 1))
        else:
            apart = np.array([float(np.ptp(structure.coord[:, 0])) + 3 * self.r_max + 10, 0, 0])
            double = _ordered(structure, np.tile(np.arange(natoms), 2))
            double = double.moved(np.vstack([structure.coord, structure.coord + apart]))
        found = self.evaluate(double)
        deviation = max(
            abs(found.energy - 2 * self.reference.energy) / (2 * natoms),
            float(np.abs(found.force - np.tile(self.reference.force, (2, 1))).max()),
            float(np.abs(found.virial - 2 * self.reference.virial).max()) / (2 * natoms),
        )
        return self._check("supercell", "twice the system has twice the energy", deviation)

    def smoothness(self) -> Check:
        """An atom that leaves the cutoff of another one, which has a neighbour on its other side.

        Results on the two sides differ by what they change between them, and the more the stronger the neighbour binds. A
        jump is what is left of the difference where the sides meet: it is extrapolated from three distances.
        """
        types = len(self.structure.type_map)
        pairs = self.rng.permutation(types**2)[:_MOST_PAIRS]
        jump, scale = 0.0, 1e-12
        for kind, other in zip(*np.divmod(pairs, types), strict=True):
            energy, force = 0.0, np.zeros((3, 3))
            for step, weight in _AT_CUTOFF:
                inside, outside = (
                    self.evaluate(self._trio(kind, other, self.r_max + side * step)) for side in (-1, 1)
                )
                energy += weight * (inside.energy - outside.energy)
                force += weight * (inside.force - outside.force)
                scale = max(scale, float(np.abs(inside.force).max()))
            jump = max(jump, abs(energy), float(np.abs(force).max()))
        # Relative to the forces on these atoms, which may be far from those of the structure.
        limit = max(1e-6, self.rounding)
        return Check("smoothness", "energy and forces are continuous at the cutoff", jump / scale, limit)

    def _trio(self, kind: int, other: int, distance: float) -> Structure:
        """An atom of `kind` between two of `other`: one at a bond's length, one at a distance in Å."""
        radii = self.structure.radii
        bond = min(radii[kind] + radii[other], _NEIGHBOUR * self.r_max)
        # Not on a line with the other, so that nothing vanishes by symmetry.
        coord = np.array([[0.0, 0, 0], [-0.96 * bond, 0.28 * bond, 0], [distance, 0, 0]])
        types = np.array([kind, other, other])
        return Structure(coord, types, None, self.structure.type_map, "three atoms", periodic=False)

    def _slope(self, moved: Callable[[float], Structure]) -> float:
        """Derivative of the energy by the parameter of a path, in eV/Å."""
        step = _STEP[self.precision]
        return sum(weight * self.evaluate(moved(k * step)).energy for k, weight in _STENCIL) / step

    def _deviation(self, found: Results, expected: Results) -> float:
        natoms = len(expected.force)
        return max(
            abs(found.energy - expected.energy) / natoms,
            float(np.abs(found.force - expected.force).max()),
            float(np.abs(found.virial - expected.virial).max()) / natoms,
        )

    def _check(self, name: str, statement: str, deviation: float, limit: float | None = None) -> Check:
        limit = self.rounding if limit is None else limit
        return Check(name, statement, float(deviation) / self.scale, limit)


def _ordered(structure: Structure, order: np.ndarray) -> Structure:
    return Structure(
        structure.coord[order],
        structure.types[order],
        structure.cell,
        structure.type_map,
        structure.name,
        structure.periodic,
    )


def displaced(structure: Structure, size: float, seed: int = 0) -> Structure:
    """Displace every atom at random, so that no force vanishes by symmetry.

    Parameters
    ----------
    structure : Structure
        Atoms.
    size : float
        Largest displacement along each axis, Å.
    seed : int
        Of the displacements.

    Returns
    -------
    Structure
    """
    moves = np.random.default_rng(seed).uniform(-size, size, structure.coord.shape)
    return structure.moved(structure.coord + moves)


def compare_ranks(
    one: tuple[float, np.ndarray],
    other: tuple[float, np.ndarray],
    python: Results,
    precision: str,
    ranks: int,
) -> Check:
    """LAMMPS on one rank, on several, and Python.

    Parameters
    ----------
    one, other : tuple[float, numpy.ndarray]
        Energy, eV, and forces, eV/Å, shape (natom, 3), of LAMMPS on one and on several ranks.
    python : Results
        Of the same file in Python.
    precision : str
        Of the network.
    ranks : int
        How many.

    Returns
    -------
    Check
    """
    scale = max(float(np.abs(python.force).max()), 1e-12)
    natoms = len(python.force)
    reference = (python.energy, python.force)
    deviation = max(
        max(abs(a[0] - b[0]) / natoms, float(np.abs(a[1] - b[1]).max()))
        for a, b in ((one, other), (one, reference))
    )
    statement = f"LAMMPS on 1 rank, on {ranks} ranks and Python agree"
    return Check("ranks", statement, deviation / scale, _ROUNDING[precision])
