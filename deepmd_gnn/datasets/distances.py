"""Atoms on top of each other: many frames at once, because for one the calls would take longer than the arithmetic."""

from collections.abc import Sequence

import numpy as np
from ase.geometry import get_distances

from deepmd_gnn.datasets.frames import Frame

# Å; the shortest bond, of H2, is 0.74.
CLOSEST = 0.5
# Indices of a bin along three directions; that two bins may get one number does no harm, as distances decide.
_BITS = 8
_STRIDES = np.array([1, 2**_BITS, 2 ** (2 * _BITS)], dtype=np.int64)
_INDEX_BITS = 20  # room for the place of an atom below the number of its bin
_GRIDS = np.arange(8, dtype=np.int64)[:, None] << (3 * _BITS)
_CHUNK = 20_000  # atoms


def shortest_distances(frames: Sequence[Frame]) -> list[float | None]:
    """Find atoms closer than :data:`CLOSEST`, images of others included.

    Parameters
    ----------
    frames : Sequence[Frame]
        Periodic in all directions or in none.

    Returns
    -------
    list[float or None]
        Å for each frame; None where there are none.
    """
    found: list[float | None] = [None] * len(frames)
    alike: dict[tuple[int, bool], list[int]] = {}
    for place, frame in enumerate(frames):
        if any(frame.pbc) and _is_thin(frame.cell):
            found[place] = _with_images(frame)
        elif 2 <= frame.natoms < 1 << _INDEX_BITS:
            alike.setdefault((frame.natoms, any(frame.pbc)), []).append(place)
    for (natoms, periodic), places in alike.items():
        size = max(1, _CHUNK // natoms)
        for begin in range(0, len(places), size):
            chunk = places[begin : begin + size]
            positions = np.stack([frames[k].positions for k in chunk])
            cells = np.stack([frames[k].cell for k in chunk]) if periodic else None
            for place, distance in zip(chunk, _shortest(positions, cells), strict=True):
                found[place] = distance
    return found


def shortest_distance(frame: Frame) -> float | None:
    """As :func:`shortest_distances`, of one frame."""
    return shortest_distances([frame])[0]


def _shortest(positions: np.ndarray, cells: np.ndarray | None) -> list[float | None]:
    """Of frames of the same size: positions (m, n, 3), cells (m, 3, 3)."""
    if cells is None:
        pairs = _sharing(positions / (2 * CLOSEST), None)
        vectors = positions[pairs[0], pairs[1]] - positions[pairs[0], pairs[2]]
    else:
        inverses = np.linalg.inv(cells)
        fractional = positions @ inverses
        fractional -= np.floor(fractional)
        fractional[fractional >= 1.0] = 0.0
        # Bins between lattice planes that are wide enough in every direction.
        bins = np.floor(1.0 / (2 * CLOSEST * np.sqrt((inverses**2).sum(axis=1))))
        bins = np.minimum(bins, 2**_BITS - 1)
        pairs = _sharing(fractional * bins[:, None], bins)
        vectors = fractional[pairs[0], pairs[1]] - fractional[pairs[0], pairs[2]]
        vectors -= np.round(vectors)
        vectors = (vectors[:, None] @ cells[pairs[0]])[:, 0]
    shortest = np.full(len(positions), np.inf)
    np.minimum.at(shortest, pairs[0], np.sqrt((vectors**2).sum(axis=1)))
    return [float(one) if one < CLOSEST else None for one in shortest]


_Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def _sharing(scaled: np.ndarray, bins: np.ndarray | None) -> _Pairs:
    """Frames and pairs of points in one bin of a grid; `scaled` counts in bins, which wrap around if their number is given.

    Two points closer than half the width of a bin share one in the grid or in one that is shifted by half a bin along some
    of the three directions.
    """
    count, natoms = scaled.shape[:2]
    low = np.floor(scaled).astype(np.int64)
    high = np.floor(scaled + 0.5).astype(np.int64)
    if bins is not None:
        high[high >= bins[:, None]] = 0
    else:
        mask = 2**_BITS - 1
        low, high = low & mask, high & mask
    low *= _STRIDES
    high *= _STRIDES
    keys = np.empty((count, 8, natoms), dtype=np.int64)
    row = 0
    for x in (low[..., 0], high[..., 0]):
        for y in (low[..., 1], high[..., 1]):
            xy = x + y
            for z in (low[..., 2], high[..., 2]):
                np.add(xy, z, out=keys[:, row])
                row += 1
    # Sorting numbers is faster than sorting places; frame and grid above the bin keep them apart.
    keys |= _GRIDS
    keys |= np.arange(count, dtype=np.int64)[:, None, None] << (3 * _BITS + 3)
    keys <<= _INDEX_BITS
    keys |= np.arange(natoms)
    keys.sort(axis=2)
    flat = keys.reshape(-1)
    numbers = flat >> _INDEX_BITS
    found = np.flatnonzero(numbers[1:] == numbers[:-1])
    first, second = [found], [found + 1]
    while len(found):  # bins with more than two
        step = len(first) + 1
        found = found[found + step < len(numbers)]
        found = found[numbers[found + step] == numbers[found]]
        first.append(found)
        second.append(found + step)
    ones, others = np.concatenate(first), np.concatenate(second)
    mask = (1 << _INDEX_BITS) - 1
    return ones // (8 * natoms), flat[ones] & mask, flat[others] & mask


def _is_thin(cell: np.ndarray) -> bool:
    """Whether lattice planes are closer than a bin is wide: no sensible data, but distances need more than one image."""
    return bool((np.linalg.inv(cell) ** 2).sum(axis=0).max() > 1.0 / (2 * CLOSEST) ** 2)


def _with_images(frame: Frame) -> float | None:
    if frame.natoms < 2:
        return None
    table = get_distances(frame.positions, cell=frame.cell, pbc=frame.pbc)[1]
    least = float(table[~np.eye(frame.natoms, dtype=bool)].min())
    return least if least < CLOSEST else None
