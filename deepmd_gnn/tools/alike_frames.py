"""Frames of any composition, evaluated several at a time: those of the same atoms together."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.config.embeddings import Feature
from deepmd_gnn.datasets.cells import whole_periodicity
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.labels import LabelReader
from deepmd_gnn.tools.quantities import frame_values

_WINDOW = 16  # batches of which frames of the same atoms are looked for together
_MOST_ATOMS = 4096  # of a batch
Result = TypeVar("Result")


def frames_per_batch(frames: int, natoms: int) -> int:
    """How many frames of a size are evaluated together, `frames` at most."""
    return max(1, min(frames, _MOST_ATOMS // max(natoms, 1)))


def evaluated_alike(
    frames: Iterable[Frame],
    evaluate: Callable[[list[Frame]], list[Result]],
    size: int,
    mixed_pbc: str,
    kind: Callable[[Frame], object] = lambda frame: None,  # noqa: ARG005
) -> Iterator[tuple[Frame, Result | None]]:
    """Evaluate frames, in their order.

    Parameters
    ----------
    frames : Iterable[Frame]
        Is read as far as needed.
    evaluate : Callable
        From frames of the same atoms, periodicity and kind to a result for each.
    size : int
        Frames of a batch, at most.
    mixed_pbc : str
        See :func:`~deepmd_gnn.datasets.cells.whole_periodicity`.
    kind : Callable
        What else must be equal within a batch; called once per frame.

    Yields
    ------
    Frame, Any
        The result is None where a frame is skipped.
    """
    notes = LabelReader()
    waiting = iter(frames)
    while window := list(islice(waiting, _WINDOW * size)):
        results: list[Result | None] = [None] * len(window)
        alike: dict[object, list[tuple[int, Frame]]] = {}
        for place, frame in enumerate(window):
            whole = whole_periodicity(frame, mixed_pbc, notes)
            if whole is not None:
                key = (frame.numbers.tobytes(), any(whole.pbc), kind(whole))
                alike.setdefault(key, []).append((place, whole))
        for members in alike.values():
            together = frames_per_batch(size, members[0][1].natoms)
            for begin in range(0, len(members), together):
                batch = members[begin : begin + together]
                for (place, _), result in zip(batch, evaluate([f for _, f in batch]), strict=True):
                    results[place] = result
        yield from zip(window, results, strict=True)


class Inputs(NamedTuple):
    """Frames of the same atoms as a model takes them."""

    arrays: tuple[np.ndarray, np.ndarray | None, np.ndarray]
    """Coordinates in Å, shape (nf, natom * 3), cells in Å, (nf, 9) or None without, and types, (natom,)."""
    fparam: dict[str, np.ndarray]
    """Quantities of the frames, shape (nf, nquantity), as an argument by name; empty where the frames do not say them."""


def inputs_of(frames: list[Frame], model: Any, quantities: list[Feature]) -> Inputs:
    """Arrange frames for a model.

    Parameters
    ----------
    frames : list[Frame]
        Of the same atoms.
    model : deepmd.infer.DeepPot
        Whose types count.
    quantities : list[Feature]
        Those that its energy depends on.

    Returns
    -------
    Inputs

    Raises
    ------
    DataError
        If the model does not know an element.
    """
    first = frames[0]
    coord = np.stack([frame.positions.reshape(-1) for frame in frames])
    cells = np.stack([frame.cell.reshape(-1) for frame in frames]) if any(first.pbc) else None
    values = [frame_values(frame.info, quantities) for frame in frames] if quantities else []
    given = [value for value in values if value is not None]
    fparam = {"fparam": np.stack(given)} if len(given) == len(frames) else {}
    return Inputs((coord, cells, types_in(model, first)), fparam)


def types_in(model: Any, frame: Frame) -> np.ndarray:
    """Types of a frame's atoms in a model, shape (natom,)."""
    names = model.get_type_map()
    kinds = [chemical_symbols[number] for number in frame.numbers.tolist()]
    unknown = sorted(set(kinds) - set(names))
    if unknown:
        raise DataError(f"{frame.where}: has atoms of {', '.join(unknown)}, but the model knows only {', '.join(names)}.")  # fmt: skip
    return np.array([names.index(kind) for kind in kinds])
