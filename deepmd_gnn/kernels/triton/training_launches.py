"""Launches of kernels: one after the other for an operator, all at the same time to compile them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

Launch = Callable[[], Any]


def launch(where: torch.Tensor, launches: Iterable[Launch]) -> None:
    """Launch kernels on the device of a tensor of any shape, in order."""
    with torch.cuda.device_of(where):  # type: ignore[no-untyped-call]
        for kernel in launches:
            kernel()
