"""CPUs that files are compiled for: their vectors, the compiler's options, and what a CPU must have to run the code."""

import contextlib
import logging
import os
import platform
from collections.abc import Iterator
from typing import NamedTuple

from torch._inductor import cpp_builder, cpu_vec_isa

from deepmd_gnn.graph.compilation import compilation
from deepmd_gnn.kernels.cpu.cache import pick_vector_instructions

log = logging.getLogger("deepmd.deepmd_gnn")

# For commands of the host, which have no such option.
VARIABLE = "DEEPMD_GNN_CPU"
NATIVE, GENERIC = "native", "generic"
NAMES = (NATIVE, GENERIC, "x86-64-v3", "x86-64-v4")


class Machine(NamedTuple):
    """What code is made for."""

    vector_bytes: int
    """Width of a vector register."""
    registers: int
    """Sums that are kept in registers at a time."""
    flags: tuple[str, ...]
    """Options of the compiler."""
    features: tuple[str, ...]
    """Features that a CPU must have, in the compiler's names."""
    instructions: str = ""
    """TorchInductor's class of the vector instructions; empty: it writes no vectors."""

    def supported(self) -> str:
        """C++ expression that tells whether the CPU has them."""
        return " && ".join(f'__builtin_cpu_supports("{name}")' for name in self.features) or "true"


# What a compiler makes code for by itself may be more than the architecture has: distributions for new machines set it so.
BASELINES = {**dict.fromkeys(("x86_64", "AMD64"), ("-march=x86-64",)), "aarch64": ("-march=armv8-a",)}
# The narrowest first. Every CPU with AVX2 and FMA converts half precision (f16c), which torch's headers do with AVX2.
X86 = {
    GENERIC: Machine(16, 10, (), ()),
    "x86-64-v3": Machine(32, 10, ("-mavx2", "-mfma", "-mf16c"), ("avx2", "fma"), "VecAVX2"),
    "x86-64-v4": Machine(
        64,
        21,
        ("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"),
        ("avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"),
        "VecAVX512",
    ),
}
# NEON is part of the architecture: no options, nothing to ask the CPU for. SVE is not used.
ARM = {GENERIC: Machine(16, 21, (), (), "VecNEON")}
OTHERS = {GENERIC: Machine(16, 10, (), ())}


def baseline() -> tuple[str, ...]:
    """Options of the compiler for every CPU of this architecture, before those of a machine."""
    return BASELINES.get(platform.machine(), ())


def known_machines() -> dict[str, Machine]:
    """What this architecture's files can be compiled for, by name."""
    here = platform.machine()
    return X86 if here in ("x86_64", "AMD64") else ARM if here in ("aarch64", "arm64") else OTHERS


def plain_machine() -> Machine:
    """What runs on every CPU of this architecture."""
    return known_machines()[GENERIC]


def target_machine() -> Machine:
    """What the file that is being frozen is compiled for, generated code and TorchInductor's alike.

    Returns
    -------
    Machine
        Chosen by :func:`~deepmd_gnn.host.freezing.evaluated_by`, else by the environment variable :data:`VARIABLE`; without
        a choice the widest vectors that this CPU has and the compiler knows.

    Raises
    ------
    ValueError
        If there is no such machine, or this one could not run its code: a freeze evaluates what it has compiled.
    """
    option, variable = compilation().cpu, os.environ.get(VARIABLE)
    name, where = (
        (option, "--cpu") if option else (variable or NATIVE, f"the environment variable {VARIABLE}")
    )
    known = known_machines()
    if name not in (NATIVE, *known):
        raise ValueError(
            f"mace model: {where} is {name!r}; on {platform.machine()} it must be one of {', '.join((NATIVE, *known))}"
        )
    if name == GENERIC:
        return known[GENERIC]
    widest = _widest(known)
    if name == NATIVE:
        return widest
    if known[name].vector_bytes > widest.vector_bytes:
        raise ValueError(
            f"mace model: {where} is {name!r}, but here only vectors of {8 * widest.vector_bytes} bits run: this CPU, the compiler "
            "or ATEN_CPU_CAPABILITY has no wider ones, and a freeze evaluates what it has compiled. Freeze on a machine like "
            "those that will run the file, or choose a narrower name."
        )
    return known[name]


def _widest(known: dict[str, Machine]) -> Machine:
    """The machine with the widest vectors that run here."""
    if known is not X86:
        return known[GENERIC]
    found = pick_vector_instructions().bit_width()
    return max(
        (
            machine
            for machine in known.values()
            if machine is known[GENERIC] or 8 * machine.vector_bytes <= found
        ),
        key=lambda machine: machine.vector_bytes,
    )


def say_if_slow(machine: Machine) -> None:
    """Warn in the log where no vectors were found, although nobody asked for a machine without.

    Parameters
    ----------
    machine : Machine
        From :func:`target_machine`.
    """
    chosen = compilation().cpu or os.environ.get(VARIABLE) or NATIVE
    if chosen == NATIVE and machine is X86[GENERIC]:
        log.warning(
            "mace model: the compiler makes no code for AVX2 or AVX-512 that runs here; the .pt2 will be slower."
        )


@contextlib.contextmanager
def compiled_for(machine: Machine) -> Iterator[None]:
    """Let TorchInductor write and compile code for a machine inside a ``with`` block.

    By itself it compiles for this very CPU (``-march=native``), with more features than its vectors need: the file would need
    all of them.

    Parameters
    ----------
    machine : Machine
        The machine.
    """
    pick_vector_instructions()  # torch's trials, before its list is replaced
    # Not those of torch's list: they have further options where this CPU has AVX-512 for bfloat16, and on ARM it has SVE instead of NEON.
    chosen = [getattr(cpu_vec_isa, machine.instructions)()] if machine.instructions else []
    original_list, original_options = cpu_vec_isa.valid_vec_isa_list, cpp_builder._get_optimization_cflags

    def options(cpp_compiler: str, min_optimize: bool = False) -> tuple[list[str], list[str]]:
        found, linker = original_options(cpp_compiler, min_optimize)
        kept = [option for option in found if not option.startswith(("march=", "mcpu="))]
        return [*kept, *(flag.removeprefix("-") for flag in (*baseline(), *machine.flags))], linker

    cpu_vec_isa.valid_vec_isa_list = lambda: chosen  # type: ignore[assignment]
    cpp_builder._get_optimization_cflags = options
    try:
        yield
    finally:
        cpu_vec_isa.valid_vec_isa_list = original_list
        cpp_builder._get_optimization_cflags = original_options
