"""Whether Triton can be used where the program runs."""

import functools
import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

# Compute capability of the oldest GPUs whose kernels are tested: Ampere.
OLDEST = (8, 0)
log = logging.getLogger("deepmd.deepmd_gnn")
Result = TypeVar("Result")


def at_once(tasks: Iterable[Callable[[], Result]]) -> list[Result]:
    """Compile kernels at the same time: Triton spends little of it in Python.

    Parameters
    ----------
    tasks : Iterable[Callable[[], Result]]
        Each compiles one.

    Returns
    -------
    list[Result]
        In the order of the tasks.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [done.result() for done in [pool.submit(_parsed_again, task) for task in tasks]]


def _parsed_again(task: Callable[[], Result], times: int = 5) -> Result:
    """Run a task once more if Python's parser, to which Triton gives a kernel's source, was disturbed by another thread.

    CPython 3.11 and 3.12 count the depth of a syntax tree for all threads together: "AST constructor recursion depth mismatch"
    (python/cpython issue 106905).
    """
    for _ in range(times - 1):
        try:
            return task()
        except SystemError as error:
            if "recursion depth" not in str(error):
                raise
    return task()


@functools.cache
def works_on(device: torch.device) -> bool:
    """Compile and run a kernel, the first time; if that fails, the log says why.

    Triton needs a C compiler and the headers of Python, which many machines that only run models lack, and not every
    build of torch brings it along.

    Parameters
    ----------
    device : torch.device
        Any.

    Returns
    -------
    bool
        False on devices that are no GPU.
    """
    if device.type != "cuda":
        return False
    try:
        from deepmd_gnn.kernels.triton.probe_kernel import answer

        result = torch.zeros(1, dtype=torch.int64, device=device)
        with torch.cuda.device(device):
            answer[(1,)](result)
        works = int(result) == 1
        reason = "its kernels give wrong results"
    except Exception as error:
        works, reason = False, str(error).strip() or type(error).__name__
    if not works:
        log.warning(
            "mace model: neighbours are searched, and networks trained, with PyTorch instead of Triton, which is slower, because Triton does "
            "not work on %s: %s. It needs a C compiler (gcc) and the headers of Python.",
            device,
            reason,
        )
    return works


def trains_on(device: torch.device) -> bool:
    """Whether the kernels of training run on a device: a GPU where Triton works, and not an old one."""
    return works_on(device) and torch.cuda.get_device_capability(device) >= OLDEST
