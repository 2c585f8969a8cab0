"""What a Triton kernel needs of a GPU that is not there."""

import re
import subprocess
import tempfile
import warnings
from pathlib import Path

import triton

from deepmd_gnn.kernels.triton.programs import compiled


def registers_and_stack(kernel, capability):
    """Compile for an NVIDIA GPU; registers of a thread, and bytes that did not fit into them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = compiled(kernel, capability).image
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image)
        file.flush()
        done = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        )
    return tuple(int(re.search(rf"{word}:(\d+)", done.stdout)[1]) for word in ("REG", "STACK"))
