"""The C++ compiler: what it compiles for, and files that it made and that are kept."""

import contextlib
import logging
import shlex
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config as inductor_config
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler

from deepmd_gnn.kernels.cpu.cache import place_of
from deepmd_gnn.kernels.cpu.kept import is_whole, written
from deepmd_gnn.kernels.cpu.targets import Machine, baseline

log = logging.getLogger("deepmd.deepmd_gnn")

# No -ffast-math: an edge that is not a number must give an energy that is not a number.
# The kernels are written in vectors, and -O3 makes none of them faster but takes two and a half times as long. g++ before 12 vectorises
# the loops of other sources only if it is told to.
FLAGS = [
    "-O2",
    "-ftree-vectorize",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
]
GUARD = "deepmd_gnn_cpu_guard"
# For sources that use AOTInductor's C interface.
TORCH_HEADERS = f"-I{Path(torch.__file__).parent / 'include'}"


def check_compiler() -> None:
    """Look for the compiler that TorchInductor will call.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:  # the latter of an empty CXX, or one that is no program
        raise RuntimeError(
            "mace model: freezing to .pt2 compiles the model, but there is no C++ compiler: g++ was not found, and the "
            "environment variable CXX names no other one that runs. Install one (Debian: apt install g++; conda: "
            "conda install gxx), or freeze to .pth, which needs none."
        ) from error


class Compiled:
    """Files that the compiler makes of some sources, kept below torch's own cache and named by their content.

    Parameters
    ----------
    sources : dict[str, str]
        C++ by name.
    flags : tuple[str, ...]
        Options for the processor.
    included : dict[str, bytes], optional
        Files that the assembler takes in, by name; a source must name them by their content.
    """

    def __init__(
        self, sources: dict[str, str], flags: tuple[str, ...], included: dict[str, bytes] | None = None
    ) -> None:
        self.sources, self.included = sources, included or {}
        self.command = [*shlex.split(get_cpp_compiler()), *FLAGS, *baseline(), *flags]
        self.folder = place_of("libraries", *sources.values(), *self.command, torch.__version__)

    def object(self, name: str, *options: str) -> Path:
        """Compile a source."""
        return self.made(f"{name}.o", [f"{name}.cpp"], "-c", *options)

    def archive(self, name: str, objects: list[Path]) -> Path:
        """Static library of one member, which needs no archiver."""
        return self.made(f"lib{name}.a", [path.name for path in objects], "-r", "-nostdlib")

    def made(self, name: str, inputs: list[str], *options: str) -> Path:
        """Run the compiler in the folder, unless an earlier freeze has made the file.

        Parameters
        ----------
        name : str
            File to make.
        inputs : list[str]
            Files in the folder.
        *options : str
            Options of the compiler.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        RuntimeError
            With the compiler's messages.
        """
        target = self.folder / name
        if is_whole(target):
            return target
        try:
            with written(target) as unfinished:
                self._write_sources(inputs)
                self._compile([*options, *inputs, "-o", unfinished.name])
        except OSError as error:
            raise RuntimeError(
                f"mace model: cannot keep compiled code in {self.folder} ({error}). Let the environment variable "
                "TORCHINDUCTOR_CACHE_DIR name a folder that can be written to, with space on its disk."
            ) from error
        return target

    def _write_sources(self, names: list[str]) -> None:
        for name in names:
            text = self.sources.get(name.removesuffix(".cpp"))
            if name.endswith(".cpp") and text is not None:
                with written(self.folder / name) as unfinished:
                    unfinished.write_text(text, encoding="utf-8")
        for name, data in self.included.items():
            with written(self.folder / name) as unfinished:
                unfinished.write_bytes(data)

    def _compile(self, arguments: list[str]) -> None:
        command = [*self.command, *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (self.folder / arguments[-1]).exists():
            raise RuntimeError(
                f"mace model: generated code does not compile ({shlex.join(command)} in {self.folder}):\n"
                f"{done.stderr[-3000:]}"
            )


@contextlib.contextmanager
def linked_into_models(library: str, shims: dict[Any, list[str]] | None = None) -> Iterator[None]:
    """Add a library, and the C functions of operators, to every ``.pt2`` that is frozen inside.

    Parameters
    ----------
    library : str
        See :func:`linked`.
    shims : dict, optional
        Operator → declarations, as ``aot_inductor.custom_ops_to_c_shims`` has them.
    """
    config = inductor_config.aot_inductor
    settings = {
        "aot_inductor.custom_op_libs": [*(config.custom_op_libs or []), library],
        "aot_inductor.custom_ops_to_c_shims": {**config.custom_ops_to_c_shims, **(shims or {})},
    }
    with inductor_config.patch(settings):
        yield


def linked(archive: Path) -> str:
    """A static library as TorchInductor's list of libraries takes it.

    The list has names only; what follows the name becomes an option of the linker's command line.
    """
    return f"{archive.stem.removeprefix('lib')} -L'{archive.parent}'"


def operator_archive(*names: str) -> Path:
    """Compile files ``NAME.hpp`` of this folder, which hold operators as C functions of torch's tensor handles, into a static library."""
    text = files("deepmd_gnn.kernels.cpu")
    parts = (text.joinpath(f"{part}.hpp").read_text(encoding="utf-8") for part in ("tensor_handles", *names))
    name = "_".join(names)
    compiled = Compiled({name: "".join(parts)}, ())
    return compiled.archive(f"deepmd_gnn_{name}", [compiled.object(name, TORCH_HEADERS)])


def cpu_guard(machine: Machine) -> str:
    """Make a library that ends the process with a message if the CPU lacks a feature, before any other code runs.

    Parameters
    ----------
    machine : Machine
        What the file is compiled for.

    Returns
    -------
    str
        See :func:`linked`.
    """
    source = files("deepmd_gnn.kernels.cpu").joinpath("guard.hpp").read_text(encoding="utf-8")
    source = source.replace("@SUPPORTED@", machine.supported())
    source = source.replace("@FEATURES@", ", ".join(machine.features)).replace("@NAME@", GUARD)
    # Without the options for the processor: it must run on those that it refuses.
    compiled = Compiled({"guard": source}, ())
    archive = compiled.archive(GUARD, [compiled.object("guard")])
    # Nothing refers to it; the linker must be told that it is wanted.
    return f"{linked(archive)} -Wl,--undefined={GUARD}{_only_what_is_used()}"


def _only_what_is_used() -> str:
    """Option of the linker for the libraries that clang adds: LLVM's OpenMP, which few machines have and code for one thread does not call."""
    return " -Wl,--as-needed" if "clang" in compiler_name() else ""


def compiler_name() -> str:
    """The compiler that TorchInductor will call, with its version."""
    command = shlex.split(get_cpp_compiler())
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return f"{' '.join(command)}: {(done.stdout.splitlines() or ['version unknown'])[0]}"
