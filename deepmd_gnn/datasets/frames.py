"""One labelled structure of a file, whatever the file's format."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


class DataError(ValueError):
    """Data are not what they should be; the message names file, frame, what was found and what to do."""


@dataclass(slots=True)
class Frame:
    """Atoms and everything that a file says about them."""

    source: str
    """File, for messages."""
    index: int
    """Place in the file, from 0."""
    numbers: np.ndarray
    """Atomic numbers, int64, shape (natom,)."""
    positions: np.ndarray
    """Å, shape (natom, 3)."""
    cell: np.ndarray
    """Rows are cell vectors in Å, shape (3, 3); zero where there is none."""
    pbc: tuple[bool, bool, bool]
    """Whether each cell vector repeats."""
    info: dict[str, Any] = field(default_factory=dict)
    """What belongs to the whole frame, by the file's name."""
    arrays: dict[str, Any] = field(default_factory=dict)
    """What belongs to each atom, by the file's name; first dimension natom."""
    results: dict[str, Any] = field(default_factory=dict)
    """What ASE takes for results of a calculator, by ASE's name."""

    @property
    def natoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    @property
    def config_type(self) -> str:
        """MACE's name of what kind of structure it is; "Default" where the file has none."""
        return str(self.info.get("config_type", "Default"))

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.source}, frame {self.index} (counted from 0)"


def frame_from_atoms(atoms: Any, source: str, index: int) -> Frame:
    """Take what ASE has read.

    Parameters
    ----------
    atoms : ase.Atoms
        With or without results of a calculator.
    source : str
        File.
    index : int
        Place in the file, from 0.

    Returns
    -------
    Frame
    """
    arrays = {key: value for key, value in atoms.arrays.items() if key not in ("numbers", "positions")}
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    pbc = tuple(bool(one) for one in atoms.pbc)
    return Frame(
        source,
        index,
        np.asarray(atoms.numbers, dtype=int),
        np.asarray(atoms.positions, dtype=float),
        np.array(atoms.cell, dtype=float),
        (pbc[0], pbc[1], pbc[2]),
        dict(atoms.info),
        arrays,
        {key: value for key, value in results.items() if value is not None},
    )
