"""Compile generated kernels: a shared library for Python, a static one to link into a ``.pt2``."""

import ctypes
import hashlib
import os
import shlex
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import torch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.cpu_vec_isa import VecISA, invalid_vec_isa, pick_vec_isa
from torch._inductor.runtime.cache_dir_utils import cache_dir

# No -ffast-math: an edge that is not a number must give an energy that is not a number.
FLAGS = [
    "-O3",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
]
NAME = {torch.float32: "float", torch.float64: "double"}


class Machine(NamedTuple):
    """What the generated code is made for."""

    vector_bytes: int
    """Width of a vector register."""
    registers: int
    """Sums that are kept in registers at a time."""
    flags: tuple[str, ...]
    """Options of the compiler."""
    features: tuple[str, ...]
    """Features that a CPU must have, in the compiler's names."""


def this_machine() -> Machine:
    """The CPU that freezes, which TorchInductor's own code is compiled for as well."""
    isa: VecISA = pick_vec_isa()
    if isa is invalid_vec_isa or isa.bit_width() < 256:
        return Machine(16, 10, (), ())
    flags = tuple(shlex.split(isa.build_arch_flags()))
    if isa.bit_width() >= 512:
        return Machine(64, 21, flags, ("avx512f", "avx512dq", "avx512bw", "avx512vl"))
    return Machine(32, 10, flags, ("avx2", "fma"))


class Library:
    """The compiled kernels of a model.

    Parameters
    ----------
    structs : list[str]
        Generated classes: of the convolutions ``Convolution0``, …, of the contractions ``Contraction0``, …
    nlayer : int
        Number of layers.
    dtype : torch.dtype
        Precision of the network.
    machine : Machine
        What to compile for.
    """

    def __init__(self, structs: list[str], nlayer: int, dtype: torch.dtype, machine: Machine) -> None:
        self.machine = machine
        self.lanes = machine.vector_bytes // dtype.itemsize
        head = f"typedef {NAME[dtype]} T;\n#define VECTOR_BYTES {machine.vector_bytes}\n"
        text = files("deepmd_gnn.kernels")
        common = text.joinpath("kernels.hpp").read_text(encoding="utf-8")
        body = "namespace mace {\n" + "\n".join(structs) + "}\n"
        entries = _fill(text.joinpath("entries.hpp").read_text(encoding="utf-8"), nlayer, machine)
        self.kernels = head + common + body + entries
        self.shim = text.joinpath("shim.hpp").read_text(encoding="utf-8").replace("@T@", NAME[dtype])
        self._loaded: ctypes.CDLL | None = None

    def folder(self) -> Path:
        """Where the compiled files are kept: below torch's own cache, named by their content."""
        key = hashlib.sha256(
            "\n".join([self.kernels, self.shim, *self._command(), torch.__version__]).encode()
        )
        return Path(cache_dir()) / "deepmd_gnn" / key.hexdigest()[:32]

    def _command(self) -> list[str]:
        return [*shlex.split(get_cpp_compiler()), *FLAGS, *self.machine.flags]

    def _made(self, name: str, inputs: list[str], options: list[str]) -> Path:
        """Run the compiler in the folder, unless an earlier freeze has made the file."""
        target = self.folder() / name
        if target.exists():
            return target
        unfinished = target.with_name(f"{name}.{os.getpid()}")
        command = [*self._command(), *options, *inputs, "-o", unfinished.name]
        done = subprocess.run(command, cwd=target.parent, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(
                f"mace model: the generated kernels do not compile ({shlex.join(command)} in {target.parent}):\n"
                f"{done.stderr[-3000:]}"
            )
        unfinished.replace(target)
        return target

    def _compiled(self, name: str, source: str, options: list[str]) -> Path:
        folder = self.folder()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.cpp").write_text(source, encoding="utf-8")
        return self._made(f"{name}.o", [f"{name}.cpp"], ["-c", *options])

    def shared(self) -> Path:
        """Library for Python."""
        kernels = self._compiled("kernels", self.kernels, [])
        return self._made("kernels.so", [kernels.name], ["-shared"])

    def archive(self) -> Path:
        """Static library with the operators' C functions, to link into a ``.pt2``."""
        include = Path(torch.__file__).parent / "include"
        kernels = self._compiled("kernels", self.kernels, [])
        shim = self._compiled("shim", self.shim, [f"-I{include}"])
        # One object file of both: a library of one member, which needs no archiver.
        return self._made("libdeepmd_gnn_kernels.a", [kernels.name, shim.name], ["-r", "-nostdlib"])

    def call(self, name: str, *arguments: torch.Tensor | int | float) -> None:
        """Call a function of the library in Python.

        Parameters
        ----------
        name : str
            See ``entries.hpp``.
        *arguments : torch.Tensor | int | float
            Contiguous tensors (their data), integers and floats, as declared there.

        Raises
        ------
        RuntimeError
            If the function reports an error.
        """
        if self._loaded is None:
            self._loaded = ctypes.CDLL(str(self.shared()))
        values: list[ctypes.c_void_p | ctypes.c_long | ctypes.c_double] = []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                assert argument.is_contiguous()
                values.append(ctypes.c_void_p(argument.data_ptr() if argument.numel() else None))
            elif isinstance(argument, int):
                values.append(ctypes.c_long(argument))
            else:
                values.append(ctypes.c_double(argument))
        if self._loaded[name](*values) != 0:
            raise RuntimeError(
                f"mace model: {name} failed: no such layer, or not the CPU it was compiled for."
            )


def _fill(entries: str, nlayer: int, machine: Machine) -> str:
    """Write the choice of the layer and the check of the CPU into the entry points."""
    checks = " && ".join(f'__builtin_cpu_supports("{name}")' for name in machine.features) or "true"
    for name in ("CONVOLVE", "CONVOLVE_BACKWARD", "CONTRACT", "CONTRACT_BACKWARD"):
        kind = "Convolution" if "CONVOLVE" in name else "Contraction"
        cases = " ".join(
            f"case {n}: call(static_cast<mace::{kind}{n}*>(nullptr)); break;" for n in range(nlayer)
        )
        entries = entries.replace(f"@{name}@", f"switch (layer) {{ {cases} default: return 1; }}")
    return entries.replace("@SUPPORTED@", checks).replace("@FEATURES@", ", ".join(machine.features))
