"""From files of labelled structures to a folder that DeePMD-kit trains on."""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from deepmd_gnn.config.embeddings import CHARGE, DEFAULTS, INFO_KEYS
from deepmd_gnn.datasets.cells import whole_periodicity
from deepmd_gnn.datasets.database import write_database
from deepmd_gnn.datasets.distances import shortest_distances
from deepmd_gnn.datasets.folders import QUANTITIES_FILE, write_group
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.isolated import E0_FILE, IsolatedAtoms
from deepmd_gnn.datasets.labels import DEFAULT_KEYS, LabelReader, Labels
from deepmd_gnn.datasets.layout import make_groups, type_map_of
from deepmd_gnn.datasets.sources import read_frames
from deepmd_gnn.datasets.splitting import split
from deepmd_gnn.datasets.spool import Record, Spool
from deepmd_gnn.datasets.suspicions import Inspector

PARTS = ("train", "valid", "test")
REPORT_FILE = "report.json"
LAYOUTS = ("auto", "systems", "mixed", "lmdb")
_WINDOW = 128  # frames whose distances are looked at together
DOUBTS = ("duplicates", "overlaps", "forces")


@dataclass
class Conversion:
    """What is to be done."""

    files: dict[str, list[Path]]
    """Of each part; ``train`` at least."""
    keys: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(DEFAULT_KEYS))
    type_map: list[str] | None = None
    layout: str = "auto"
    valid_fraction: float = 0.1
    seed: int = 123
    mixed_pbc: str = "refuse"
    by_config_type: bool = False
    drop: frozenset[str] = frozenset()
    """Doubtful frames that are left out: some of :data:`DOUBTS`."""
    format: str | None = None
    fparam: tuple[str, ...] = ()
    """Quantities of frames that are written as ``fparam``, in this order: ``total_charge``, or with the file's name for it
    ``total_charge=Q``."""
    watch: Callable[[Iterable[Frame]], Iterable[Frame]] = iter
    """Passes frames on and shows how far it is."""

    @property
    def quantity_names(self) -> list[str]:
        """Names of the columns of ``fparam``."""
        return [one.partition("=")[0] for one in self.fparam]


def convert(job: Conversion, output: Path) -> dict[str, Any]:
    """Write a data folder, whole or not at all.

    Parameters
    ----------
    job : Conversion
        What to read and how.
    output : Path
        Folder; must not exist, or be empty.

    Returns
    -------
    dict[str, Any]
        The report, which is also in ``report.json``.

    Raises
    ------
    DataError, ValueError
        If a file is bad; nothing is written then.
    """
    if job.fparam and job.layout == "lmdb":
        raise DataError("--fparam goes with folders, not with --layout lmdb.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output}: is there already. Give another name, or remove it first.")
    if os.path.ismount(output):
        raise DataError(
            f"{output}: is a file system of its own, which a folder cannot be moved to. Name a folder in it."
        )
    place = Path(os.path.realpath(output))  # a link stays a link
    for part in PARTS:
        for path in job.files.get(part, []):
            if not path.exists():
                raise DataError(f"{path}: no such file.")
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as temporary:
        spool = Spool(Path(temporary))
        try:
            reading = _Reading(job, spool)
            parts = reading.all_parts()
            folder = Path(temporary) / "data"
            folder.mkdir()
            report = reading.report()
            report |= _write(folder, parts, reading.isolated.energies, job, spool)
        finally:
            spool.close()
        (folder / REPORT_FILE).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        if place.exists():
            shutil.copymode(place, folder)
        folder.rename(place)  # also onto an empty folder
    return report


