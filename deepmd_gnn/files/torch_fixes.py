"""What torch 2.11 gets wrong, mended while something of ours is compiled or opened: TorchInductor on CPUs, TorchScript in threads."""

import contextlib
import gc
import importlib
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

# TorchInductor 2.11 lets vectorised code for the rest of a loop read beyond the end of a tensor.
PLAIN_TAILS = {"cpp.enable_loop_tail_vec": False}
# It precompiles its headers anew for every library that is linked: 20 s of CPU, to spare 5 s in each of two programs. One that was
# cut short would end every later compilation, too.
PLAIN_HEADERS = {"aot_inductor.precompile_headers": False}
# Settings of tracing: torch's cache of fake tensors, whose sizes are symbols here, costs more than it spares (30 instead of
# 22 s of CPU for a small model).
PLAIN_TRACING = {"fake_tensor_cache_enabled": False}
# TorchInductor's settings, and what is replaced in it, belong to the process: one thread at a time compiles.
_compiling = threading.RLock()
# TorchScript fails with "Can't redefine method" if two threads compile the same class.
scripting = threading.RLock()
"""Held while the host scripts a model."""
_opening = threading.RLock()


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


class _NoTraceback:
    """Stands for ``CapturedTraceback`` where nobody reads it."""

    @staticmethod
    def extract() -> type["_NoTraceback"]:
        return _NoTraceback

    @staticmethod
    def summary() -> None:
        return None


@contextlib.contextmanager
def plain_nodes() -> Iterator[None]:
    """Trace without the lines of Python that each node of a graph comes from: a tenth of the time, also for nodes of sizes."""
    fx_proxy: Any = importlib.import_module("torch.fx.proxy")

    with _compiling:
        original = fx_proxy.CapturedTraceback
        fx_proxy.CapturedTraceback = _NoTraceback
        try:
            yield
        finally:
            fx_proxy.CapturedTraceback = original


@contextlib.contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Let Python look for garbage seldom: graphs are millions of objects that stay, and to look through them takes a twentieth of a freeze."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def room_for_trials() -> Iterator[None]:
    """Give the arrays on which TorchInductor 2.11 tries kernels for a GPU room for all rows that a trial may read.

    A size that only the data tell counts as 8192 there (``unbacked_symint_fallback``), also where it must not be larger than
    another size, which counts as what it was in the example: kernels then read behind the last row, which ends the
    compilation with an illegal memory access.
    """
    import torch._inductor.config as inductor_config
    from torch._inductor.select_algorithm import AlgorithmSelectorCache

    original = AlgorithmSelectorCache.generate_example_value

    def generate_example_value(
        size: Any, stride: Any, device: Any, dtype: Any, extra_size: int, allocation_size: Any = None
    ) -> Any:
        # One more: the end of the last row of a list, or the guard in front.
        rows = inductor_config.unbacked_symint_fallback + 1
        room = rows * max([int(step) for step in stride] or [1])
        return original(size, stride, device, dtype, extra_size + room, allocation_size)  # type: ignore[no-untyped-call]

    AlgorithmSelectorCache.generate_example_value = staticmethod(generate_example_value)  # type: ignore[method-assign]
    try:
        yield
    finally:
        AlgorithmSelectorCache.generate_example_value = staticmethod(original)  # type: ignore[method-assign]


@contextlib.contextmanager
def opening_directly() -> Iterator[None]:
    """Open exported programs without the reader that takes them for outdated, and whatever the end of their name.

    ``aoti_load_package`` tries a reader of archives that hold nothing but a program, warns, and does what is done here.
    ``torch.export.load`` warns of names that do not end in ``.pt2``, but takes open files.
    """
    import torch._inductor
    import torch.export

    load_package, load = torch._inductor.aoti_load_package, torch.export.load

    def open_package(path: Any, run_single_threaded: bool = False, device_index: int = -1) -> Any:
        from torch.export.pt2_archive._package import AOTICompiledModel

        loader = torch._C._aoti.AOTIModelPackageLoader  # type: ignore[attr-defined]
        return AOTICompiledModel(loader(os.fspath(path), "model", run_single_threaded, 1, device_index))

    def open_program(path: Any, **options: Any) -> Any:
        with open(path, "rb") as file, warnings.catch_warnings():
            # The tensors share memory with what was read, and nothing else does.
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            return load(file, **options)

    with _opening:
        torch._inductor.aoti_load_package = open_package
        torch.export.load = open_program  # type: ignore[assignment]
        try:
            yield
        finally:
            torch._inductor.aoti_load_package = load_package
            torch.export.load = load
