"""Generated kernels for other processors, run in QEMU's user mode: ``apt install qemu-user g++-aarch64-linux-gnu``."""

import ctypes
import shutil
import struct
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from deepmd_gnn.kernels.cpu.compiler import FLAGS, TORCH_HEADERS
from deepmd_gnn.kernels.cpu.targets import ARM, X86, Machine

PROGRAM = Path(__file__).with_suffix(".cpp")


class Processor(NamedTuple):
    """A processor, and what compiles for it and runs its programs."""

    machine: Machine
    compiler: str
    emulator: tuple[str, ...]

    def skip_without(self):
        """Skip the test where the compiler or the emulator is not installed."""
        for program in (self.compiler, self.emulator[0]):
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed (Debian: qemu-user, g++-aarch64-linux-gnu)")


PROCESSORS = {
    "aarch64": Processor(ARM["generic"], "aarch64-linux-gnu-g++", ("qemu-aarch64",)),
    # Of 2008, without AVX; of 2013, with AVX2 and without AVX-512.
    "Nehalem": Processor(X86["generic"], "g++", ("qemu-x86_64", "-cpu", "Nehalem")),
    "Haswell": Processor(X86["x86-64-v3"], "g++", ("qemu-x86_64", "-cpu", "Haswell")),
}


class Emulated:
    """In the place of a :class:`~deepmd_gnn.kernels.cpu.library.Library`: its functions run in an emulator.

    Parameters
    ----------
    library : Library
        Kernels made for the processor's machine.
    processor : Processor
        The processor.
    folder : Path
        For the program.
    """

    def __init__(self, library, processor, folder):
        self.processor, self.program = processor, folder / "kernels"
        text = files("deepmd_gnn.kernels.cpu")
        handles, sums = (text.joinpath(f"{name}.hpp").read_text() for name in ("tensor_handles", "group_sum"))
        (folder / "kernels.cpp").write_text(library.compiled.sources["kernels"])
        (folder / "group_sum.cpp").write_text(handles + sums)
        compiler = [processor.compiler, *FLAGS, TORCH_HEADERS]
        objects = [*compiler, *library.machine.flags, "-c", "kernels.cpp"]
        program = [*compiler, "-static", str(PROGRAM), "group_sum.cpp", "kernels.o", "-o", "kernels"]
        for command in (objects, program):
            subprocess.run(command, cwd=folder, check=True)

    def call(self, name, *arguments):
        """As there; the tensors are overwritten with what they hold afterwards."""
        tensors = [one for one in arguments if isinstance(one, torch.Tensor)]
        with tempfile.TemporaryDirectory() as folder:
            given, found = Path(folder) / "given", Path(folder) / "found"
            given.write_bytes(b"".join(map(_bytes, arguments)))
            command = [*self.processor.emulator, str(self.program), name, str(given), str(found)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{name}: status {done.returncode}: {done.stderr}")
            data = found.read_bytes()
        for tensor in tensors:
            part, data = data[: tensor.nbytes], data[tensor.nbytes :]
            ctypes.memmove(tensor.data_ptr(), part, len(part))  # unseen by autograd, as in a library
        assert not data


def _bytes(argument):
    if isinstance(argument, torch.Tensor):
        assert argument.is_contiguous()
        data = argument.detach().numpy().tobytes()
        return struct.pack("q", len(data)) + data
    return struct.pack("qq", -1, argument)
