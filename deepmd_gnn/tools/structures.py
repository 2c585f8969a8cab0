"""Structures for the commands ``check`` and ``bench``: read from a user's file, or made up."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, covalent_radii
from ase.data import atomic_numbers as ATOMIC_NUMBERS

from deepmd_gnn.config.options import check_type_map
from deepmd_gnn.datasets.folders import numbers_of

_LAMMPS_SUFFIXES = (".lmp", ".data", ".lammps", ".lammps-data")
_MARGIN = 1.0  # Å


@dataclass(frozen=True)
class Structure:
    """One configuration of atoms."""

    coord: np.ndarray
    """Å, shape (natom, 3)."""
    types: np.ndarray
    """Index into `type_map`, shape (natom,)."""
    cell: np.ndarray | None
    """Rows are the cell vectors in Å, shape (3, 3); None for free boundaries."""
    type_map: list[str]
    """Names of the types."""
    name: str
    """For the user: the file, or what was made up."""
    periodic: bool = True
    """Whether the cell repeats; if not, it only holds the atoms."""

    @property
    def natoms(self) -> int:
        """Number of atoms."""
        return len(self.types)

    @property
    def masses(self) -> np.ndarray:
        """Mass of each type in g/mol, shape (ntypes,)."""
        return np.array([atomic_masses[number] for number in check_type_map(self.type_map, ATOMIC_NUMBERS)])

    @property
    def radii(self) -> np.ndarray:
        """Covalent radius of each type in Å, shape (ntypes,)."""
        return np.array([covalent_radii[number] for number in check_type_map(self.type_map, ATOMIC_NUMBERS)])

    def moved(self, coord: np.ndarray, cell: np.ndarray | None = None) -> "Structure":
        """The same atoms at `coord`, Å, shape (natom, 3), in the same cell or another, shape (3, 3)."""
        return replace(self, coord=coord, cell=self.cell if cell is None else cell)

    def with_type_map(self, type_map: list[str]) -> "Structure":
        """The same atoms for a model whose types have another order."""
        if type_map == self.type_map:
            return self
        types = np.array([type_map.index(self.type_map[kind]) for kind in self.types], dtype=int)
        return Structure(self.coord, types, self.cell, list(type_map), self.name, self.periodic)

    def repeated(self, copies: tuple[int, int, int]) -> "Structure":
        """A supercell.

        Parameters
        ----------
        copies : tuple[int, int, int]
            Copies along each cell vector.

        Returns
        -------
        Structure
            The first atoms are the original ones.

        Raises
        ------
        ValueError
            Without a cell.
        """
        if copies == (1, 1, 1):
            return self
        if self.cell is None:
            raise ValueError(f"{self.name}: has no cell, so it cannot be repeated.")
        shifts = np.array(list(np.ndindex(*copies)), dtype=float) @ self.cell
        coord = (shifts[:, None] + self.coord[None]).reshape(-1, 3)
        cell = self.cell * np.array(copies, dtype=float)[:, None]
        return replace(self, coord=coord, types=np.tile(self.types, len(shifts)), cell=cell)

    def in_lammps_orientation(self) -> "Structure":
        """Rotated so that the cell is lower triangular, as LAMMPS wants it, atoms inside the cell.

        Free boundaries get a cell that holds the atoms.
        """
        if self.cell is None:
            low = self.coord.min(axis=0) - 10.0
            box = np.diag(self.coord.max(axis=0) + 10.0 - low)
            return replace(self, coord=self.coord - low, cell=box, periodic=False)
        lower = np.linalg.cholesky(self.cell @ self.cell.T)
        fractional = self.coord @ np.linalg.inv(self.cell)
        return self.moved((fractional - np.floor(fractional)) @ lower, lower)

    def write_lammps_data(self, path: Path) -> None:
        """Write a data file; the cell must be lower triangular.

        Without a cell the box is that of the atoms and :data:`_MARGIN` more on all sides: LAMMPS refuses one that is thin, as that of
        a linear or flat molecule.

        Parameters
        ----------
        path : Path
            The file.
        """
        if self.cell is None:
            cell, low, high = np.eye(3), self.coord.min(0) - _MARGIN, self.coord.max(0) + _MARGIN
        else:
            cell, low, high = self.cell, np.zeros(3), np.diag(self.cell)
        lines = ["written by deepmd-gnn", "", f"{self.natoms} atoms", f"{len(self.type_map)} atom types", ""]
        lines += [f"{low[k]:.17g} {high[k]:.17g} {axis}lo {axis}hi" for k, axis in enumerate("xyz")]
        if np.abs(np.tril(cell, -1)).max() > 1e-12:
            lines.append(f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz")
        lines += ["", "Masses", "", *(f"{i + 1} {mass:g}" for i, mass in enumerate(self.masses))]
        lines += ["", "Atoms # atomic", ""]
        lines += [
            f"{i + 1} {kind + 1} {x:.17g} {y:.17g} {z:.17g}"
            for i, (kind, (x, y, z)) in enumerate(zip(self.types, self.coord, strict=True))
        ]
        path.write_text("\n".join(lines) + "\n")


def read_structure(
    path: Path, type_map: list[str], frame: int = 0, names: list[str] | None = None
) -> Structure:
    """Read a structure.

    Parameters
    ----------
    path : Path
        A folder of DeePMD-kit (``type.raw``, ``set.000``), a LAMMPS data file of ``atom_style atomic`` (``.lmp``,
        ``.data``), or anything ASE reads.
    type_map : list[str]
        Types of the model.
    frame : int
        Which frame of a file with several, from 0; negative numbers count from the end.
    names : list[str], optional
        Of a LAMMPS data file: names of its types 1, 2, …; by default those of the model.

    Returns
    -------
    Structure
        Its ``type_map`` is the model's.

    Raises
    ------
    ValueError
        If the file cannot be read, has no such frame, or names elements the model does not have.
    """
    if not path.exists():
        raise ValueError(f"{path}: no such file.")
    try:
        if path.is_dir():
            coord, kinds, cell = _read_system(path, type_map, frame)
        elif path.suffix in _LAMMPS_SUFFIXES:
            coord, kinds, cell = _read_lammps(path, names or type_map)
        else:
            coord, kinds, cell = _read_ase(path, frame)
    except Exception as error:  # ASE's readers raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{path}: cannot be read as a structure ({type(error).__name__}: {reason[0]}). Give a folder of "
            "DeePMD-kit, a LAMMPS data file (.lmp, .data) or a file that ASE reads (.xyz, .cif, POSCAR, …)."
        ) from error
    unknown = sorted(set(kinds) - set(type_map))
    if unknown:
        raise ValueError(
            f"{path}: has atoms of {', '.join(unknown)}, but the model knows only {', '.join(type_map)}."
        )
    types = np.array([type_map.index(kind) for kind in kinds], dtype=int)
    return Structure(np.asarray(coord, dtype=float), types, cell, list(type_map), str(path), cell is not None)


def _read_system(
    path: Path, type_map: list[str], frame: int
) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    sets = sorted(path.glob("set.*"))
    if not sets:
        raise ValueError("a folder without set.000")
    types = np.loadtxt(path / "type.raw", dtype=int).reshape(-1)
    names = type_map
    if (path / "type_map.raw").exists():
        names = (path / "type_map.raw").read_text().split()
    coord = np.concatenate([numbers_of(one / "coord.npy") for one in sets])[frame].reshape(-1, 3)
    cell = None
    if not (path / "nopbc").exists():
        cell = (
            np.concatenate([numbers_of(one / "box.npy") for one in sets])[frame].reshape(3, 3).astype(float)
        )
    return coord, [names[kind] for kind in types], cell


def _read_lammps(path: Path, names: list[str]) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    import ase.io

    atoms: Any = ase.io.read(path, format="lammps-data", atom_style="atomic")
    kinds = atoms.arrays["type"]
    if kinds.max() > len(names):
        raise ValueError(f"type {kinds.max()}, but only {len(names)} types are named")
    return atoms.positions, [names[kind - 1] for kind in kinds], np.array(atoms.cell)


def _read_ase(path: Path, frame: int) -> tuple[np.ndarray, list[str], np.ndarray | None]:
    import ase.io

    atoms: Any = ase.io.read(path, index=frame)
    if atoms.pbc.any() and not atoms.pbc.all():
        raise ValueError("periodic in some directions only; make it periodic in all, with vacuum, or in none")
    return atoms.positions, atoms.get_chemical_symbols(), np.array(atoms.cell) if atoms.pbc.all() else None


def invented_structure(type_map: list[str], per_side: int, seed: int = 0) -> Structure:
    """Atoms of all types in turn near the points of a slightly sheared cubic lattice.

    Parameters
    ----------
    type_map : list[str]
        Types of the model.
    per_side : int
        Points along each cell vector.
    seed : int
        Of the displacements.

    Returns
    -------
    Structure
        Neighbours are about 1.4 covalent diameters apart, so that no pair is in the repulsive wall.
    """
    rng = np.random.default_rng(seed)
    radii = [covalent_radii[number] for number in check_type_map(type_map, ATOMIC_NUMBERS)]
    spacing = 1.4 * (float(np.mean(radii)) + float(np.max(radii)))
    points = np.array(list(np.ndindex(per_side, per_side, per_side)), dtype=float)
    points += rng.uniform(-0.12, 0.12, points.shape)
    cell = spacing * per_side * np.array([[1.0, 0.0, 0.0], [0.06, 1.0, 0.0], [-0.05, 0.08, 1.0]])
    types = rng.permutation(np.arange(len(points)) % len(type_map))
    name = f"{len(points)} atoms near a lattice (seed {seed})"
    return Structure(points / per_side @ cell, types, cell, list(type_map), name)
