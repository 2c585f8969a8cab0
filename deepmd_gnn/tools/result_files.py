"""Read what DeePMD-kit writes while training (``lcurve.out``) and testing (``dp test -d PREFIX``)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Quantity → (suffix of the detail file, values per row).
DETAILS = {"energy": ("e_peratom", 1), "force": ("f", 3), "virial": ("v_peratom", 9)}


@dataclass(frozen=True)
class LearningCurve:
    """Columns of a ``lcurve.out``."""

    columns: dict[str, np.ndarray]
    """Values by DeePMD-kit's name, e.g. ``step``, ``rmse_f_val``, ``lr``; in a multi-task run with the head's name
    at the end."""

    def heads(self) -> list[str]:
        """Ends of the column names: ``[""]``, or one ``"_head"`` per head of a multi-task run."""
        ends: dict[str, None] = {}
        for name in self.columns:
            for part in ("_trn", "_val"):
                if name.startswith("rmse") and part in name:
                    ends[name.split(part, 1)[1]] = None
        return list(ends)


@dataclass(frozen=True)
class Series:
    """References and predictions of one system."""

    name: str
    reference: np.ndarray
    """eV/atom, eV/Å or eV/atom, shape (rows, values per row)."""
    prediction: np.ndarray
    """As the reference."""


def read_learning_curve(path: Path) -> LearningCurve:
    """Read a ``lcurve.out``.

    Where a restarted training went back to an earlier step, the abandoned rows are left out.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    LearningCurve

    Raises
    ------
    ValueError
        If the file is not there, or not a learning curve.
    """
    names: list[str] = []
    rows: list[list[float]] = []
    for number, line in _lines(path, "`dp train` writes it"):
        words = line.lstrip("#").split()
        if line.startswith("#"):
            if words[:1] != ["step"]:
                continue
            if names and words != names:
                raise ValueError(f"{path}, line {number}: the columns change; plot the runs one by one.")
            names = words
            continue
        row = _numbers(words, len(names), path, number)
        while rows and rows[-1][0] >= row[0]:
            rows.pop()
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows with a training step; is it a lcurve.out of `dp train`?")
    return LearningCurve(dict(zip(names, np.array(rows).T, strict=True)))


def read_details(prefix: Path, quantity: str) -> tuple[list[Series], int]:
    """Read a detail file of ``dp test -d PREFIX``.

    Parameters
    ----------
    prefix : Path
        The prefix given to ``dp test``.
    quantity : str
        Key of :data:`DETAILS`.

    Returns
    -------
    series : list[Series]
        One per system that a comment line names. DeePMD-kit 3.2 names only the first system of a file, so the rows
        below a single comment line are called by the prefix.
    left_out : int
        Rows left out because they have no reference: DeePMD-kit fills in zeros.

    Raises
    ------
    ValueError
        If the file is not there or has other columns.
    """
    suffix, width = DETAILS[quantity]
    path = Path(f"{prefix}.{suffix}.out")
    name = str(prefix)
    tables: dict[str, list[list[float]]] = {}
    for number, line in _lines(path, f"`dp test -d {prefix}` writes it"):
        if line.startswith("#"):
            name = line[1:].rsplit(": data_", 1)[0].strip()
        else:
            tables.setdefault(name, []).append(_numbers(line.split(), 2 * width, path, number))
    if not tables:
        raise ValueError(f"{path}: no rows; did `dp test` find any frames?")
    if len(tables) == 1:
        tables = {str(prefix): next(iter(tables.values()))}
    return _labelled({name: np.array(rows) for name, rows in tables.items()}, width)


def _labelled(tables: dict[str, np.ndarray], width: int) -> tuple[list[Series], int]:
    """Drop what has no reference; a single atom may have no force, so forces only count as a whole."""
    series, left_out = [], 0
    for name, table in tables.items():
        labelled = (table[:, :width] != 0.0).any(axis=1)
        if width == 3 and labelled.any():
            labelled[:] = True
        left_out += int((~labelled).sum())
        if labelled.any():
            series.append(Series(name, table[labelled, :width], table[labelled, width:]))
    return series, left_out


def _lines(path: Path, origin: str) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {origin}.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file; {origin}.") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _numbers(words: list[str], count: int, path: Path, number: int) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}.") from error
    if len(values) != count:
        raise ValueError(f"{path}, line {number}: {len(values)} columns instead of {count}; cut off?")
    return values
