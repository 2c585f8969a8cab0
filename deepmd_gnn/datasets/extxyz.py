"""Extended XYZ, read and written frame by frame.

ASE's reader makes a Python tuple of every atom and parses every comment line letter by letter. This one reads the same
format in a third of the time, never holds more than a frame, and goes on after empty lines, where ASE's stops without a word.
"""

import gzip
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from ase.io.extxyz import key_val_dict_to_str, key_val_str_to_dict

from deepmd_gnn.datasets.frames import DataError, Frame

SUFFIXES = (".xyz", ".extxyz", ".xyz.gz", ".extxyz.gz")
_PLAIN = "species:S:1:pos:R:3"
_SYMBOLS = ("species", "symbols", "element")
_KEPT = 1000  # species columns, Properties and other words that are remembered
# What makes a comment line more than words and quoted texts.
_SPECIAL = re.compile(r"[\\'\[\]{}]")
_ITEM = re.compile(r"""(([^\s="]+)(?:=(?:"([^"]*)"|([^\s"]*)))?)""")


def is_extxyz(path: Path) -> bool:
    """Whether a file's name is that of extended XYZ."""
    return path.name.lower().endswith(SUFFIXES)


def read_extxyz(path: Path) -> Iterator[Frame]:
    """Read a file frame by frame.

    Parameters
    ----------
    path : Path
        Extended XYZ, perhaps compressed (``.gz``).

    Yields
    ------
    Frame
        What ASE would call results of a calculator (``energy``, ``forces``, …) is in ``info`` and ``arrays``.

    Raises
    ------
    DataError
        If the file is no extended XYZ, or ends within a frame.
    """
    reader = _Reader(str(path))
    try:
        with gzip.open(path, "rt") if path.name.endswith(".gz") else path.open() as file:
            yield from reader.frames(file)  # type: ignore[arg-type]
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: is no text file in the format extended XYZ ({error}).") from error


