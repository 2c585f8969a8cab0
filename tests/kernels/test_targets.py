"""What a file is compiled for: chosen, found out or refused, and told to TorchInductor."""

import platform
import shlex

import pytest
from torch._inductor import cpp_builder, cpu_vec_isa

from deepmd_gnn.graph.compilation import compiling
from deepmd_gnn.host.freezing import evaluated_by
from deepmd_gnn.kernels.cpu import targets
from deepmd_gnn.kernels.cpu.targets import (
    ARM,
    VARIABLE,
    X86,
    baseline,
    compiled_for,
    say_if_slow,
    target_machine,
)


@pytest.fixture
def has(monkeypatch):
    """Let this be an x86 machine whose widest vectors have so many bits, or another one."""

    def machine(bits, architecture="x86_64"):
        found = {512: cpu_vec_isa.VecAVX512(), 256: cpu_vec_isa.VecAVX2(), 0: cpu_vec_isa.invalid_vec_isa}
        monkeypatch.setattr(targets, "pick_vector_instructions", lambda: found[bits])
        monkeypatch.setattr(targets.platform, "machine", lambda: architecture)

    monkeypatch.delenv(VARIABLE, raising=False)
    return machine


@pytest.mark.parametrize(("bits", "name"), [(512, "x86-64-v4"), (256, "x86-64-v3"), (0, "generic")])
def test_without_a_choice(bits, name, has, caplog):
    has(bits)
    machine = target_machine()
    assert machine is X86[name]
    say_if_slow(machine)
    with compiling(cpu="generic"):
        say_if_slow(target_machine())  # somebody asked for it
    assert ("no code for AVX2" in caplog.text) == (bits == 0)
    assert len(caplog.records) == (bits == 0)


def test_a_choice(has, monkeypatch):
    """The option is heard first."""
    has(512)
    monkeypatch.setenv(VARIABLE, "x86-64-v3")
    assert target_machine() is X86["x86-64-v3"]
    with evaluated_by("kernels", "generic"):
        assert target_machine() is X86["generic"]
    with evaluated_by("kernels", "native"):
        assert target_machine() is X86["x86-64-v4"]


def test_arm(has, monkeypatch):
    """NEON belongs to the architecture, so that every file runs everywhere."""
    has(0, "aarch64")
    assert target_machine() is ARM["generic"]
    with compiling(cpu="generic"):
        assert target_machine() is ARM["generic"]
    assert ARM["generic"].supported() == "true"
    with (
        compiling(cpu="x86-64-v3"),
        pytest.raises(ValueError, match="on aarch64 it must be one of native, generic"),
    ):
        target_machine()


def test_torchinductor_writes_neon_on_arm_machines_with_sve(has, monkeypatch):
    """torch gives both one name."""
    has(0, "aarch64")
    monkeypatch.setattr(cpu_vec_isa, "valid_vec_isa_list", lambda: [cpu_vec_isa.VecSVE256()])
    with compiled_for(target_machine()):
        (isa,) = cpu_vec_isa.valid_vec_isa_list()
        assert type(isa) is cpu_vec_isa.VecNEON
        flags, _ = cpp_builder._get_optimization_cflags("g++")
    assert [flag for flag in flags if flag.startswith("m")] == ["march=armv8-a"]


def test_refused(has, monkeypatch):
    has(256)
    with compiling(cpu="x86-64-v4"), pytest.raises(ValueError, match="here only vectors of 256 bits run"):
        target_machine()
    monkeypatch.setenv(VARIABLE, "skylake")
    with pytest.raises(ValueError, match=f"mace model: the environment variable {VARIABLE} is 'skylake'"):
        target_machine()
    with (
        pytest.raises(ValueError, match="cpu is 'skylake'; it must be one of native, generic, "),
        evaluated_by("kernels", "skylake"),
    ):
        pass


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86 processors")
@pytest.mark.parametrize("name", ["generic", "x86-64-v3", "x86-64-v4"])
def test_what_torchinductor_compiles_with(name):
    """No more than the machine has, whatever this CPU is; and nothing stays changed."""
    machine = X86[name]
    if 8 * machine.vector_bytes > max(128, cpu_vec_isa.pick_vec_isa().bit_width()):
        pytest.skip("this CPU has narrower vectors")
    before = cpu_vec_isa.pick_vec_isa()
    with compiled_for(machine):
        isa = cpu_vec_isa.pick_vec_isa()
        options = cpp_builder.CppTorchOptions(vec_isa=isa)
        flags = [flag for flag in options.get_cflags() if flag.startswith(("m", "march"))]
        found = {*shlex.split(isa.build_arch_flags()), *(f"-{flag}" for flag in flags)}
        assert found == {*baseline(), *machine.flags}
        assert isa.nelements() == machine.vector_bytes // 4 if machine.instructions else not isa
    assert cpu_vec_isa.pick_vec_isa() is before
    assert "march=native" in cpp_builder.CppTorchOptions(vec_isa=before).get_cflags()
