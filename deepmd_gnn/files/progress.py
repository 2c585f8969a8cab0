"""Stages of a long command in the log."""

import logging
import threading
import time

from deepmd_gnn.graph.compilation import compilation

log = logging.getLogger("deepmd.deepmd_gnn")
HEARTBEAT = 30.0  # seconds between signs of life


class Progress:
    """Stages of a freeze in the log, each with the seconds it took.

    Parameters
    ----------
    name : str
        What is being frozen.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.begin = time.monotonic()
        self.stage_begin = self.begin
        self.stage = ""
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, error: type | None, *rest: object) -> None:
        self._close()
        self._finished.set()
        self._thread.join()
        outcome = "done" if error is None else "stopped, nothing written"
        log.info("%s: %s after %.0f s", self.name, outcome, time.monotonic() - self.begin)

    def enter(self, stage: str) -> None:
        """Begin a stage, and end the one before."""
        self._close()
        self.stage, self.stage_begin = stage, time.monotonic()
        log.info("%s: %s ...", self.name, stage)

    def _close(self) -> None:
        if self.stage:
            log.info("%s: %s took %.0f s", self.name, self.stage, time.monotonic() - self.stage_begin)
        self.stage = ""

    def _beat(self) -> None:
        while not self._finished.wait(HEARTBEAT):
            if self.stage:
                log.info("%s: still %s, %.0f s", self.name, self.stage, time.monotonic() - self.stage_begin)


def enter_stage(stage: str) -> None:
    """Tell the freeze that is under way, if any, what comes next."""
    progress = compilation().progress
    if progress is not None:
        progress.enter(stage)
