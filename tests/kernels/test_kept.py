"""Kept libraries that were cut short, emptied or exchanged are noticed and made anew; broken ones of torch are removed."""

import os
import subprocess
import sys

import pytest
import torch._inductor.config as inductor_config
from filelock import FileLock
from torch._inductor.cpp_builder import cpp_compiler_search

from deepmd_gnn.kernels.cpu import cache as repeated
from deepmd_gnn.kernels.cpu import compiler, kept
from deepmd_gnn.kernels.cpu.compiler import Compiled, check_compiler

SOURCE = 'extern "C" __attribute__((visibility("default"))) int answer() { return 42; }\n'
DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "changed": lambda data: data[:-10] + b"x" * 10,
}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    for module in (repeated, kept):
        monkeypatch.setattr(module, "cache_dir", lambda: str(tmp_path))
    monkeypatch.setattr(kept, "get_lock_dir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def runs(monkeypatch):
    """Numbers of calls of the compiler."""
    found, original = [], Compiled._compile

    def spy(self, arguments):
        found.append(arguments)
        original(self, arguments)

    monkeypatch.setattr(Compiled, "_compile", spy)
    return found


def library():
    made = Compiled({"a": SOURCE}, ())
    return made.made("a.so", [made.object("a").name], "-shared"), made.archive("a", [made.object("a")])


def answer(path):
    """In a process of its own, which a library that is cut short would kill."""
    code = f"import ctypes; print(ctypes.CDLL({str(path)!r}).answer())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["a.so", "a.o", "liba.a"])
def test_damaged_files_are_made_anew(name, damage, cache, runs, caplog):
    shared, _ = library()
    path = shared.with_name(name)
    data = path.read_bytes()
    path.write_bytes(DAMAGE[damage](data))
    assert [file.name for file in library()] == ["a.so", "liba.a"]
    assert path.read_bytes() == data
    assert answer(shared) == "42"
    library()
    assert len(runs) == 4
    assert caplog.text.count(f"{path} is damaged") == 1
    assert len(caplog.records) == 1


def test_a_complete_cache_is_not_written(cache, runs, monkeypatch):
    """It may be read only, as root's tests could not tell."""
    library()

    def refuse(*arguments, **options):
        raise PermissionError("read only")

    for name in ("write_text", "mkdir", "replace", "unlink"):
        monkeypatch.setattr(type(cache), name, refuse)
    library()
    assert len(runs) == 3


def test_an_incomplete_cache_that_cannot_be_written(cache):
    (cache / "deepmd_gnn").write_text("a file where the folder would be")
    with pytest.raises(
        RuntimeError, match="mace model: cannot keep compiled code in .*TORCHINDUCTOR_CACHE_DIR"
    ):
        library()


def test_interrupted_writing_leaves_nothing(cache):
    with pytest.raises(KeyboardInterrupt), kept.written(cache / "folder" / "a.o") as unfinished:  # noqa: PT012
        unfinished.write_text("half")
        raise KeyboardInterrupt
    assert not any((cache / "folder").iterdir())


def test_broken_libraries_of_torch_are_removed(cache, tmp_path, caplog):
    """What Ctrl-C leaves of its linker is loaded ever after, "file too short"; a cut test of the processor fails silently."""
    shared, _ = library()
    data = shared.read_bytes()
    folder = tmp_path / "ab"
    folder.mkdir()
    whole = {"cabx.so": data, "cabx.main.o": shared.with_name("a.o").read_bytes(), "cabx.cpp": b""}
    broken = {"caby.main.so": b"", "cabz.so": data[:-1], "cabw.so": data[:40], "cabv.o": b""}
    for name, content in (whole | broken).items():
        (folder / name).write_bytes(content)
    kept.remove_broken()
    assert {path.name for path in folder.iterdir()} == set(whole)
    assert caplog.text.count("was cut short") == len(broken)


def test_a_library_that_is_being_linked_stays(cache, tmp_path):
    (tmp_path / "ab").mkdir()
    path = tmp_path / "ab" / "cabx.main.so"
    path.touch()
    with FileLock(tmp_path / "cabx.lock"):
        kept.remove_broken()
        assert path.exists()
    kept.remove_broken()
    assert not path.exists()


@pytest.mark.parametrize("command", ["", "/", os.devnull, "/nowhere/g++"])
def test_no_compiler(command):
    cpp_compiler_search.cache_clear()
    try:
        with (
            inductor_config.patch({"cpp.cxx": (command,)}),
            pytest.raises(RuntimeError, match="mace model: .*no C\\+\\+ compiler"),
        ):
            check_compiler()
    finally:
        cpp_compiler_search.cache_clear()


def test_a_compiler_that_does_nothing(cache, monkeypatch):
    monkeypatch.setattr(compiler, "get_cpp_compiler", lambda: "true")
    with pytest.raises(RuntimeError, match="does not compile"):
        library()
