"""A training that ends when its validation error no longer falls, for which DeePMD-kit has no option.

The environment variable :data:`PATIENCE` says after how many validations. Everything that the trainer writes for a step is whole
when the next step begins; there the training ends, and the trainer's files are those of a training of that many steps.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepmd_gnn.tools.best_checkpoint import Stop, early_stop
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
        If there are several processes, of which only one sees the errors.
    """
    wanted = patience()
    if wanted is None:
        run()
        return
    if getattr(trainer, "world_size", 1) > 1:
        raise ValueError(
            f"mace model: the environment variable {PATIENCE} ends a training early, which is for one process. Unset it for several."
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
        # A restart goes back to its checkpoint; what an earlier run wrote after that does not count.
        self.seen = self._size()

    def _size(self) -> int:
        return self.curve.stat().st_size if self.curve.is_file() else 0

    def __call__(self, *_: Any) -> None:
        """End the training if it is time to."""
        size = self._size()
        if size in (0, self.seen):
            return
        self.seen = size
        stop = early_stop(read_learning_curve(self.curve), self.patience)
        if stop is not None:
            raise TrainingEnds(stop)
