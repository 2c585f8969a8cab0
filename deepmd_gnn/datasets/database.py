"""DeePMD-kit's LMDB databases of frames of any sizes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
from ase.data import atomic_numbers

from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.spool import Record, Spool

_FORMAT = "012d"
_COMMIT = 1000  # frames of a transaction
_METADATA = b"__metadata__"
# What the host calls arrays in its databases, and MACE's users in their files.
_INFO = {"energies": "REF_energy", "virials": "REF_virials"}


def write_database(path: Path, records: Sequence[Record], spool: Spool, type_map: Sequence[str]) -> None:
    """Write a database.

    Parameters
    ----------
    path : Path
        Folder, is made.
    records : Sequence[Record]
        Frames with any labels; the host makes batches of frames with the same ones.
    spool : Spool
        Has their numbers.
    type_map : Sequence[str]
        Elements.
    """
    places = {atomic_numbers[name]: place for place, name in enumerate(type_map)}
    room = sum(1024 + 8 * (19 + 7 * record.natoms) for record in records)
    environment = lmdb.open(str(path), map_size=2 * room + 2**24)
    systems: dict[bytes, int] = {}
    for begin in range(0, len(records), _COMMIT):
        with environment.begin(write=True) as transaction:
            for k, record in enumerate(records[begin : begin + _COMMIT], begin):
                frame = _packed(record, spool, places)
                transaction.put(f"{k:{_FORMAT}}".encode(), msgpack.packb(frame, use_bin_type=True))
    metadata = {
        "nframes": len(records),
        "frame_idx_fmt": _FORMAT,
        "type_map": list(type_map),
        "frame_nlocs": [record.natoms for record in records],
        "frame_system_ids": [
            systems.setdefault(np.sort(record.numbers).tobytes(), len(systems)) for record in records
        ],
        "system_info": {"natoms": _counts(records[0], places)},
    }
    with environment.begin(write=True) as transaction:
        transaction.put(_METADATA, msgpack.packb(metadata, use_bin_type=True))
    environment.close()


def _counts(record: Record, places: dict[int, int]) -> list[int]:
    return [int((record.numbers == number).sum()) for number in places]


def _packed(record: Record, spool: Spool, places: dict[int, int]) -> dict[str, Any]:
    stored = spool.read(record)
    types = np.array([places[number] for number in record.numbers.tolist()], dtype=np.int32)
    arrays: dict[str, np.ndarray] = {"coords": stored.coord, "cells": stored.box, "atom_types": types}
    labels = {
        "energies": ("energy", np.array(stored.energy)),
        "forces": ("force", stored.force),
        "virials": ("virial", stored.virial),
    }
    arrays |= {key: value for key, (name, value) in labels.items() if name in record.labels}
    frame: dict[str, Any] = {key: _encoded(value) for key, value in arrays.items()}
    frame["atom_numbs"] = _counts(record, places)
    return frame


def _encoded(array: np.ndarray) -> dict[str, Any]:
    return {
        "type": str(array.dtype),
        "shape": list(array.shape),
        "data": np.ascontiguousarray(array).tobytes(),
    }


def is_database(path: Path) -> bool:
    """Whether a folder is a database."""
    return (path / "data.mdb").is_file()


def database_metadata(path: Path) -> dict[str, Any]:
    """Read what a database says about itself.

    Raises
    ------
    DataError
        If it is none of DeePMD-kit's.
    """
    environment = lmdb.open(str(path), readonly=True, lock=False)
    try:
        with environment.begin() as transaction:
            raw = transaction.get(_METADATA)
            if raw is None:
                raise DataError(f"{path}: is no database of DeePMD-kit: the record __metadata__ is missing.")
            return dict(msgpack.unpackb(raw, raw=False))
    finally:
        environment.close()


def read_database(path: Path) -> Iterator[Frame]:
    """Read all frames of a database.

    Parameters
    ----------
    path : Path
        Folder.

    Yields
    ------
    Frame
        With ``REF_energy``, ``REF_forces`` and ``REF_virials``.
    """
    metadata = database_metadata(path)
    numbers = np.array([atomic_numbers[name] for name in metadata["type_map"]])
    environment = lmdb.open(str(path), readonly=True, lock=False)
    try:
        with environment.begin() as transaction:
            for k in range(int(metadata["nframes"])):
                raw = transaction.get(f"{k:{metadata['frame_idx_fmt']}}".encode())
                yield _unpacked(msgpack.unpackb(raw, raw=False), str(path), k, numbers)
    finally:
        environment.close()


def _unpacked(values: dict[str, Any], source: str, index: int, numbers: np.ndarray) -> Frame:
    arrays = {
        key: np.frombuffer(value["data"], dtype=value["type"]).reshape(value["shape"])
        for key, value in values.items()
        if isinstance(value, dict) and "data" in value
    }
    cell = np.array(arrays.get("cells", np.zeros(9)), dtype=float).reshape(3, 3)
    coord = np.array(arrays["coords"], dtype=float).reshape(-1, 3)
    periodic = bool(cell.any())
    frame = Frame(source, index, numbers[arrays["atom_types"].reshape(-1)], coord, cell, (periodic,) * 3)
    for key, name in _INFO.items():
        if key in arrays:
            value = np.array(arrays[key], dtype=float).reshape(-1)
            frame.info[name] = float(value[0]) if key == "energies" else value
    if "forces" in arrays:
        frame.arrays["REF_forces"] = np.array(arrays["forces"], dtype=float).reshape(-1, 3)
    return frame
