"""Memory that a ``.pt2`` keeps between evaluations, see ``memory.hpp``."""

import contextlib
import contextvars
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config as inductor_config

from deepmd_gnn.kernels.compiler import Compiled, linked

NAME = "deepmd_gnn_memory"
_kept: contextvars.ContextVar[bool] = contextvars.ContextVar("kept", default=False)


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
    """Copy all results of a model, if a freeze that keeps memory is under way."""
    if not _kept.get():
        return values
    return {name: result(value.contiguous()) for name, value in values.items()}


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Link the pool into the ``.pt2`` that is frozen inside; only Linux's linker has the option for it."""
    if not sys.platform.startswith("linux"):
        yield
        return
    source = files("deepmd_gnn.kernels").joinpath("memory.hpp").read_text(encoding="utf-8")
    compiled = Compiled({"memory": source}, ())
    include = Path(torch.__file__).parent / "include"
    archive = compiled.archive(NAME, [compiled.object("memory", f"-I{include}")])
    config = inductor_config.aot_inductor
    settings = {
        "aot_inductor.custom_op_libs": [
            *(config.custom_op_libs or []),
            f"{linked(archive)} -Wl,--wrap=aoti_torch_empty_strided",
        ],
        "aot_inductor.custom_ops_to_c_shims": {
            **config.custom_ops_to_c_shims,
            result._opoverload: [
                "AOTITorchError aoti_torch_cpu_mace_result(AtenTensorHandle, AtenTensorHandle*)"
            ],
        },
    }
    token = _kept.set(True)
    try:
        with inductor_config.patch(settings):
            yield
    finally:
        _kept.reset(token)
