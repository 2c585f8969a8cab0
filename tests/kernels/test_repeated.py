"""What a freeze keeps for the next one: found again where it is the same, made anew where it is not."""

import pytest
from torch._inductor import cpp_builder, cpu_vec_isa
from torch._inductor.cpp_builder import BuildOptionsBase, CppBuilder
from torch._inductor.exc import CppCompileError

from deepmd_gnn.kernels.cpu import cache as repeated

CODE = """// Triton kernels are embedded as comments in {name}
static constexpr int64_t int_array_{first}[] = {{1L, {size}L}};
long rows() {{ return int_array_{first}[1]; }}
"""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr(repeated, "cache_dir", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache" / "deepmd_gnn"


@pytest.fixture
def commands(monkeypatch):
    """Commands of the compiler that are run."""
    run, found = cpp_builder.run_compile_cmd, []

    def spy(command, cwd):
        found.append(command)
        run(command, cwd)

    monkeypatch.setattr(cpp_builder, "run_compile_cmd", spy)
    return found


def build(folder, name, code):
    """Object that TorchInductor compiles."""
    source = folder / f"{name}.cpp"
    source.write_text("#include <cstdint>\n" + code)
    options = BuildOptionsBase(compiler="g++", compile_only=True, include_dirs=[], definitions=[])
    builder = CppBuilder(name, str(source), options, str(folder))
    with repeated.compiled_once():
        builder.build()
    return (folder / f"{name}.o").read_bytes()


def test_same_code_is_compiled_once(cache, commands, tmp_path):
    first = build(tmp_path, "a", CODE.format(name="a", first=3, size=5))
    # TorchInductor deletes its objects after linking.
    (tmp_path / "a.o").unlink()
    assert build(tmp_path, "b", CODE.format(name="b", first=7, size=5)) == first
    assert len(commands) == 1
    assert sorted(path.suffix for path in (cache / "objects").iterdir()) == ["", ".sha256"]


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:200], lambda data: data[:-1] + b"?"])
def test_damaged_objects_are_made_anew(damage, cache, commands, tmp_path, caplog):
    first = build(tmp_path, "a", CODE.format(name="a", first=3, size=5))
    (kept,) = (path for path in (cache / "objects").iterdir() if not path.suffix)
    kept.write_bytes(damage(kept.read_bytes()))
    for _ in range(2):
        (tmp_path / "a.o").unlink()
        assert build(tmp_path, "a", CODE.format(name="a", first=3, size=5)) == first
    assert len(commands) == 2
    assert caplog.text.count("is damaged") == 1


def test_a_cache_that_cannot_be_written(cache, commands, tmp_path):
    cache.parent.mkdir()
    cache.write_text("a file where the folder would be")
    for _ in range(2):
        build(tmp_path, "a", CODE.format(name="a", first=3, size=5))
    assert len(commands) == 2


@pytest.mark.parametrize(
    "changed", [CODE.format(name="a", first=3, size=6), CODE.format(name="a", first=3, size=5) + "int x;\n"]
)
def test_other_code_is_compiled(changed, cache, commands, tmp_path):
    first = build(tmp_path, "a", CODE.format(name="a", first=3, size=5))
    assert build(tmp_path, "a", changed) != first
    assert len(commands) == 2


def test_errors_are_not_kept(cache, commands, tmp_path):
    for _ in range(2):
        with pytest.raises(CppCompileError):
            build(tmp_path, "a", "this is not C++\n")
    assert len(commands) == 2
    assert not cache.exists()


def test_unknown_compiler_keeps_nothing(monkeypatch, cache, commands, tmp_path):
    monkeypatch.setattr(repeated, "_this_compiler", lambda command: None)
    for _ in range(2):
        build(tmp_path, "a", CODE.format(name="a", first=3, size=5))
    assert len(commands) == 2
    assert not cache.exists()


def forget():
    """Forget what TorchInductor found out in this process."""
    cpu_vec_isa.valid_vec_isa_list.cache_clear()
    cpu_vec_isa.VecISA._VecISA__bool__impl.cache_clear()
    cpu_vec_isa.VecAVX512.__bool__.cache_clear()


@pytest.fixture
def tried(monkeypatch):
    """What TorchInductor tries on a CPU with AVX2, AVX-512 and its bfloat16; the refused ones fail."""
    found = []

    def check_build(self, code):
        found.append((str(self), "bf16" in self._arch_flags))
        return True

    monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", check_build)
    monkeypatch.setattr(cpu_vec_isa, "x86_isa_checker", lambda: ["avx2", "avx512"])
    # New ones, because they remember what the CPU can do.
    ours = [cpu_vec_isa.VecAVX512(), cpu_vec_isa.VecAVX2()]
    monkeypatch.setattr(cpu_vec_isa, "supported_vec_isa_list", ours)
    monkeypatch.setattr(cpu_vec_isa.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu_vec_isa.torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    forget()
    yield found
    forget()


@pytest.mark.parametrize(
    ("known", "widest", "bf16"),
    [("avx512 bf16", "avx512", True), ("avx512", "avx512", False), ("", "avx2", False)],
)
def test_vector_instructions_that_the_compiler_knows(known, widest, bf16, tried, monkeypatch, tmp_path):
    compiler = tmp_path / "compiler"
    lacking = {"avx512 bf16": "none", "avx512": "*bf16*", "": "*avx512*"}[known]
    compiler.write_text(f'#!/bin/sh\ncase "$*" in {lacking}) exit 1;; esac\n')
    compiler.chmod(0o755)
    monkeypatch.setattr(repeated, "get_cpp_compiler", lambda: str(compiler))
    isa = repeated.pick_vector_instructions()
    assert str(isa) == widest
    assert ("bf16" in isa.build_arch_flags()) == bf16
    assert tried == []


def test_options_of_this_compiler():
    assert repeated._knows("g++", "")
    assert not repeated._knows("g++", "-mno-such-instructions")
    assert not repeated._knows("no-such-compiler", "")
