"""Which frames meet in a folder: those with the same labels and periodicity, and then the same atoms or a similar size."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.datasets.spool import Record

_ORDER = ("energy", "force", "virial")
# Padding costs no edges, but memory: at most half of a mixed-type folder's atoms.
_LARGEST_RATIO = 2.0


@dataclass
class Group:
    """Frames of one folder."""

    name: str
    records: list[Record]
    mixed: bool
    """Whether the folder has types for each frame."""


def type_map_of(records: Iterable[Record], wanted: Sequence[str] | None = None) -> list[str]:
    """Elements of all frames.

    Parameters
    ----------
    records : Iterable[Record]
        Frames of all parts.
    wanted : Sequence[str], optional
        A type map to take; elements that it lacks are refused.

    Returns
    -------
    list[str]
        By atomic number, as native MACE orders them, or as wanted.

    Raises
    ------
    ValueError
        If `wanted` lacks an element.
    """
    arrays = {id(record.numbers): record.numbers for record in records}
    numbers = sorted({int(one) for array in arrays.values() for one in np.unique(array)})
    found = [chemical_symbols[number] for number in numbers]
    if wanted is None:
        return found
    lacking = [name for name in found if name not in wanted]
    if lacking:
        raise ValueError(f"--type-map {' '.join(wanted)} lacks {', '.join(lacking)}, which the data have.")
    return list(wanted)


def formula(numbers: np.ndarray, type_map: Sequence[str]) -> str:
    """Spell a composition, atomic numbers of shape (natom,), in the order of a type map, such as O64H128."""
    counts = Counter(chemical_symbols[number] for number in numbers.tolist())
    return "".join(
        name + (str(counts[name]) if counts[name] > 1 else "") for name in type_map if counts[name]
    )


def make_groups(
    records: Sequence[Record], type_map: Sequence[str], layout: str, by_config_type: bool = False
) -> list[Group]:
    """Sort frames into folders.

    Parameters
    ----------
    records : Sequence[Record]
        Frames of one part: training, validation or test.
    type_map : Sequence[str]
        Elements.
    layout : str
        "systems": a folder for each composition; "mixed": frames of all compositions together; "auto": the former where
        each group has one composition only. DeePMD-kit takes no part in which some folders are mixed and others not.
    by_config_type : bool
        Whether types of configurations have folders of their own.

    Returns
    -------
    list[Group]
        Names differ.
    """
    alike: dict[tuple[tuple[str, ...], bool, str], list[Record]] = {}
    for record in records:
        kind = record.config_type if by_config_type else ""
        alike.setdefault((record.labels, record.periodic, kind), []).append(record)
    label_sets = {labels for labels, _, _ in alike}
    boundaries = {periodic for _, periodic, _ in alike}
    folders = {key: _compositions(members, type_map) for key, members in alike.items()}
    mixed = layout == "mixed" or (layout == "auto" and any(len(one) > 1 for one in folders.values()))
    groups: list[Group] = []
    for (labels, periodic, kind), members in alike.items():
        end = f"-{_plain(kind)}" if by_config_type else ""
        if len(label_sets) > 1:
            end += "-" + ("".join(name[0] for name in _ORDER if name in labels) or "unlabelled")
        if len(boundaries) > 1 and not periodic:
            end += "-nopbc"
        if mixed:
            groups += [Group(f"mixed{size}{end}", some, True) for size, some in _sizes(members)]
        else:
            found = folders[labels, periodic, kind]
            groups += [Group(name + end, some, False) for name, some in found.items()]
    return _with_different_names(groups)


def _compositions(members: list[Record], type_map: Sequence[str]) -> dict[str, list[Record]]:
    names: dict[int, str] = {}  # the spool keeps one array for equal atoms
    compositions: dict[str, list[Record]] = {}
    for record in members:
        key = id(record.numbers)
        if key not in names:
            names[key] = formula(record.numbers, type_map)
        compositions.setdefault(names[key], []).append(record)
    return compositions


def _sizes(members: list[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Ranges of sizes, none wider than the largest ratio."""
    bounds: list[list[int]] = []
    for natoms in sorted({record.natoms for record in members}):
        if not bounds or natoms > _LARGEST_RATIO * bounds[-1][0]:
            bounds.append([natoms, natoms])
        bounds[-1][1] = natoms
    for low, high in bounds:
        size = "" if len(bounds) == 1 else f"-{low}" if low == high else f"-{low}to{high}"
        yield size, [record for record in members if low <= record.natoms <= high]


def _plain(name: str) -> str:
    """What a folder may be called."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or "none"


def _with_different_names(groups: list[Group]) -> list[Group]:
    used: Counter[str] = Counter()
    for group in groups:
        used[group.name] += 1
        if used[group.name] > 1:
            group.name += f"-{used[group.name]}"
    return groups
