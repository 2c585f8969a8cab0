"""A training that ends when its validation error no longer falls, for which DeePMD-kit has no option.

The environment variable :data:`PATIENCE` says after how many validations. Everything that the trainer writes for a step is whole
when the next step begins; there the training ends. Of every step with a validation there has to be a checkpoint.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepmd_gnn.tools.best_checkpoint import Stop, early_stop, validation_errors
from deepmd_gnn.tools.result_files import read_learning_curve

log = logging.getLogger("deepmd.deepmd_gnn")
PATIENCE = "DEEPMD_GNN_PATIENCE"


class TrainingEnds(Exception):
    """No error: leaves the trainer's loop."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.reason)
        self.stop = stop


def patience() -> int | None:
    """Validations without a better one after which trainings of this process end.

    Returns
    -------
    int or None
        None without the environment variable, or where it is 0.

    Raises
    ------
    ValueError
        If it is no such number.
    """
    given = os.environ.get(PATIENCE, "0")
    if not given.isdecimal():
        raise ValueError(
            f"mace model: the environment variable {PATIENCE} is {given!r}, but must be a number of validations."
        )
    return int(given) or None


def run_until_no_better(trainer: Any, run: Callable[[], None]) -> None:
    """Run a trainer's loop, and end it early where the user wants that.

    Parameters
    ----------
    trainer : Trainer
        Of the host, of either backend.
    run : Callable
        Its loop.

    Raises
    ------
    ValueError
        If there are several processes, of which only one sees the errors; or a training that ends early would lack a checkpoint of its
        last step, or the change of bias that follows the last one.
    """
    wanted = patience()
    if wanted is None:
        run()
        return
    if getattr(trainer, "world_size", 1) > 1:
        raise ValueError(
            f"mace model: the environment variable {PATIENCE} ends a training early, which is for one process. Unset it for several."
        )
    if trainer.disp_freq % trainer.save_freq:
        raise ValueError(
            f"mace model: the environment variable {PATIENCE} ends a training at a validation, of which there has to be a checkpoint: "
            f"'save_freq' is {trainer.save_freq}, but must be 'disp_freq', {trainer.disp_freq}, or a part of it."
        )
    if trainer.change_bias_after_training:
        raise ValueError(
            f"mace model: the environment variable {PATIENCE} ends a training before 'change_bias_after_training' comes. Leave one of the two out, "
            "or run dp change-bias afterwards."
        )
    hook = trainer.optimizer.register_step_pre_hook(_Watch(Path(trainer.disp_file), wanted))
    try:
        run()
    except TrainingEnds as end:
        log.info("mace model: the training ends with step %d: %s", end.stop.step, end.stop.reason)
    finally:
        hook.remove()


class _Watch:
    """Called before each step of the optimiser: looks at the learning curve when there is another line.

    Parameters
    ----------
    curve : Path
        ``lcurve.out``.
    patience : int
        In validations.
    """

    def __init__(self, curve: Path, patience: int) -> None:
        self.curve = curve
        self.patience = patience
        self.warned = False
        # A restart goes back to its checkpoint; what an earlier run wrote after that does not count.
        self.size, self.rows = self._size(), self._rows()

    def _size(self) -> int:
        return self.curve.stat().st_size if self.curve.is_file() else 0

    def _rows(self) -> int:
        lines = self.curve.read_text(encoding="utf-8").splitlines() if self.curve.is_file() else []
        return sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in lines)

    def __call__(self, *_: Any) -> None:
        """End the training if it is time to."""
        size = self._size()
        if size == self.size:
            return
        self.size, before, self.rows = size, self.rows, self._rows()
        if self.rows == before:
            return  # a header
        try:
            curve = read_learning_curve(self.curve)
        except ValueError as error:  # after a restart with other columns
            self._warn(f"{self.curve} cannot be followed ({error})")
            return
        if not validation_errors(curve):
            self._warn("the learning curve has no validation errors")
        stop = early_stop(curve, self.patience)
        if stop is not None:
            raise TrainingEnds(stop._replace(step=int(curve.columns["step"][-1])))

    def _warn(self, why: str) -> None:
        if not self.warned:
            log.warning("mace model: the training will not end early: %s", why)
        self.warned = True
