"""Which of a training's checkpoints did best on its validation frames."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepmd_gnn.tools.result_files import read_learning_curve


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
    end = "" if task is None else f"_{task}"
    columns = read_learning_curve(folder / "lcurve.out").columns
    for name, unit in (("f", "meV/Å"), ("e", "meV/atom")):
        column = columns.get(f"rmse_{name}_val{end}")
        if column is None:
            continue
        errors = {int(step): float(error) for step, error in zip(columns["step"], column, strict=True)}
        known = {step: errors[step] for step in steps if np.isfinite(errors.get(step, np.nan))}
        if not known:
            continue
        step = min(known, key=lambda one: (known[one], -one))
        quantity = "forces" if name == "f" else "energies"
        reason = f"least validation error of {quantity}, {1e3 * known[step]:.3g} {unit}"
        return Best(steps[step], step, last, reason)
    return Best(steps[last], last, last, "the last one: there are no validation frames")
