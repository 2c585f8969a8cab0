"""Compile generated kernels: a shared library for Python, a static one to link into a ``.pt2``."""

import ctypes
from importlib.resources import files
from pathlib import Path

import torch

from deepmd_gnn.kernels.cpu.compiler import TORCH_HEADERS, Compiled
from deepmd_gnn.kernels.cpu.standard_library import folder_options
from deepmd_gnn.kernels.cpu.targets import Machine

NAME = {torch.float32: "float", torch.float64: "double"}


class Library:
    """The compiled kernels of a model.

    Parameters
    ----------
    structs : list[str]
        Generated classes: of the convolutions ``Convolution0``, …, of the contractions ``Contraction0``, …
    mixing : str
        Generated inner loop of the linear maps.
    nlayer : int
        Number of layers, which have a convolution each.
    dtype : torch.dtype
        Precision of the network.
    machine : Machine
        What to compile for.
    contractions : int
        Number of contractions: as many, or none.
    """

    def __init__(
        self,
        structs: list[str],
        mixing: str,
        nlayer: int,
        dtype: torch.dtype,
        machine: Machine,
        contractions: int,
    ) -> None:
        self.machine = machine
        self.lanes = machine.vector_bytes // dtype.itemsize
        head = f"typedef {NAME[dtype]} T;\n#define VECTOR_BYTES {machine.vector_bytes}\n"
        text = files("deepmd_gnn.kernels.cpu")
        vectors, maps, loops, kinds = (
            text.joinpath(f"{name}.hpp").read_text(encoding="utf-8")
            for name in ("vectors", "mixing", "kernels", "kinds")
        )
        body = "namespace mace {\n" + "\n".join(structs) + "}\n"
        entries = _fill(
            text.joinpath("entries.hpp").read_text(encoding="utf-8"), (nlayer, contractions), machine
        )
        shim = text.joinpath("shim.hpp").read_text(encoding="utf-8").replace("@T@", NAME[dtype])
        self.compiled = Compiled(
            {"kernels": head + vectors + mixing + maps + loops + kinds + body + entries, "shim": shim},
            machine.flags,
        )
        self._loaded: ctypes.CDLL | None = None

    def shared(self) -> Path:
        """Library for Python."""
        objects = [self.compiled.object("kernels").name]
        return self.compiled.made("kernels.so", objects, "-shared", *folder_options())

    def archive(self) -> Path:
        """Static library with the operators' C functions, to link into a ``.pt2``."""
        objects = [self.compiled.object("kernels"), self.compiled.object("shim", TORCH_HEADERS)]
        return self.compiled.archive("deepmd_gnn_kernels", objects)

    def call(self, name: str, *arguments: torch.Tensor | int | float) -> None:
        """Call a function of the library in Python.

        Parameters
        ----------
        name : str
            See ``entries.hpp``.
        *arguments : torch.Tensor | int | float
            Contiguous tensors of any shape (their data), integers and floats, as declared there.

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


def _fill(entries: str, numbers: tuple[int, int], machine: Machine) -> str:
    """Write the choice of the layer and the check of the CPU into the entry points."""
    for name in ("CONVOLVE", "CONVOLVE_BACKWARD", "CONTRACT", "CONTRACT_BACKWARD"):
        kind, number = ("Convolution", numbers[0]) if "CONVOLVE" in name else ("Contraction", numbers[1])
        cases = " ".join(
            f"case {n}: call(static_cast<mace::{kind}{n}*>(nullptr)); break;" for n in range(number)
        )
        entries = entries.replace(f"@{name}@", f"switch (layer) {{ {cases} default: return 1; }}")
    return entries.replace("@SUPPORTED@", machine.supported()).replace(
        "@FEATURES@", ", ".join(machine.features)
    )