class _Reader:
    """Where a file's reading has come to, and what many frames have in common."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.line = 0
        self.index = 0
        self._properties: dict[str, list[tuple[str, str, slice]]] = {}
        self._numbers: dict[tuple[str, ...], np.ndarray] = {}
        self._words: dict[str, dict[str, Any]] = {}

    def frames(self, file: TextIO) -> Iterator[Frame]:
        while header := file.readline():
            self.line += 1
            if header.isspace():
                continue
            natoms = self._natoms(header)
            comment = file.readline()
            rows = list(islice(file, natoms))
            if len(rows) < natoms:
                raise DataError(
                    f"{self._where}: ends after {len(rows)} of {natoms} atoms. The file was cut off; copy it again, or "
                    f"remove its last frame, which begins in line {self.line}."
                )
            yield self._frame(natoms, comment, rows)
            self.line += 1 + natoms
            self.index += 1

    @property
    def _where(self) -> str:
        return f"{self.source}, frame {self.index} (counted from 0)"

    def _natoms(self, header: str) -> int:
        try:
            natoms = int(header)
        except ValueError:
            natoms = 0
        if natoms < 1:
            raise DataError(
                f"{self._where}: line {self.line} should be the number of atoms, but is {header.strip()[:60]!r}. "
                "Is this extended XYZ? Other formats: --format NAME."
            )
        return natoms

    def _frame(self, natoms: int, comment: str, rows: list[str]) -> Frame:
        info = self._info(comment)
        pbc = info.pop("pbc", None)
        lattice = info.pop("Lattice", None)
        columns = self._columns(str(info.pop("Properties", _PLAIN)))
        arrays = self._arrays(columns, rows)
        numbers = self._take_numbers(arrays)
        cell = np.zeros((3, 3)) if lattice is None else self._cell(lattice)
        if isinstance(pbc, (bool, np.bool_)):
            pbc = [pbc] * 3
        flags = [lattice is not None] * 3 if pbc is None else [bool(one) for one in pbc]
        if len(flags) != 3:
            raise DataError(f'{self._where}: pbc has {len(flags)} values instead of 3, such as pbc="T T T".')
        positions = self._positions(arrays, natoms)
        return Frame(
            self.source, self.index, numbers, positions, cell, (flags[0], flags[1], flags[2]), info, arrays
        )

    def _info(self, comment: str) -> dict[str, Any]:
        if _SPECIAL.search(comment):
            return self._parsed(comment.strip())
        info: dict[str, Any] = {}
        for text, key, quoted, plain in _ITEM.findall(comment):
            value = _numbers(quoted or plain) if key not in ("Properties", "pbc") else None
            if value is None:
                info |= self._known(text)
            elif key in ("stress", "virial", "Lattice") and value.size == 9:  # ASE's order
                info[key] = value.reshape(3, 3).T
            else:
                info[key] = value if value.size > 1 else value[0]
        return info

    def _known(self, text: str) -> dict[str, Any]:
        """Words that most frames share, such as Properties and pbc, parsed once."""
        if text not in self._words:
            if len(self._words) > _KEPT:
                self._words.clear()
            self._words[text] = self._parsed(text)
        return self._words[text]

    def _parsed(self, comment: str) -> dict[str, Any]:
        try:
            return dict(key_val_str_to_dict(comment))
        except (ValueError, IndexError):
            # ASE has no other stress or virial than of nine numbers; with another name all shapes are read.
            hidden = re.sub(r"(?<!\S)(stress|virial)(?==)", r"@\1", comment)
        try:
            return {key.removeprefix("@"): value for key, value in key_val_str_to_dict(hidden).items()}
        except (ValueError, IndexError) as error:
            raise DataError(f"{self._where}: the comment line cannot be read: {error}.") from error

    def _columns(self, text: str) -> list[tuple[str, str, slice]]:
        if text not in self._properties:
            fields = text.split(":")
            try:
                widths = [int(width) for width in fields[2::3]]
                triplets = list(zip(fields[::3], fields[1::3], widths, strict=True))
                if not triplets or min(widths) < 1 or {kind for _, kind, _ in triplets} - set("SRIL"):
                    raise ValueError
            except ValueError:
                raise DataError(
                    f"{self._where}: Properties={text[:80]!r} is not a list of NAME:TYPE:COLUMNS with types S, R, I or L."
                ) from None
            ends = np.cumsum(widths).tolist()
            found = [
                (n, k, slice(end - width, end)) for (n, k, width), end in zip(triplets, ends, strict=True)
            ]
            if len(self._properties) > _KEPT:
                self._properties.clear()
            self._properties[text] = found
        return self._properties[text]

    def _arrays(self, columns: list[tuple[str, str, slice]], rows: list[str]) -> dict[str, Any]:
        width = columns[-1][2].stop
        numeric = [k for _, kind, place in columns if kind in "RI" for k in range(place.start, place.stop)]
        try:
            table = np.loadtxt(rows, usecols=numeric, comments=None, ndmin=2)
        except ValueError as error:
            self._wrong_columns(rows, width)
            raise DataError(f"{self._where}: {error}.") from error
        if len(table) < len(rows) or len(rows[0].split()) != width:
            self._wrong_columns(rows, width)
        arrays: dict[str, Any] = {}
        begin = 0
        for name, kind, place in columns:
            span = place.stop - place.start
            if kind in "RI":
                arrays[name] = table[:, begin : begin + span] if span > 1 else table[:, begin]
                begin += span
            elif kind == "S" and span == 1:
                first = place.start
                arrays[name] = tuple([row.split(None, first + 1)[first] for row in rows])
        return arrays

    def _wrong_columns(self, rows: list[str], width: int) -> None:
        for place, row in enumerate(rows):
            if len(row.split()) != width:
                raise DataError(
                    f"{self._where}: line {self.line + 2 + place} has {len(row.split())} columns, but Properties names {width}."
                )

    def _take_numbers(self, arrays: dict[str, Any]) -> np.ndarray:
        for key in ("Z", "numbers"):
            if isinstance(arrays.get(key), np.ndarray):
                numbers = arrays.pop(key).astype(int)
                if numbers.min() < 1 or numbers.max() >= len(chemical_symbols):
                    raise DataError(f"{self._where}: {key} has a value that is no atomic number.")
                for name in _SYMBOLS:
                    arrays.pop(name, None)
                return numbers
        for key in _SYMBOLS:
            if isinstance(arrays.get(key), tuple):
                return self._numbers_of(arrays.pop(key))
        raise DataError(f"{self._where}: Properties has no column of elements (species:S:1 or Z:I:1).")

    def _numbers_of(self, species: tuple[str, ...]) -> np.ndarray:
        numbers = self._numbers.get(species)
        if numbers is None:
            try:
                numbers = np.array([atomic_numbers[name.capitalize()] for name in species])
            except KeyError as error:
                raise DataError(f"{self._where}: {error.args[0]!r} is no element.") from None
            if len(self._numbers) > _KEPT:
                self._numbers.clear()
            self._numbers[species] = numbers
        return numbers

    def _cell(self, lattice: Any) -> np.ndarray:
        cell = np.asarray(lattice)
        if cell.size != 9 or cell.dtype.kind not in "fi":
            raise DataError(f"{self._where}: Lattice has {cell.size} values instead of 9 numbers.")
        # ASE gives the transposed matrix: extended XYZ lists vector after vector.
        return np.array(cell.T if cell.shape == (3, 3) else cell.reshape(3, 3), dtype=float)

    def _positions(self, arrays: dict[str, Any], natoms: int) -> np.ndarray:
        for key in ("pos", "positions"):
            if key in arrays:
                positions = arrays.pop(key)
                if np.shape(positions) == (natoms, 3):
                    return np.asarray(positions, dtype=float)
        raise DataError(f"{self._where}: Properties has no column of positions (pos:R:3).")


def _numbers(text: str) -> np.ndarray | None:
    """Numbers of a word or a quoted text; None if it is something else."""
    try:
        values = np.array([float(word) for word in text.replace(",", " ").split()])
    except ValueError:
        return None
    return values if values.size else None


def write_extxyz(file: TextIO, frames: Iterable[Frame]) -> int:
    """Write frames with all digits.

    Parameters
    ----------
    file : TextIO
        Open for writing.
    frames : Iterable[Frame]
        What ``info`` has, and numbers of ``arrays``, are written under their names.

    Returns
    -------
    int
        How many.
    """
    count = 0
    for frame in frames:
        names, columns = ["species:S:1", "pos:R:3"], [frame.positions]
        for key, value in frame.arrays.items():
            if np.asarray(value).dtype.kind not in "fiu":
                continue
            array = np.asarray(value, dtype=float).reshape(frame.natoms, -1)
            names.append(f"{key}:R:{array.shape[1]}")
            columns.append(array)
        comment = {"Properties": ":".join(names), **frame.info}
        if any(frame.pbc):
            lattice = " ".join(map(repr, frame.cell.reshape(9).tolist()))
            line = f'Lattice="{lattice}" {key_val_dict_to_str(comment)}'
        else:
            line = key_val_dict_to_str(comment)
        flags = " ".join("FT"[one] for one in frame.pbc)
        file.write(f'{frame.natoms}\n{line} pbc="{flags}"\n')
        row = "%s" + " %r" * sum(array.shape[1] for array in columns) + "\n"
        table = np.concatenate(columns, axis=1).tolist()
        symbols = [chemical_symbols[number] for number in frame.numbers]
        file.write("".join([row % (s, *v) for s, v in zip(symbols, table, strict=True)]))
        count += 1
    return count
