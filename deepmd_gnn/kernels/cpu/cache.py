"""What a freeze keeps for the next one on the same machine, beside torch's own caches.

AOTInductor 2.11 calls the compiler in every freeze, although the code of a network does not depend on its weights.
"""

import contextlib
import functools
import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch._inductor import cpu_vec_isa
from torch._inductor.cpp_builder import CppBuilder, get_cpp_compiler
from torch._inductor.runtime.cache_dir_utils import cache_dir

from deepmd_gnn.kernels.cpu.kept import is_whole, written

log = logging.getLogger("deepmd.deepmd_gnn")

# Beginning of the line in which generated code names the file it was written to.
_OWN_NAME = "// Triton kernels are embedded as comments in "
# Definition of a list of sizes.
_SIZES = re.compile(r"\s*(?:static )?const(?:expr)? int64_t \*?(int_array_\d+)(?:\[\])? ?= ?(.*);")


@functools.cache
def _this_compiler(command: str) -> str | None:
    """What a compiler and the CPU are, None if it does not tell."""
    try:
        done = subprocess.run(
            [*shlex.split(command), "-v", "-march=native", "-Q", "--help=target"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    # The version is printed with the errors, between names of temporary files.
    versions = [line for line in done.stderr.splitlines() if "version" in line and "/tmp" not in line]
    return "\n".join([command, torch.__version__, *versions, done.stdout])


def place_here(kind: str, *content: str) -> Path | None:
    """Path of what is made from some text by this compiler for this CPU; None if the compiler does not tell what it is."""
    compiler = _this_compiler(get_cpp_compiler())
    if compiler is None:
        return None
    return place_of(kind, compiler, *content)


def place_of(kind: str, *content: str) -> Path:
    """Path below torch's own cache for what is made from some text, one for every text."""
    key = hashlib.sha256("\0".join(content).encode())
    return Path(cache_dir()) / "deepmd_gnn" / kind / key.hexdigest()[:32]


def pick_vector_instructions() -> cpu_vec_isa.VecISA:
    """Choose the vector instructions as TorchInductor does, without its trials.

    torch tells which ones the CPU has. TorchInductor then compiles a program for each and opens it in a new Python that
    imports torch, 20 s of CPU in all; whether the compiler takes their options is enough.

    Returns
    -------
    torch._inductor.cpu_vec_isa.VecISA
        The widest ones that the CPU has and the compiler knows. TorchInductor remembers them for the process.
    """
    original = cpu_vec_isa.VecISA.check_build

    def check_build(self: cpu_vec_isa.VecISA, code: str) -> bool:  # noqa: ARG001
        return _knows(get_cpp_compiler(), self._arch_flags)

    cpu_vec_isa.VecISA.check_build = check_build  # type: ignore[method-assign]
    try:
        return cpu_vec_isa.pick_vec_isa()
    finally:
        cpu_vec_isa.VecISA.check_build = original  # type: ignore[method-assign]


@functools.cache
def _knows(compiler: str, flags: str) -> bool:
    """Whether a compiler takes some options, tried on an empty program."""
    command = [*shlex.split(compiler), *shlex.split(flags), "-x", "c++", "-c", "-o", os.devnull, "-"]
    try:
        done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


@contextlib.contextmanager
def compiled_once() -> Iterator[None]:
    """Keep what TorchInductor compiles inside, and take what an earlier freeze has kept.

    The objects are copied, never linked: TorchInductor removes its own. Weights are not part of them.
    """
    original = CppBuilder.build

    @functools.wraps(original)
    def build(self: Any) -> None:
        kept = _kept_object(self)
        if kept is None:
            original(self)
            return
        target = Path(self.get_target_file_path())
        if is_whole(kept):
            shutil.copyfile(kept, target)
            return
        original(self)
        # A full disk, or a cache that can only be read, costs the next freeze some time.
        with contextlib.suppress(OSError), written(kept) as unfinished:
            shutil.copyfile(target, unfinished)

    CppBuilder.build = build  # type: ignore[method-assign]
    try:
        yield
    finally:
        CppBuilder.build = original  # type: ignore[method-assign]


def _kept_object(builder: Any) -> Path | None:
    """Where the object that is to be built is kept; None unless it is one of the generated sources."""
    target, source = Path(builder.get_target_file_path()), Path(builder._sources_args)
    if target.suffix != ".o" or source.suffix != ".cpp" or not source.is_file():
        return None
    code = source.read_text(encoding="utf-8").splitlines()
    command = builder.get_command_line().replace(str(source), "").replace(str(target), "")
    return place_here("objects", command, *_without_names(code))


def _without_names(code: Iterable[str]) -> Iterator[str]:
    """Leave out what differs between equal programs.

    TorchInductor numbers lists of sizes, and whether two equal ones share a number depends on addresses in memory
    (``codegen_int_array_var`` has an ``id`` in its key): the list takes the place of its name.
    """
    sizes: dict[str, str] = {}
    for line in code:
        defined = _SIZES.fullmatch(line)
        if defined:
            sizes[defined[1]] = defined[2]
        elif not line.startswith(_OWN_NAME):
            yield re.sub(r"int_array_\d+", lambda name: sizes.get(name[0], name[0]), line)
