"""Frames of any file: extended XYZ, DeePMD-kit's folders and databases, and what ASE or dpdata read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deepmd_gnn.datasets.database import is_database, read_database
from deepmd_gnn.datasets.extxyz import is_extxyz, read_extxyz
from deepmd_gnn.datasets.folders import find_systems, read_systems
from deepmd_gnn.datasets.frames import DataError, Frame, frame_from_atoms


def read_frames(path: Path, format: str | None = None) -> Iterator[Frame]:
    """Read a file frame by frame.

    Parameters
    ----------
    path : Path
        File or folder.
    format : str, optional
        ASE's name of its format, or dpdata's (such as ``vasp/outcar``); by default what the file looks like: extended XYZ,
        DeePMD-kit's, what ASE recognises, what dpdata recognises.

    Yields
    ------
    Frame

    Raises
    ------
    DataError
        If nobody can read it, or it has no frames.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file.")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: is empty.")
    count = 0
    for frame in _reader(path, format):
        count += 1
        yield frame
    if not count:
        raise DataError(f"{path}: has no frames.")


def is_deepmd(path: Path) -> bool:
    """Whether a folder is, or has, data of DeePMD-kit."""
    return path.is_dir() and (
        is_database(path) or any(is_database(one) for one in path.iterdir()) or bool(find_systems(path))
    )


def _reader(path: Path, format: str | None) -> Iterator[Frame]:
    if format in ("extxyz", "xyz") or (format is None and path.is_file() and is_extxyz(path)):
        return read_extxyz(path)
    if format is None and is_deepmd(path):
        return _deepmd(path)
    if format is not None and "/" in format:
        return _dpdata(path, format)
    return _ase_or_dpdata(path, format)


def _deepmd(path: Path) -> Iterator[Frame]:
    databases = [path] if is_database(path) else sorted(one for one in path.rglob("*") if is_database(one))
    for database in databases:
        yield from read_database(database)
    if path not in databases and find_systems(path):
        yield from read_systems(path)


def _ase_or_dpdata(path: Path, format: str | None) -> Iterator[Frame]:
    import ase.io

    try:
        images = ase.io.iread(str(path), index=":", format=format)
        first = next(iter(images), None)
    except Exception as error:  # ASE's readers raise anything
        if format is not None:
            raise DataError(f"{path}: ASE cannot read it as {format} ({_reason(error)}).") from error
        yield from _dpdata(path, "auto", f"ASE: {_reason(error)}; ")
        return
    index = 0
    while first is not None:
        yield frame_from_atoms(first, str(path), index)
        index += 1
        try:
            first = next(images, None)  # type: ignore[call-overload]
        except Exception as error:
            raise DataError(f"{path}, frame {index} (counted from 0): ASE: {_reason(error)}.") from error


def _dpdata(path: Path, format: str, others: str = "") -> Iterator[Frame]:
    import dpdata

    try:
        system: Any = dpdata.LabeledSystem(str(path), fmt=format)
        if not len(system):
            raise ValueError("no frames")
    except Exception as error:  # dpdata's readers raise anything
        raise DataError(
            f"{path}: cannot be read ({others}dpdata: {_reason(error)}). Name the format with --format, ASE's (such as "
            "vasp-out) or dpdata's (such as vasp/outcar)."
        ) from error
    # dpdata's virials have DeePMD-kit's sign; as ASE's atoms they would be a stress, and back.
    has_virials = "virials" in system.data
    for index, atoms in enumerate(system.to("ase/structure")):
        frame = frame_from_atoms(atoms, str(path), index)
        frame.results.pop("stress", None)
        frame.results.pop("virial", None)
        if has_virials:
            frame.info["REF_virials"] = system.data["virials"][index]
        yield frame


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
