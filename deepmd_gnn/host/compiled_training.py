"""How the host compiles the training step of a MACE model: vectorised, and without derivatives nobody reads.

The host switches vectorisation off for all models (``cpp.simdlen: 0``), because atomic additions end TorchInductor's
vectorised compilation on CPUs. The graph of a MACE model has none (:mod:`~deepmd_gnn.graph.edge_operators`).
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch._inductor.decomposition import decompositions, register_decomposition

from deepmd_gnn.graph.edge_operators import pick  # noqa: F401 - registers the operators
from deepmd_gnn.host.freezing import PLAIN_TAILS, sound_vectorisation
from deepmd_gnn.kernels.cpu.kept import remove_broken
from deepmd_gnn.nn.linear import plain_products

# None: what the processor has.
OPTIONS = {"cpp.simdlen": None, **PLAIN_TAILS}
# Place of the edge vectors among the inputs of the compiled graph.
_EDGE_VEC = 4


class _Step(torch.nn.Module):
    def __init__(self, compiled: torch.nn.Module) -> None:
        super().__init__()
        self.compiled = compiled

    def forward(self, *inputs: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Evaluate; the first call, and one with sizes of another kind, compiles."""
        # The graph contains the derivative with respect to the edge vectors; a second one would be thrown away.
        fixed = [
            value.detach() if place == _EDGE_VEC and value is not None else value
            for place, value in enumerate(inputs)
        ]
        # The backward graph at once, so that it is compiled here as well.
        with sound_vectorisation(), functorch_config.patch(force_non_lazy_backward_lowering=True):
            return self.compiled(*fixed)


def _look_into_picks() -> None:
    """Let the compiler read picked factors where they are multiplied, once they have been differentiated."""
    operator = torch.ops.deepmd_gnn.pick.default
    if operator in decompositions:
        return

    @register_decomposition([operator])
    def as_gather(factors: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        return factors.index_select(0, index)


def vectorise(training: ModuleType) -> None:
    """Wrap the function with which the host compiles a training step; other models than MACE pass through unchanged.

    The host has no hook for this. What the user gives as ``compile_options`` comes last.

    Parameters
    ----------
    training : ModuleType
        ``deepmd.pt_expt.train.training``.
    """
    original: Callable[..., Any] = training._trace_and_compile_graph
    if getattr(original, "vectorises_mace_models", False):
        return

    @functools.wraps(original)
    def trace_and_compile_graph(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        from deepmd_gnn.mace import MaceModel

        if not (isinstance(model, MaceModel) and model.training):
            return original(model, *args, **kwargs)
        _look_into_picks()
        remove_broken()
        kwargs["compile_opts"] = {**OPTIONS, **(kwargs.get("compile_opts") or {})}
        with plain_products():
            compiled, buffers = original(model, *args, **kwargs)
        return _Step(compiled), buffers

    trace_and_compile_graph.vectorises_mace_models = True  # type: ignore[attr-defined]
    training._trace_and_compile_graph = trace_and_compile_graph  # type: ignore[attr-defined]
