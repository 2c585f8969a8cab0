"""Periodicity as DeePMD-kit has it: in all directions or in none, and a cell that spans space."""

from dataclasses import replace

import numpy as np

from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.labels import LabelReader

_VACUUM = 15.0  # Å between images across a direction that does not repeat


def whole_periodicity(frame: Frame, mixed: str, notes: LabelReader) -> Frame | None:
    """Make a frame periodic in all directions or in none.

    Labels are to be read before: the volume of a stress is that of the file's cell.

    Parameters
    ----------
    frame : Frame
        As read.
    mixed : str
        What to do with one that repeats in some directions only: "refuse", "skip", or "vacuum": repeat it in the others,
        too, so far apart that images do not see each other.
    notes : LabelReader
        Hears of changes.

    Returns
    -------
    Frame or None
        None if it is skipped.

    Raises
    ------
    DataError
        If the frame is refused, or periodic without cell.
    """
    if not any(frame.pbc):
        return frame
    if not all(frame.pbc):
        words = " ".join("FT"[one] for one in frame.pbc)
        if mixed == "refuse":
            raise DataError(
                f'{frame.where}: is periodic in some directions only (pbc="{words}"), and DeePMD-kit knows frames that are '
                "periodic in all directions or in none. --mixed-pbc vacuum makes it periodic in all, with at least "
                f"{_VACUUM:g} Å of vacuum in the others (wider than r_max, so that no energy changes); --mixed-pbc skip leaves "
                "such frames out."
            )
        if mixed == "skip":
            notes.note(frame, "periodic in some directions only: left out (--mixed-pbc skip)")
            return None
        frame = _with_vacuum(frame)
        notes.note(
            frame, f"periodic in some directions only: now in all, with {_VACUUM:g} Å of vacuum or more"
        )
    determinant = float(np.linalg.det(frame.cell))
    if abs(determinant) < 1e-6:
        raise DataError(
            f"{frame.where}: is periodic, but its cell has no volume ({frame.cell.reshape(9).tolist()}). Give a Lattice, or "
            'pbc="F F F" for free boundaries.'
        )
    if determinant < 0:
        # The same lattice: no coordinate and no virial changes.
        frame = replace(frame, cell=frame.cell[[0, 2, 1]])
        notes.note(frame, "left-handed cell: its second and third vector are exchanged (the same lattice)")
    return frame


def _with_vacuum(frame: Frame) -> Frame:
    """Long vectors, at right angles to the periodic ones, where the frame does not repeat."""
    cell = frame.cell.astype(float).copy()
    free = [k for k in range(3) if not frame.pbc[k]]
    periodic = cell[[k for k in range(3) if frame.pbc[k]]]
    # An orthonormal basis of what the periodic vectors do not span.
    _, sizes, rows = np.linalg.svd(periodic)
    if sizes.min() < 1e-6:
        raise DataError(f"{frame.where}: a direction is periodic, but its cell vector has no length.")
    for k, normal in zip(free, rows[len(periodic) :], strict=True):
        heights = frame.positions @ normal
        length = float(heights.max() - heights.min()) + _VACUUM
        present = abs(float(cell[k] @ normal)) if len(free) == 1 else 0.0
        cell[k] = normal * max(length, present)
    if np.linalg.det(cell) < 0 and not any(frame.cell[k].any() for k in free):
        cell[free[-1]] *= -1
    return replace(frame, cell=cell, pbc=(True, True, True))
