"""What a user is told when an evaluation needs more memory than a GPU has."""

import re
from collections.abc import Callable
from typing import TypeVar

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph

Result = TypeVar("Result")
# Torch's own words.
_NUMBERS = re.compile(
    r"Tried to allocate (?P<asked>\S+ \w+)\..*total capacity of (?P<all>.+?) of which (?P<free>.+?) is free\."
    r".*Of the allocated memory (?P<used>.+?) is allocated",
    re.DOTALL,
)


def evaluated(evaluate: Callable[[], Result], graph: AtomGraph, frames: int) -> Result:
    """Evaluate a graph on a GPU.

    Parameters
    ----------
    evaluate : Callable
        Without arguments.
    graph : AtomGraph
        What is evaluated; for the message.
    frames : int
        Its number of frames.

    Returns
    -------
    Result
        Of `evaluate`.

    Raises
    ------
    MemoryError
        If one frame does not fit into the memory of the GPU.
    torch.OutOfMemoryError
        If several frames do not; the host then takes fewer of them at a time.
    """
    try:
        return evaluate()
    except torch.OutOfMemoryError as error:
        words = str(error)
    # Out here the tensors of the evaluation are free again: nothing refers to the other error.
    kind = MemoryError if frames == 1 else torch.OutOfMemoryError
    number = "" if frames == 1 else f" in {frames} frames"
    raise kind(
        f"mace model: the GPU has too little memory for {graph.node_types.shape[0] - 1} atoms with {graph.edge_vec.shape[0] - 1} "
        f"pairs of neighbours{number}: {_numbers(words)}. It grows with the number of pairs: take fewer atoms or frames, a model with "
        "precision float32, or LAMMPS with more GPUs, one rank for each."
    )


def _numbers(words: str) -> str:
    found = _NUMBERS.search(words)
    if found is None:
        return " ".join(words.split())[:200]
    return "{used} are in use, {asked} more were asked for, and {free} of {all} are free".format(
        **found.groupdict()
    )
