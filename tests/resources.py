"""What a Triton kernel needs of a GPU that is not there."""

import re
import subprocess
import tempfile
import warnings
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

INTEGERS = {
    "row": "*i32", "source": "*i32", "begins": "*i32", "paths": "*i32",
    "begin": "*i64", "order": "*i64", "edge_index": "*i64", "types": "*i64", "kind": "*i64",
    **dict.fromkeys(("count", "nedge", "nnode", "components", "nmatrix", "width", "known"), "i32"),
}  # fmt: skip


def registers_and_stack(kernel, real, capability, constants=None, warps=1, integers=INTEGERS):
    """Compile for an NVIDIA GPU; registers of a thread, and bytes that did not fit into them."""
    doubles = {"vectors"} | ({"out"} if kernel.__name__ == "edge_gradient" else set())
    constants = constants or {}
    types, attributes = {}, {}
    for position, name in enumerate(kernel.arg_names):
        types[name] = (
            "constexpr"
            if name in constants
            else integers.get(name, "*fp64" if name in doubles else f"*{real}")
        )
        if types[name].startswith("*"):
            attributes[position,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, types, constexprs=constants, attrs=attributes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = triton.compile(
            source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps}
        )
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        done = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    return tuple(int(re.search(rf"{word}:(\d+)", done.stdout)[1]) for word in ("REG", "STACK"))
