"""DeePMD-kit's folders: ``type.raw``, ``type_map.raw``, ``set.000/*.npy``; one composition, or mixed types."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase.data import atomic_numbers

from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.layout import Group
from deepmd_gnn.datasets.spool import Record, Spool

# In a data folder: the names of the columns of fparam.npy.
QUANTITIES_FILE = "fparam.json"
# Frames of a set: bounds the memory of writing.
SET_SIZE = 2000
# Å; padding atoms of a mixed-type folder lie on a diagonal of this spacing, from far outside.
_PADDING = 10.0
_FAR = 1000.0


def write_group(folder: Path, group: Group, spool: Spool, type_map: Sequence[str]) -> None:
    """Write one folder.

    Parameters
    ----------
    folder : Path
        Is made.
    group : Group
        Frames with the same labels and periodicity.
    spool : Spool
        Has their numbers.
    type_map : Sequence[str]
        Elements.
    """
    folder.mkdir(parents=True)
    places = {atomic_numbers[name]: place for place, name in enumerate(type_map)}
    natoms = max(record.natoms for record in group.records)
    first = _types(group.records[0], places)
    # A folder of one composition has one order of atoms: that of its frames, or by type if they differ.
    reordered = not group.mixed and any(
        r.numbers is not group.records[0].numbers and not np.array_equal(_types(r, places), first)
        for r in group.records
    )
    types = np.zeros(natoms, dtype=int) if group.mixed else np.sort(first) if reordered else first
    (folder / "type.raw").write_text("".join(f"{one}\n" for one in types))
    (folder / "type_map.raw").write_text("".join(f"{name}\n" for name in type_map))
    if not group.records[0].periodic:
        (folder / "nopbc").touch()
    for number, begin in enumerate(range(0, len(group.records), SET_SIZE)):
        part = folder / f"set.{number:03d}"
        part.mkdir()
        _write_set(part, group.records[begin : begin + SET_SIZE], spool, places, natoms, group.mixed, reordered)  # fmt: skip


def _types(record: Record, places: dict[int, int]) -> np.ndarray:
    return np.array([places[number] for number in record.numbers.tolist()])


def _write_set(
    folder: Path,
    records: list[Record],
    spool: Spool,
    places: dict[int, int],
    natoms: int,
    mixed: bool,
    reordered: bool,
) -> None:
    count = len(records)
    padding = np.repeat(_FAR + _PADDING * np.arange(natoms)[:, None], 3, axis=1)
    coord, force = np.tile(padding, (count, 1, 1)), np.zeros((count, natoms, 3))
    box, virial, energy = np.zeros((count, 9)), np.zeros((count, 9)), np.zeros(count)
    types = np.full((count, natoms), -1, dtype=np.int64)
    for k, record in enumerate(records):
        stored = spool.read(record)
        kinds = _types(record, places)
        order = np.argsort(kinds, kind="stable") if reordered else slice(None)
        types[k, : record.natoms] = kinds[order]
        coord[k, : record.natoms] = stored.coord[order]
        force[k, : record.natoms] = stored.force[order]
        box[k], virial[k], energy[k] = stored.box.reshape(9), stored.virial.reshape(9), stored.energy
    labels = records[0].labels
    arrays: dict[str, np.ndarray] = {"coord": coord.reshape(count, -1)}
    if records[0].periodic:
        arrays["box"] = box
    if mixed:
        arrays["real_atom_types"] = types
    for name, value in (("energy", energy), ("force", force.reshape(count, -1)), ("virial", virial)):
        if name in labels:
            arrays[name] = value
    if records[0].values:
        arrays["fparam"] = np.array([record.values for record in records], dtype=np.float64)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def find_systems(folder: Path) -> list[Path]:
    """All folders of DeePMD-kit's format in a folder, itself included, in the order of their names."""
    return sorted(path.parent for path in folder.rglob("type.raw") if any(path.parent.glob("set.*")))


def system_type_map(folder: Path) -> list[str]:
    """Elements of a folder.

    Raises
    ------
    DataError
        If it does not name them.
    """
    path = folder / "type_map.raw"
    if not path.is_file():
        raise DataError(
            f"{folder}: has no type_map.raw, so that nobody knows its elements. Write one name a line."
        )
    return path.read_text().split()


