"""Read what ``deepmd-gnn evaluate`` wrote, for parity plots by system or by element."""

from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.datasets.extxyz import read_extxyz
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.labels import LabelReader, Labels, full_matrix
from deepmd_gnn.tools.errors import system_name
from deepmd_gnn.tools.result_files import Series

_Rows = dict[str, dict[str, list[tuple[np.ndarray, np.ndarray]]]]


def read_evaluated(path: Path, by: str = "system", prefix: str = "MACE_") -> dict[str, list[Series]]:
    """Read references and predictions.

    Parameters
    ----------
    path : Path
        Extended XYZ with labels, and predictions under their names.
    by : str
        "system": a series for each config_type, else composition; "element": of forces one for each element; energies and
        virials belong to no element, and are one series.
    prefix : str
        Of the names of predictions.

    Returns
    -------
    dict[str, list[Series]]
        Of energy (eV/atom), force (eV/Å) and virial (eV/atom); empty where there are no references.

    Raises
    ------
    DataError
        If no frame has both.
    """
    labels = LabelReader()
    rows: _Rows = {"energy": {}, "force": {}, "virial": {}}
    for frame in read_extxyz(path):
        if f"{prefix}energy" not in frame.info:
            raise DataError(f"{frame.where}: has no {prefix}energy; `deepmd-gnn evaluate` writes it.")
        _add(rows, frame, labels.read(frame), by, prefix)
    if not any(rows.values()):
        raise DataError(f"{path}: no reference energies, forces or stresses to compare with.")
    return {quantity: [_series(name, pairs) for name, pairs in series.items()] for quantity, series in rows.items()}  # fmt: skip


def _add(rows: _Rows, frame: Frame, known: Labels, by: str, prefix: str) -> None:
    name = system_name(frame) if by == "system" else "all"
    if known.energy is not None:
        pair = np.array([[known.energy], [frame.info[f"{prefix}energy"]]]) / frame.natoms
        rows["energy"].setdefault(name, []).append((pair[:1], pair[1:]))
    if known.forces is not None:
        predicted = frame.arrays[f"{prefix}forces"]
        kinds = np.unique(frame.numbers) if by == "element" else [None]
        for kind in kinds:
            chosen = slice(None) if kind is None else frame.numbers == kind
            title = name if kind is None else chemical_symbols[int(kind)]
            rows["force"].setdefault(title, []).append((known.forces[chosen], predicted[chosen]))
    stress = frame.info.get(f"{prefix}stress")
    if known.virial is not None and stress is not None:
        virial = -full_matrix(np.asarray(stress, dtype=float)) * abs(float(np.linalg.det(frame.cell)))
        pair = np.stack([known.virial.reshape(1, 9), virial.reshape(1, 9)]) / frame.natoms
        rows["virial"].setdefault(name, []).append((pair[0], pair[1]))


def _series(name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Series:
    references, predictions = zip(*pairs, strict=True)
    return Series(name, np.concatenate(references), np.concatenate(predictions))
