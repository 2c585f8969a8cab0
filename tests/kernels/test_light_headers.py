"""What is left out when a program is compiled: the names of devices are read as torch reads them, and other sources stay as they are."""

import re
import subprocess

import pytest
from torch._inductor.cpp_builder import BuildOptionsBase, CppBuilder

from deepmd_gnn.kernels.cpu import cache, kept, light_headers

# Torch's pattern.
PATTERN = "(cpu|cuda|xpu|mps)(:([0-9]+))?"
NAMES = [
    "cpu",
    "cuda",
    "cuda:0",
    "xpu:12",
    "mps",
    "",
    ":",
    "cpu:",
    "cpu:x",
    "cpu:1x",
    "cpu1",
    "gpu",
    "cuda:0:1",
    " cpu",
    "cpu ",
    "CPU",
]
SOURCE = """#include <regex>
#include <iostream>
int main(int, char** names) {
  for (++names; *names; ++names) {
    const std::string name(*names);
    std::regex re("(cpu|cuda|xpu|mps)(:([0-9]+))?");
    std::smatch sm;
    bool matched = std::regex_match(name, sm, re);
    std::cout << matched;
    for (int part = 0; matched && part < 4; ++part) std::cout << "|" << sm[part].matched << sm[part].str();
    std::cout << std::endl;
  }
}
"""


@pytest.fixture
def folder(monkeypatch, tmp_path):
    for module in (cache, kept):
        monkeypatch.setattr(module, "cache_dir", lambda: str(tmp_path))
    return light_headers._folder()


def expected(name):
    found = re.fullmatch(PATTERN, name)
    if not found:
        return "0"
    parts = [found[place] for place in range(4)]
    return "|".join(["1", *(f"{int(part is not None)}{part or ''}" for part in parts)])


def test_names_of_devices(folder, tmp_path):
    (tmp_path / "names.cpp").write_text(SOURCE)
    program = tmp_path / "names"
    subprocess.run(["g++", "-std=c++17", "-I", folder, tmp_path / "names.cpp", "-o", program], check=True)
    said = subprocess.run([program, *NAMES], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [expected(name) for name in NAMES]


def command(name, monkeypatch):
    """What the compiler is called with."""
    said = []
    monkeypatch.setattr(CppBuilder, "build", lambda self: said.append(self.get_command_line()))
    options = BuildOptionsBase(compiler="g++", compile_only=True, include_dirs=["/torch"], cflags=["Wall"])
    with light_headers.light_programs():
        CppBuilder("a", name, options, "/tmp").build()
    return said[0]


def test_which_sources_are_compiled_so(folder, monkeypatch):
    calls = command("/a/b.wrapper.cpp", monkeypatch)
    assert calls.index(str(folder)) < calls.index("/torch")
    assert " -w " in calls
    loops = command("/a/b.kernel.cpp", monkeypatch)
    assert str(folder) not in loops
    assert " -w " in loops
    other = command("/a/b.main.cpp", monkeypatch)
    assert str(folder) not in other
    assert " -w " not in other


def test_torch_reads_nothing_else_so(folder, monkeypatch):
    """If this fails with a new torch, look at what its headers match now."""
    assert light_headers._only_names_of_devices()
    monkeypatch.setattr(light_headers, "_only_names_of_devices", lambda: False)
    assert str(folder) not in command("/a/b.wrapper.cpp", monkeypatch)