def numbers_of(path: Path) -> np.ndarray:
    """Open an array of real numbers, of any shape.

    Raises
    ------
    DataError
        If the file is damaged, or holds something else; objects are not unpickled.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{path}: is no whole array of numbers ({reason[0]}); write it anew.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = array.dtype if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{path}: is of type {kind}, but must hold real numbers; write it anew.")
    return array


def load(path: Path, frames: int, width: int | None = None) -> np.ndarray:
    """Read an array of a set, one row a frame; refuses another shape by name."""
    array = numbers_of(path)
    if array.ndim == 0 or len(array) != frames or (width is not None and array.size != frames * width):
        expected = f"({frames}, {width})" if width else f"({frames}, …)"
        raise DataError(f"{path}: has the shape {array.shape} instead of {expected}.")
    return array.reshape(frames, -1)


def read_systems(folder: Path) -> Iterator[Frame]:
    """Read all frames of a folder, and of the folders in it.

    Parameters
    ----------
    folder : Path
        One system, or a folder that has some.

    Yields
    ------
    Frame
        With ``REF_energy``, ``REF_forces`` and ``REF_virials``. Virtual atoms (type −1) are left out.

    Raises
    ------
    DataError
        If there are none, or an array has the wrong shape.
    """
    systems = find_systems(folder)
    if not systems:
        raise DataError(f"{folder}: has no folder of DeePMD-kit's format (type.raw and set.000/coord.npy).")
    for system in systems:
        names = system_type_map(system)
        numbers = np.array([atomic_numbers.get(name, 0) for name in names])
        if not numbers.all():
            unknown = [name for name, number in zip(names, numbers, strict=True) if not number]
            raise DataError(f"{system}: types {', '.join(unknown)} are no elements.")
        common = np.loadtxt(system / "type.raw", dtype=int, ndmin=1)
        index = 0
        for part in sorted(system.glob("set.*")):
            for frame in _read_set(part, str(system), common, numbers, not (system / "nopbc").exists()):
                frame.index = index
                yield frame
                index += 1


def _whole_types(stored: np.ndarray, part: Path, frame: int) -> np.ndarray:
    """Types of a frame as integers; others would be cut to those of another element, or left out."""
    wrong = ~((stored >= -1) & (np.floor(stored) == stored))
    if wrong.any():
        raise DataError(
            f"{part}: frame {frame} has the type {stored[wrong][0]}. Types are whole numbers from 0, and -1 for padding."
        )
    return stored.astype(int)


def _read_set(
    part: Path, source: str, common: np.ndarray, numbers: np.ndarray, periodic: bool
) -> Iterator[Frame]:
    natoms = len(common)
    count = len(numbers_of(part / "coord.npy"))
    widths = {"coord": 3 * natoms, "box": 9, "energy": 1, "force": 3 * natoms, "virial": 9, "real_atom_types": natoms}  # fmt: skip
    arrays = {
        name: load(part / f"{name}.npy", count, width)
        for name, width in widths.items()
        if (part / f"{name}.npy").is_file()
    }
    if (part / "fparam.npy").is_file():
        arrays["fparam"] = load(part / "fparam.npy", count)
    if periodic and "box" not in arrays:
        raise DataError(
            f"{part}: has no box.npy. Without a cell the system needs an empty file {source}/nopbc."
        )
    for k in range(count):
        types = _whole_types(arrays["real_atom_types"][k], part, k) if "real_atom_types" in arrays else common
        real = types >= 0
        if types.max(initial=-1) >= len(numbers):
            raise DataError(f"{part}: frame {k} has the type {types.max()}, but type_map.raw has {len(numbers)} names.")  # fmt: skip
        box = np.array(arrays["box"][k], dtype=float).reshape(3, 3) if periodic else np.zeros((3, 3))
        frame = Frame(
            source,
            k,
            numbers[types[real]],
            np.array(arrays["coord"][k], dtype=float).reshape(-1, 3)[real],
            box,
            (periodic,) * 3,
        )
        if "energy" in arrays:
            frame.info["REF_energy"] = float(arrays["energy"][k, 0])
        if "fparam" in arrays:
            frame.info["fparam"] = np.array(arrays["fparam"][k], dtype=float)
        if "virial" in arrays and periodic:
            frame.info["REF_virials"] = np.array(arrays["virial"][k], dtype=float)
        if "force" in arrays:
            frame.arrays["REF_forces"] = np.array(arrays["force"][k], dtype=float).reshape(-1, 3)[real]
        yield frame
