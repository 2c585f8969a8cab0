"""A compiler without the link to the shared C++ library makes files with a copy of it, unless it is told where it is."""

import shlex
import subprocess
from pathlib import Path

import pytest
import torch._inductor.config as inductor_config

from deepmd_gnn.kernels.cpu import standard_library
from deepmd_gnn.kernels.cpu.standard_library import LIBRARY, LINK, folder_options, with_shared_library

SOURCE = '#include <sstream>\nextern "C" int length(int n) { std::ostringstream s; s << n; return s.str().size(); }\n'
# Knows neither file named by its first line, and links the copy if no folder with the link is given.
COMPILER = """#!/bin/sh
for name in {unknown}; do
    case "$*" in *-print-file-name=$name) echo "$name"; exit;; esac
done
for argument in "$@"; do
    case "$argument" in -L*) [ -e "${{argument#-L}}/libstdc++.so" ] && shared=1;; esac
done
[ -z "$shared" ] && set -- "$@" -static-libstdc++
exec g++ "$@"
"""


@pytest.fixture
def compiler(tmp_path):
    """Choose a compiler that does not know some files."""

    def choose(*unknown):
        path = tmp_path / "compiler"
        path.write_text(COMPILER.format(unknown=" ".join(unknown)))
        path.chmod(0o755)
        return inductor_config.patch({"cpp.cxx": (None, str(path))}), path

    return choose


def needed(path, command, *options):
    """Libraries that a shared library linked by the command needs."""
    (path / "length.cpp").write_text(SOURCE)
    line = [str(command), "-shared", "-fPIC", "length.cpp", *options, "-o", "length.so"]
    subprocess.run(line, cwd=path, check=True)
    return subprocess.run(
        ["readelf", "-d", "length.so"], cwd=path, check=True, capture_output=True, text=True
    ).stdout


def test_nothing_to_do():
    before = inductor_config.aot_inductor.custom_op_libs
    assert folder_options() == []
    with with_shared_library():
        assert inductor_config.aot_inductor.custom_op_libs == before


@pytest.mark.parametrize("unknown", [[LINK], [LINK, LIBRARY]])
def test_compiler_without_the_link(unknown, compiler, tmp_path):
    """The compiler's library or, if it has none at all, that of the process."""
    patched, command = compiler(*unknown)
    assert LIBRARY not in needed(tmp_path, command)
    with patched, with_shared_library():
        (library,) = inductor_config.aot_inductor.custom_op_libs
        assert LIBRARY in needed(tmp_path, command, *shlex.split(f"-l{library}"))
        (option,) = folder_options()
    assert (Path(option.removeprefix("-L")) / LINK).resolve().name.startswith(LIBRARY)
    assert not inductor_config.aot_inductor.custom_op_libs


def test_no_library_at_all(compiler, monkeypatch):
    monkeypatch.setattr(standard_library, "_library_of_process", lambda: None)
    patched, _ = compiler(LINK, LIBRARY)
    with patched, pytest.raises(RuntimeError, match=r"finds no libstdc\+\+\.so, and this process uses no"):
        folder_options()
