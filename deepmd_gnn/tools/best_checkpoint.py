"""Which of a training's checkpoints did best on its validation frames, and when there will be no better one."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepmd_gnn.tools.result_files import LearningCurve, read_learning_curve

Array = npt.NDArray[np.float64]
_QUANTITIES = {"f": ("forces", "meV/Å"), "e": ("energies", "meV/atom")}


class Best(NamedTuple):
    """A checkpoint, and why it."""

    path: Path
    step: int
    last: int
    """Step of the last checkpoint."""
    reason: str


def best_checkpoint(folder: Path, task: str | None = None) -> Best:
    """Find the checkpoint of a training that has the least validation error.

    The error of forces decides, without forces that of energies: it is the same quantity at every step, while the weighted sum
    changes with the weights. Equal errors favour the later one.

    Parameters
    ----------
    folder : Path
        Where ``dp train`` wrote ``model.ckpt-STEP.pt`` and ``lcurve.out``.
    task : str, optional
        Of a multi-task training.

    Returns
    -------
    Best
        The last one, where there are no validation frames.

    Raises
    ------
    ValueError
        If there is no checkpoint.
    """
    steps = {
        int(found[1]): path
        for path in folder.glob("model.ckpt-*.pt")
        if (found := re.fullmatch(r"model\.ckpt-(\d+)\.pt", path.name))
    }
    if not steps:
        raise ValueError(f"{folder}: has no model.ckpt-STEP.pt of a training.")
    last = max(steps)
    columns = read_learning_curve(folder / "lcurve.out").columns
    for name, (quantity, unit) in _QUANTITIES.items():
        column = next((columns[key] for key in _names(name, task) if key in columns), None)
        if column is None:
            continue
        errors = {int(step): float(error) for step, error in zip(columns["step"], column, strict=True)}
        known = {step: errors[step] for step in steps if np.isfinite(errors.get(step, np.nan))}
        if not known:
            continue
        step = min(known, key=lambda one: (known[one], -one))
        reason = f"least validation error of {quantity}, {1e3 * known[step]:.3g} {unit}"
        return Best(steps[step], step, last, reason)
    return Best(steps[last], last, last, "the last one: there are no validation frames")


def _names(quantity: str, task: str | None) -> list[str]:
    """Columns of a validation error; which of them there is depends on ``loss_func``."""
    end = "" if task is None else f"_{task}"
    return [f"{kind}_{quantity}_val{end}" for kind in ("rmse", "mae")]


class Stop(NamedTuple):
    """Where a training ends early, and why."""

    step: int
    best: int
    """Step of the least error until then."""
    reason: str


def early_stop(curve: LearningCurve, patience: int) -> Stop | None:
    """Find the validation after which a training goes on in vain.

    Parameters
    ----------
    curve : LearningCurve
        Until now. The errors that decide are those of :func:`best_checkpoint`, of the first task that has validation frames.
    patience : int
        Validations in a row without a smaller error.

    Returns
    -------
    Stop or None
        None while it should go on; also without validation frames.
    """
    found = validation_errors(curve)
    if not found:
        return None
    (quantity, unit), errors = found[0]
    known = np.isfinite(errors)
    steps = curve.columns["step"][known].astype(int).tolist()
    return _first_in_vain(steps, errors[known].tolist(), patience, quantity, unit)


def validation_errors(curve: LearningCurve) -> list[tuple[tuple[str, str], Array]]:
    """Quantity and unit of each validation error of a learning curve, and its column, shape (nrow,): forces first, then energies, by task."""
    return [
        (of, errors)
        for name, of in _QUANTITIES.items()
        for column, errors in curve.columns.items()
        if column.startswith(tuple(_names(name, None))) and np.isfinite(errors).any()
    ]


def _first_in_vain(
    steps: list[int], errors: list[float], patience: int, quantity: str, unit: str
) -> Stop | None:
    least, best, waited = np.inf, 0, 0
    for step, error in zip(steps, errors, strict=True):
        if error < least:
            least, best, waited = error, step, 0
            continue
        if error == least:  # three digits; best_checkpoint favours the later one
            best = step
        waited += 1
        if waited >= patience:
            reason = f"the validation error of {quantity} has not fallen for {patience} validations, since step {best} ({1e3 * least:.3g} {unit})"
            return Stop(step, best, reason)
    return None