class _Reading:
    """Files on their way into the spool."""

    def __init__(self, job: Conversion, spool: Spool) -> None:
        self.job, self.spool = job, spool
        self.labels = LabelReader(job.keys)
        self.isolated = IsolatedAtoms()
        self.inspector = Inspector()
        self.config_types: Counter[str] = Counter()
        self.frames: dict[str, int] = {}
        self.dropped: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.alike: dict[str, set[str]] = {"energy": set(), "forces": set()}
        self.unlabelled: list[Record] = []
        self.crossing = 0

    def all_parts(self) -> dict[str, list[Record]]:
        """Records of training, validation, test and unlabelled frames."""
        read = {part: self._part(part) for part in PARTS}
        if not any(read.values()):
            raise DataError(self._nothing())
        parts = {part: [record for record, _ in pairs] for part, pairs in read.items()}
        if not read["valid"] and self.job.valid_fraction > 0 and len(read["train"]) > 1:
            training, validation = split(len(read["train"]), self.job.valid_fraction, self.job.seed)
            pairs = read["train"]
            read["train"], read["valid"] = [pairs[k] for k in training], [pairs[k] for k in validation]
            parts |= {part: [record for record, _ in read[part]] for part in ("train", "valid")}
        trained = {digest for _, digest in read["train"]}
        self.crossing = sum(digest in trained for part in PARTS[1:] for _, digest in read[part])
        return {**parts, "unlabelled": self.unlabelled}

    def _part(self, part: str) -> list[tuple[Record, bytes]]:
        pairs = []
        for path in self.job.files.get(part, []):
            frames = iter(self.job.watch(read_frames(path, self.job.format)))
            count = 0
            while window := list(islice(frames, _WINDOW)):
                count += len(window)
                taken = [one for one in map(self._take, window) if one is not None]
                distances = shortest_distances([frame for frame, _ in taken])
                for (frame, labels), distance in zip(taken, distances, strict=True):
                    pair = self._keep(frame, labels, distance)
                    if pair is not None:
                        pairs.append(pair)
            self.frames[str(path)] = self.frames.get(str(path), 0) + count
        return pairs

    def _take(self, frame: Frame) -> tuple[Frame, Labels] | None:
        """A frame for training with its labels; others find their place here."""
        if not (np.isfinite(frame.positions).all() and np.isfinite(frame.cell).all()):
            raise DataError(f"{frame.where}: a coordinate or the cell is not finite. Take the frame out.")
        labels = self.labels.read(frame)
        labels.values = self._values(frame)
        if len(self.seen) < 100:
            self.seen.update([*frame.info, *frame.arrays, *frame.results])
            self.alike["energy"].update(key for key, value in frame.info.items() if isinstance(value, float))
            self.alike["forces"].update(
                key for key, array in frame.arrays.items() if array.shape == (frame.natoms, 3)
            )
        if self.isolated.take(frame, labels, self.labels, *self._charge(frame, labels)):
            return None
        whole = whole_periodicity(frame, self.job.mixed_pbc, self.labels)
        if whole is None:
            return None
        if not labels.names:
            self.unlabelled.append(self.spool.add(whole, labels, frame.config_type))
            return None
        return whole, labels

    def _charge(self, frame: Frame, labels: Labels) -> tuple[float, bool]:
        """Total charge of a frame, e, 0 if the file gives none; and whether it is trained."""
        names = self.job.quantity_names
        if CHARGE in names:
            return labels.values[names.index(CHARGE)], True
        given = (frame.info.get(key) for key in (CHARGE, INFO_KEYS[CHARGE]))
        charge = next((value for value in given if isinstance(value, (int, float, np.number))), 0.0)
        return float(charge), False

    def _values(self, frame: Frame) -> tuple[float, ...]:
        """Quantities of a frame, by their names in the file or those of ASE and native MACE."""
        found = []
        for name, _, key in (one.partition("=") for one in self.job.fparam):
            keys = (key,) if key else (name, INFO_KEYS.get(name, name))
            value = next((frame.info[key] for key in keys if frame.info.get(key) is not None), None)
            if value is None and name not in DEFAULTS:
                raise DataError(
                    f"{frame.where}: has no {name}, which --fparam asks for and which has no default value."
                )
            if value is None:
                self.labels.note(frame, f"no {' or '.join(dict.fromkeys(keys))}: {DEFAULTS[name]:g} is taken")
            try:
                found.append(DEFAULTS[name] if value is None else float(value))
            except (TypeError, ValueError):
                raise DataError(f"{frame.where}: {name} must be a number, but is {value!r}.") from None
        return tuple(found)

    def _keep(self, frame: Frame, labels: Labels, distance: float | None) -> tuple[Record, bytes] | None:
        doubts = self.inspector.inspect(frame, labels, distance) & self.job.drop
        if doubts:
            self.dropped[min(doubts)] += 1
            return None
        kind = frame.config_type
        self.config_types[kind] += 1
        return self.spool.add(frame, labels, kind), self.inspector.digest

    def _nothing(self) -> str:
        files = ", ".join(str(path) for paths in self.job.files.values() for path in paths)
        if self.isolated.energies and not self.unlabelled:
            return f"{files}: only isolated atoms; there is nothing to train on."
        wanted = "; ".join(f"{name}: {', '.join(keys)}" for name, keys in self.job.keys.items())
        return (
            f"{files}: no frame has a label. Looked for {wanted}. The files have {', '.join(sorted(self.seen)) or 'no names'}: "
            "name yours with --energy-key, --forces-key, --stress-key or --virials-key."
        )

    def _missing(self) -> list[dict[str, Any]]:
        """Doubts about energies or forces that not one frame has, while others of their shape are not read."""
        used = dict(label.split(": ", 1) for label in self.labels.used)
        return [
            {
                "what": f"no frame has {name}; if the files have another name for it, give that with --{name}-key",
                "frames": 0,
                "examples": [f"not read, and of the shape of {name}: {', '.join(sorted(others))}"],
            }
            for name, others in self.alike.items()
            if name not in used and others
        ]

    def report(self) -> dict[str, Any]:
        """What was read and noticed."""
        notes = [
            {"what": sentence, "frames": count, "first": self.labels.first[sentence]}
            for sentence, count in self.labels.notes.items()
        ]
        doubts = [
            {"what": doubt.sentence, "frames": doubt.count, "examples": doubt.frames}
            for doubt in self.inspector.conclude()
        ]
        if self.crossing:
            what = "validation or test frames that are also training frames: their errors say nothing about new structures"
            doubts.append({"what": what, "frames": self.crossing, "examples": []})
        doubts += self._missing()
        return {
            "files": self.frames,
            "labels": dict(self.labels.used),
            "names that look like labels and are not read": dict(self.labels.unused),
            "config_types": dict(self.config_types),
            "notes": notes,
            "doubts": doubts,
            "dropped": dict(self.dropped),
            "isolated_atoms": self.isolated.energies,
        }


