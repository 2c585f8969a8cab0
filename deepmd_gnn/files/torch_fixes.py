"""What torch 2.11 gets wrong, mended while something of ours is compiled: TorchInductor on CPUs, TorchScript in threads."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

# TorchInductor 2.11 lets vectorised code for the rest of a loop read beyond the end of a tensor.
PLAIN_TAILS = {"cpp.enable_loop_tail_vec": False}
# Settings of tracing: torch's cache of fake tensors, whose sizes are symbols here, costs more than it spares (30 instead of
# 22 s of CPU for a small model).
PLAIN_TRACING = {"fake_tensor_cache_enabled": False}
# TorchInductor's settings, and what is replaced in it, belong to the process: one thread at a time compiles.
_compiling = threading.RLock()
# TorchScript fails with "Can't redefine method" if two threads compile the same class.
scripting = threading.RLock()
"""Held while the host scripts a model."""


@contextlib.contextmanager
def sound_vectorisation() -> Iterator[None]:
    """Keep TorchInductor 2.11 from writing beyond the end of tensors on the CPU.

    If it vectorises a loop around a sum, with another loop between the two, it stores whole vectors for the rest of the
    loop as well (``CppKernelProxy`` looks at the next inner loop only). Such sums are vectorised over their terms
    instead, which is its own default for the innermost loop. A second thread waits here until the first has left.
    """
    from torch._inductor.codegen.cpp import TilingSelect  # half a second, for those who compile

    with _compiling:
        original = TilingSelect.select_tiling

        def select_tiling(self: Any, fn_list: Any, var_sizes_list: Any) -> tuple[list[int], list[int]]:
            factors, indices = original(self, fn_list, var_sizes_list)
            outer, terms = max(var_sizes_list, key=lambda sizes: len(sizes[1]))
            if indices and terms and indices[0] < len(outer) - 1:
                return factors[:1], [len(outer) + len(terms) - 1]
            return factors, indices

        TilingSelect.select_tiling = select_tiling  # type: ignore[method-assign]
        try:
            yield
        finally:
            TilingSelect.select_tiling = original  # type: ignore[method-assign]
