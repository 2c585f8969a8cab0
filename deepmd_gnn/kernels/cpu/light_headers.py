"""Compile AOTInductor's programs without what takes the compiler longest and none of them needs.

Of 7 s for the part of a program that calls one kernel after the other, 3 s went into ``std::regex``, with which torch 2.11 reads the name
of a device.
"""

import contextlib
import functools
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch._inductor.cpp_builder import CppBuilder

from deepmd_gnn.kernels.cpu.cache import place_of
from deepmd_gnn.kernels.cpu.kept import is_whole, written

# Ends of the files that AOTInductor writes.
_CALLS, _LOOPS = ".wrapper.cpp", ".kernel.cpp"
# All that torch's headers say of regular expressions, which `device_name.hpp` answers.
_KNOWN = [
    "#include <regex>",
    'std::regex re("(cpu|cuda|xpu|mps)(:([0-9]+))?");',
    "bool matched = std::regex_match(device_str, sm, re);",
]


@contextlib.contextmanager
def light_programs() -> Iterator[None]:
    """Compile the sources that AOTInductor writes inside without warnings and regular expressions."""
    original = CppBuilder.build

    @functools.wraps(original)
    def build(self: Any) -> None:
        _lighten(self)
        original(self)

    CppBuilder.build = build  # type: ignore[method-assign]
    try:
        yield
    finally:
        CppBuilder.build = original  # type: ignore[method-assign]


def _lighten(builder: Any) -> None:
    """Change the options with which a source of AOTInductor is compiled; others stay as they are."""
    source = builder._sources_args
    if not source.endswith((_CALLS, _LOOPS)):
        return
    # Nobody sees the warnings; to look for them takes a tenth of the time.
    builder._cflags_args += " -w "
    if source.endswith(_CALLS) and _only_names_of_devices():
        with contextlib.suppress(OSError):
            builder._include_dirs_args = f" -I'{_folder()}' {builder._include_dirs_args}"


@functools.cache
def _only_names_of_devices() -> bool:
    """Whether torch's headers use regular expressions for what is known here, and for nothing else."""
    headers = Path(torch.__file__).parent / "include" / "torch" / "csrc" / "inductor"
    found = [
        line.strip()
        for folder in ("aoti_runtime", "aoti_include", "cpp_wrapper/device_internal")
        for path in sorted((headers / folder).glob("*.h"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bregex|\bsmatch\b", line)
    ]
    return [line for line in found if line != "std::smatch sm;"] == _KNOWN


def _folder() -> Path:
    """Folder in which our header is called as the library's."""
    text = files("deepmd_gnn.kernels.cpu").joinpath("device_name.hpp").read_text(encoding="utf-8")
    folder = place_of("headers", text)
    if not is_whole(folder / "regex"):
        with written(folder / "regex") as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    return folder