def _write(
    folder: Path, parts: dict[str, list[Record]], energies: dict[str, float], job: Conversion, spool: Spool
) -> dict[str, Any]:
    records = [record for members in parts.values() for record in members]
    type_map = type_map_of(records, job.type_map)
    written: dict[str, list[dict[str, Any]]] = {}
    for part, members in parts.items():
        if not members:
            continue
        if job.layout == "lmdb":
            _refuse_free_boundaries(members)
            write_database(folder / f"{part}.lmdb", members, spool, type_map)
            written[part] = [_entry(f"{part}.lmdb", members, sorted({n for r in members for n in r.labels}))]
            continue
        written[part] = []
        for group in make_groups(members, type_map, job.layout, job.by_config_type):
            write_group(folder / part / group.name, group, spool, type_map)
            written[part].append(_entry(f"{part}/{group.name}", group.records, list(group.records[0].labels)))
    if energies:
        (folder / E0_FILE).write_text(json.dumps(energies, indent=2) + "\n")
    if job.fparam:
        (folder / QUANTITIES_FILE).write_text(json.dumps(job.quantity_names) + "\n")
    return {"type_map": type_map, "parts": written}


def _refuse_free_boundaries(records: list[Record]) -> None:
    for record in records:
        if not record.periodic:
            raise DataError(
                f"{record.source}, frame {record.index} (counted from 0): has no periodic cell, and DeePMD-kit does not train on "
                "databases with such frames (its count of neighbours fails). Take --layout mixed."
            )


def _entry(name: str, records: Sequence[Record], labels: list[str]) -> dict[str, Any]:
    sizes = [record.natoms for record in records]
    return {
        "folder": name,
        "frames": len(records),
        "atoms": [min(sizes), max(sizes)],
        "labels": labels,
        "periodic": all(record.periodic for record in records),
    }
