"""What a data folder holds, as far as an input for training depends on it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.datasets.database import database_metadata, is_database, read_database
from deepmd_gnn.datasets.folders import (
    QUANTITIES_FILE,
    find_systems,
    load,
    numbers_of,
    read_systems,
    system_type_map,
)
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.isolated import E0_FILE

_SAMPLED = 200  # frames of each system or database


@dataclass
class Quantity:
    """What one column of ``fparam.npy`` holds."""

    least: float
    most: float
    whole: bool
    """Whether all values are whole numbers."""


@dataclass
class Part:
    """Training, validation or test data."""

    systems: str | list[str]
    """For the input: a database, or a list of folders."""
    frames: int = 0
    type_map: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Atoms of sampled frames."""
    compositions: set[tuple[tuple[str, int], ...]] = field(default_factory=set)
    """Of sampled frames: numbers of atoms by element."""
    labels: dict[str, int] = field(default_factory=dict)
    """Frames with energy, force and virial."""
    periodic: int = 0
    """Frames with a cell."""
    volume_per_atom: float = 0.0
    """Å³, mean over sampled periodic frames."""
    nsystems: int = 1
    quantities: list["Quantity"] = field(default_factory=list)
    """Columns of ``fparam.npy``."""

    @property
    def mean_size(self) -> float:
        """Atoms per frame."""
        return float(np.mean(self.sizes))

    @property
    def is_database(self) -> bool:
        """Whether it is one LMDB database."""
        return isinstance(self.systems, str)

    def undetermined(self) -> int:
        """How many energies of elements the compositions leave open."""
        names = sorted({name for composition in self.compositions for name, _ in composition})
        table = [[dict(composition).get(name, 0) for name in names] for composition in self.compositions]
        return len(names) - int(np.linalg.matrix_rank(np.array(table))) if table else 0


@dataclass
class DataFolder:
    """A folder of :func:`deepmd_gnn.datasets.conversion.convert`, or any other with data of DeePMD-kit."""

    path: Path
    train: Part
    valid: Part | None
    test: Part | None
    e0: Path | None
    """File with the energies of isolated atoms."""
    quantity_names: list[str] = field(default_factory=list)
    """Of the columns of ``fparam.npy``."""


def summarise_folder(path: Path) -> DataFolder:
    """Look into a data folder.

    Parameters
    ----------
    path : Path
        With ``train`` and perhaps ``valid`` and ``test`` (folders, or databases ``train.lmdb`` …); if it has none of these,
        all of it is training data.

    Returns
    -------
    DataFolder

    Raises
    ------
    DataError
        If it has no data.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder. `deepmd-gnn data FILE -o {path}` makes one.")
    parts = {name: _part(path, name) for name in ("train", "valid", "test")}
    train = parts["train"]
    if train is None and not any(parts.values()):
        train = _read_part(path)
    if train is None:
        raise DataError(
            f"{path}: has no training data: neither train/, train.lmdb, nor folders with type.raw. `deepmd-gnn data FILE -o "
            "FOLDER` makes a folder."
        )
    e0 = path / E0_FILE
    return DataFolder(
        path, train, parts["valid"], parts["test"], e0 if e0.is_file() else None, _quantity_names(path, train)
    )


def _quantity_names(path: Path, train: Part) -> list[str]:
    """Those that `deepmd-gnn data` has written beside the data, or numbers."""
    file = path / QUANTITIES_FILE
    if not file.is_file():
        return [f"fparam_{column}" for column in range(len(train.quantities))]
    names = json.loads(file.read_text())
    if not isinstance(names, list) or len(names) != len(train.quantities):
        raise DataError(
            f"{file}: must be a list of the {len(train.quantities)} columns of fparam.npy, but is {names!r}."
        )
    return [str(name) for name in names]


def _part(path: Path, name: str) -> Part | None:
    if is_database(path / f"{name}.lmdb"):
        return _read_part(path / f"{name}.lmdb")
    return _read_part(path / name) if (path / name).is_dir() else None


def _read_part(path: Path) -> Part | None:
    if is_database(path):
        metadata = database_metadata(path)
        part = Part(str(path), int(metadata["nframes"]), list(metadata["type_map"]))
        part.nsystems = len(set(metadata.get("frame_system_ids", [0])))
        _sample(part, read_database(path), part.frames)
        return part
    systems = find_systems(path)
    if not systems:
        return None
    part = Part([str(one) for one in systems], nsystems=len(systems))
    for system in systems:
        names = system_type_map(system)
        part.type_map += [name for name in names if name not in part.type_map]
        count = 0
        for one in sorted(system.glob("set.*")):
            frames = len(numbers_of(one / "coord.npy"))
            count += frames
            # An array of another length is found now, not by the trainer.
            for name in ("energy", "force", "virial", "box"):
                if (one / f"{name}.npy").is_file():
                    load(one / f"{name}.npy", frames)
            if (one / "fparam.npy").is_file():
                _add_quantities(part, load(one / "fparam.npy", frames), one)
        part.frames += count
        _sample(part, read_systems(system), count)
    return part


def _add_quantities(part: Part, values: np.ndarray, folder: Path) -> None:
    """Widen the ranges by values of shape (nframes, nquantity)."""
    table = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    found = [
        Quantity(float(one.min()), float(one.max()), bool((one == np.round(one)).all())) for one in table.T
    ]
    if part.quantities and len(part.quantities) != len(found):
        raise DataError(
            f"{folder}/fparam.npy: has {len(found)} columns, and other folders {len(part.quantities)}."
        )
    before = part.quantities or found
    part.quantities = [
        Quantity(min(a.least, b.least), max(a.most, b.most), a.whole and b.whole)
        for a, b in zip(before, found, strict=True)
    ]


def _sample(part: Part, frames: Iterator[Frame], count: int) -> None:
    """Evenly spread frames; labels of frames between them are taken to be alike."""
    every = max(1, count // _SAMPLED)
    names = {"energy": "REF_energy", "force": "REF_forces", "virial": "REF_virials"}
    volumes = [part.volume_per_atom] if part.volume_per_atom else []
    for k, frame in enumerate(frames):
        if k % every:
            continue
        weight = min(every, count - k)
        part.sizes.append(frame.natoms)
        numbers, counts = np.unique(frame.numbers, return_counts=True)
        part.compositions.add(
            tuple(
                (chemical_symbols[number], int(n)) for number, n in zip(numbers.tolist(), counts, strict=True)
            )
        )
        for label, key in names.items():
            if key in frame.info or key in frame.arrays:
                part.labels[label] = part.labels.get(label, 0) + weight
        if any(frame.pbc):
            part.periodic += weight
            volumes.append(abs(float(np.linalg.det(frame.cell))) / frame.natoms)
    part.volume_per_atom = float(np.mean(volumes)) if volumes else 0.0
