"""How the host compiles the training step of a model: vectorised, and without derivatives nobody reads.

The host switches vectorisation off for all models (``cpp.simdlen: 0``), because atomic additions end TorchInductor's
vectorised compilation on CPUs. The graph of a model has none (:mod:`~deepmd_gnn.graph.edge_operators`).
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from deepmd_gnn.files.torch_fixes import PLAIN_TAILS, plain_nodes, sound_vectorisation
from deepmd_gnn.graph.compilation import compiling
from deepmd_gnn.graph.edge_operators import pick  # noqa: F401 - registers the operators
from deepmd_gnn.host.interface import HostInterface
from deepmd_gnn.kernels.cpu.cache import pick_vector_instructions
from deepmd_gnn.kernels.cpu.kept import remove_broken

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
        import torch._functorch.config as functorch_config

        # The graph contains the derivative with respect to the edge vectors; a second one would be thrown away.
        fixed = [
            value.detach() if place == _EDGE_VEC and value is not None else value
            for place, value in enumerate(inputs)
        ]
        # The backward graph at once, so that it is compiled here as well.
        with (
            sound_vectorisation(),
            plain_nodes(),
            functorch_config.patch(force_non_lazy_backward_lowering=True),
        ):
            return self.compiled(*fixed)


def _look_into_picks() -> None:
    """Let the compiler read picked factors where they are multiplied, once they have been differentiated."""
    from torch._inductor.decomposition import (
        decompositions,
        fast_random_decomps,
        register_decomposition,
    )

    operator = torch.ops.deepmd_gnn.pick.default
    if operator in decompositions:
        return

    @register_decomposition([operator])
    def as_gather(factors: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
        return factors.index_select(0, index)

    # A copy of the table that was made by an earlier compilation of this process does not have it.
    fast_random_decomps.cache_clear()


def vectorised(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let the host compile training steps of our models with vector code. What the user gives as ``compile_options`` comes last.

    Parameters
    ----------
    original : Callable
        ``deepmd.pt_expt.train.training._trace_and_compile_graph``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def trace_and_compile_graph(model: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not (isinstance(model, HostInterface) and model.training):
            return original(model, *args, **kwargs)
        model.prepare_compiled_training()
        _look_into_picks()
        remove_broken()
        pick_vector_instructions()
        kwargs["compile_opts"] = {**OPTIONS, **(kwargs.get("compile_opts") or {})}
        with compiling(plain_products=True), plain_nodes():
            compiled, buffers = original(model, *args, **kwargs)
        return _Step(compiled), buffers

    return trace_and_compile_graph
