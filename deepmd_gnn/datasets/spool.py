"""Frames between reading and writing: on disk, because they do not fit into the memory of every machine."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.datasets.labels import Labels


@dataclass(slots=True)
class Record:
    """A frame in the spool; what decides about its place in the output."""

    offset: int
    """Of its first number in the spool."""
    numbers: np.ndarray
    """Atomic numbers, shape (natom,); one array for all frames with the same."""
    periodic: bool
    labels: tuple[str, ...]
    """DeePMD-kit's names."""
    config_type: str
    source: str
    index: int
    values: tuple[float, ...] = ()
    """Quantities of the frame, such as its charge: a row of ``fparam``."""

    @property
    def natoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)


@dataclass(slots=True)
class Stored:
    """Numbers of a frame."""

    coord: np.ndarray
    """Å, shape (natom, 3)."""
    box: np.ndarray
    """Å, shape (3, 3), rows are cell vectors."""
    energy: float
    force: np.ndarray
    """eV/Å, shape (natom, 3)."""
    virial: np.ndarray
    """eV, shape (3, 3)."""


class Spool:
    """A temporary file of float64 numbers that is gone when it is closed.

    Parameters
    ----------
    folder : Path
        On a disk with room for the output.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=2**20)  # noqa: SIM115 - closed by close()
        self._offset = 0
        self._numbers: dict[bytes, np.ndarray] = {}

    def add(self, frame: Frame, labels: Labels, config_type: str) -> Record:
        """Store a frame.

        Parameters
        ----------
        frame : Frame
            Atoms.
        labels : Labels
            Those it has.
        config_type : str
            MACE's.

        Returns
        -------
        Record
        """
        natoms = frame.natoms
        values = np.zeros(19 + 6 * natoms)
        values[:9] = frame.cell.reshape(9)
        if labels.energy is not None:
            values[9] = labels.energy
        if labels.virial is not None:
            values[10:19] = labels.virial.reshape(9)
        values[19 : 19 + 3 * natoms] = frame.positions.reshape(-1)
        if labels.forces is not None:
            values[19 + 3 * natoms :] = labels.forces.reshape(-1)
        self._file.write(values.tobytes())
        numbers = self._numbers.setdefault(frame.numbers.tobytes(), frame.numbers)
        record = Record(
            self._offset,
            numbers,
            all(frame.pbc),
            labels.names,
            config_type,
            frame.source,
            frame.index,
            labels.values,
        )
        self._offset += values.nbytes
        return record

    def read(self, record: Record) -> Stored:
        """Read a frame back.

        Parameters
        ----------
        record : Record
            From :meth:`add`.

        Returns
        -------
        Stored
            Zeros where there is no label.
        """
        natoms = record.natoms
        self._file.seek(record.offset)
        values = np.frombuffer(self._file.read(8 * (19 + 6 * natoms)))
        atoms = values[19:].reshape(2, natoms, 3)
        return Stored(
            atoms[0], values[:9].reshape(3, 3), float(values[9]), atoms[1], values[10:19].reshape(3, 3)
        )

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
