"""Machine code of Triton kernels, compiled ahead of time: what a ``.pt2`` holds, and what tests look at without a GPU."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from deepmd_gnn.kernels.triton.support import at_once

WARP = 32
# Types of arguments by name; arrays of the network's precision are not listed.
INTEGERS = {
    **dict.fromkeys(("row", "source", "begins", "paths", "pairs"), "*i32"),
    **dict.fromkeys(("begin", "order", "edge_index", "edge_atoms", "sender", "types", "kind"), "*i64"),
    **dict.fromkeys(("count", "nedge", "nnode", "natom", "ntypes"), "i64"),
    **dict.fromkeys(("components", "nmatrix", "width", "known"), "i32"),
}
# Coordinates are double precision, and so is the gradient with respect to them.
DOUBLES = {"edge_gradient": {"vectors", "out"}, "forces": {"gradient", "vectors", "out"}}
REALS = {"float32": "fp32", "float64": "fp64"}


class Kernel(NamedTuple):
    """A kernel and how it is launched."""

    function: Any
    """Triton's function."""
    dtype: str
    """Precision of the network."""
    constants: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """Values of its ``constexpr`` arguments."""
    warps: int = 1


class Program(NamedTuple):
    """A compiled kernel."""

    name: str
    """Of the function in the machine code."""
    image: bytes
    """The machine code (cubin)."""
    shared: int
    """Bytes of shared memory."""
    threads: int
    """Of a block."""

    @property
    def label(self) -> str:
        """Symbol for the machine code, the same for the same code."""
        return f"deepmd_gnn_{hashlib.sha256(self.image).hexdigest()[:24]}"


def compiled(kernel: Kernel, capability: int) -> Program:
    """Compile for NVIDIA GPUs; Triton keeps what it has compiled. No GPU is needed.

    Parameters
    ----------
    kernel : Kernel
        The kernel.
    capability : int
        Compute capability, 90 for 9.0.

    Returns
    -------
    Program
        Its arrays of real numbers must begin at multiples of 16 bytes. After the arguments, except for constants, the
        function takes two pointers to scratch memory, which are null.

    Raises
    ------
    RuntimeError
        If the kernel needs scratch memory.
    """
    doubles = DOUBLES.get(kernel.function.__name__, {"vectors"})
    types: dict[str, str] = {}
    attributes = {}
    for position, name in enumerate(kernel.function.arg_names):
        if name in kernel.constants:
            types[name] = "constexpr"
        elif name in INTEGERS:
            types[name] = INTEGERS[name]
        else:
            types[name] = "*fp64" if name in doubles else f"*{REALS[kernel.dtype]}"
            attributes[position,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel.function, types, constexprs=kernel.constants, attrs=attributes)
    made = triton.compile(
        source, target=GPUTarget("cuda", capability, WARP), options={"num_warps": kernel.warps}
    )
    data = made.metadata
    if data.global_scratch_size or data.profile_scratch_size:
        raise RuntimeError(f"Triton gave the kernel {data.name} scratch memory, which nobody hands over")
    return Program(data.name, made.asm["cubin"], data.shared, WARP * data.num_warps)


def all_compiled(kernels: Sequence[Kernel], capability: int) -> list[Program]:
    """Compile several kernels at the same time, see :func:`compiled`.

    Parameters
    ----------
    kernels : Sequence[Kernel]
        The kernels.
    capability : int
        Compute capability.

    Returns
    -------
    list[Program]
        In their order.
    """
    return at_once(functools.partial(compiled, kernel, capability) for kernel in kernels)
