"""Memory that a ``.pt2`` keeps between evaluations, see ``memory.hpp``."""

import contextlib
import sys
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import torch

from deepmd_gnn.graph.compilation import compilation, compiling
from deepmd_gnn.kernels.cpu.compiler import TORCH_HEADERS, Compiled, linked, linked_into_models

NAME = "deepmd_gnn_memory"


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
    source = files("deepmd_gnn.kernels.cpu").joinpath("memory.hpp").read_text(encoding="utf-8")
    compiled = Compiled({"memory": source}, ())
    archive = compiled.archive(NAME, [compiled.object("memory", TORCH_HEADERS)])
    library = f"{linked(archive)} -Wl,--wrap=aoti_torch_empty_strided"
    declaration = "AOTITorchError aoti_torch_cpu_mace_result(AtenTensorHandle, AtenTensorHandle*)"
    with compiling(keeps_memory=True), linked_into_models(library, {result._opoverload: [declaration]}):
        yield
