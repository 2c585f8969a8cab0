"""CUDA graphs of what a function launches."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

Tensors = Sequence[torch.Tensor | None]
Results = TypeVar("Results")


def record(function: Callable[[], Results], pool: Any = None) -> tuple[Any, Results]:
    """Capture what a function launches.

    Parameters
    ----------
    function : Callable
        Must not ask the device for a number.
    pool : Any, optional
        Memory that several graphs share, see :func:`new_pool`.

    Returns
    -------
    graph : torch.cuda.CUDAGraph
        Replays it.
    results : Results
        Of the function; tensors of any shape, written anew by every replay.
    """
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        # Threads that load data may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            results = function()
    except Exception:
        torch.cuda.set_stream(before)  # which torch leaves to us where the end of a capture fails
        raise
    return graph, results


def new_pool() -> Any:
    """Memory for graphs that are replayed one after the other."""
    return torch.cuda.graph_pool_handle()


def aside(function: Callable[[], Results]) -> Results:
    """Run a function in a stream of its own, as it will be captured; results of any shape."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        results = function()
    torch.cuda.current_stream().wait_stream(stream)
    return results


def on_current_device(tensor: torch.Tensor) -> bool:
    """Whether captures, which are made on the current device, see what is launched for a tensor of any shape."""
    return tensor.device.type != "cuda" or tensor.device.index == torch.cuda.current_device()
