"""Memory that a ``.pt2`` keeps between evaluations, see ``memory.hpp``."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch

from deepmd_gnn.graph.compilation import compilation, compiling
from deepmd_gnn.kernels.cpu.compiler import linked, linked_into_models, operator_archive


@torch.library.custom_op("deepmd_gnn::mace_result", mutates_args=())
def result(value: torch.Tensor) -> torch.Tensor:
    """Copy a result out of memory that the model keeps.

    Parameters
    ----------
    value : torch.Tensor
        Contiguous, any shape.

    Returns
    -------
    torch.Tensor
        The same numbers.
    """
    return value.clone()


@result.register_fake
def _(value: Any) -> torch.Tensor:
    return torch.empty_like(value)


def results(values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy all results of a model, of any shape, if a freeze that keeps memory is under way."""
    if not compilation().keeps_memory:
        return values
    return {name: result(value.contiguous()) for name, value in values.items()}


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Link the pool into the ``.pt2`` that is frozen inside; only Linux's linker has the option for it."""
    if not sys.platform.startswith("linux"):
        yield
        return
    library = f"{linked(operator_archive('memory'))} -Wl,--wrap=aoti_torch_empty_strided"
    declaration = "AOTITorchError aoti_torch_cpu_mace_result(AtenTensorHandle, AtenTensorHandle*)"
    with compiling(keeps_memory=True), linked_into_models(library, {result._opoverload: [declaration]}):
        yield
