"""The shared C++ standard library, also for compilers that lack the link to it.

Images with a compiler but without the development link ``libstdc++.so`` are common (CUDA containers). The compiler then
takes ``libstdc++.a``: a copy inside the ``.pt2``, which does not go together with the one of the process that opens it and
ends that process.
"""

import contextlib
import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from torch._inductor.cpp_builder import get_cpp_compiler

from deepmd_gnn.kernels.cpu.cache import place_of
from deepmd_gnn.kernels.cpu.compiler import linked_into_models

LINK, LIBRARY = "libstdc++.so", "libstdc++.so.6"


@contextlib.contextmanager
def with_shared_library() -> Iterator[None]:
    """Link every ``.pt2`` that is frozen inside with the shared library.

    Raises
    ------
    RuntimeError
        If the compiler lacks the link, and the library is not found.
    """
    options = folder_options()
    if not options:
        yield
        return
    # TorchInductor's list has names only; what follows the name becomes an option.
    with linked_into_models(f"stdc++ {shlex.join(options)}"):
        yield


def folder_options() -> list[str]:
    """Options of the compiler that let it find the shared library; none if it does without.

    Raises
    ------
    RuntimeError
        If the compiler lacks the link, and the library is not found.
    """
    compiler = get_cpp_compiler()
    if not sys.platform.startswith("linux") or _known_file(compiler, LINK) is not None:
        return []
    library = _known_file(compiler, LIBRARY) or _library_of_process()
    if library is None:
        raise RuntimeError(
            f"mace model: freezing to .pt2 links the C++ standard library, but {compiler} finds no libstdc++.so, and this process "
            f"uses no {LIBRARY}. Install the compiler's library (Debian: apt install g++; conda: conda install gxx)."
        )
    folder = place_of("standard_library", str(library))
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{LINK}.{os.getpid()}"
    unfinished.unlink(missing_ok=True)
    unfinished.symlink_to(library)
    unfinished.replace(folder / LINK)
    return [f"-L{folder}"]


@functools.cache
def _known_file(compiler: str, name: str) -> Path | None:
    """Where a compiler finds a library, None if it does not."""
    command = [*shlex.split(compiler), f"-print-file-name={name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = Path(done.stdout.strip())
    # A compiler that does not know the file answers with the bare name.
    return found if found.is_absolute() and found.exists() else None


def _library_of_process() -> Path | None:
    """The library that torch brought into this process."""
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    found = re.search(rf"(/\S*/{re.escape(LIBRARY)}\S*)$", maps, re.MULTILINE)
    return Path(found[1]) if found else None
