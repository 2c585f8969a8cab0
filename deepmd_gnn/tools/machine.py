"""What a machine brings for training and molecular dynamics: packages, threads, processor, GPU, LAMMPS and MPI."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from deepmd_gnn.config.versions import check_versions, package_versions
from deepmd_gnn.tools.lammps import find_programs

_ENTRIES = ("deepmd.backend", "deepmd.pt", "deepmd.pt_expt")
# From the checkout: the name on PyPI is another plugin's.
_LAMMPS = 'pip install ".[lammps]" in the checkout of this package'
# LAMMPS tells how many ranks it has, and its pair styles.
_QUESTION = 'variable n equal extract_setting(world_size)\nprint "ranks=$n"\ninfo styles pair\n'
_SECONDS = 120


@dataclass(frozen=True)
class Finding:
    """One line of ``deepmd-gnn doctor``."""

    name: str
    """What was looked at."""
    ok: bool | None
    """None: it is not there, and needed for some things only."""
    found: str
    """What is there."""
    advice: str = ""
    """What to do if it is not ok."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def python() -> Finding:
    """Python and the system."""
    found = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    ok = platform.system() == "Linux"
    return Finding("python", ok, found, "" if ok else "only Linux is tested; on Windows use WSL")


def packages() -> Finding:
    """Versions of what the model depends on."""
    found = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    try:
        check_versions()
    except ImportError as error:
        return Finding("packages", False, found, str(error))
    return Finding("packages", True, found)


def plugin() -> Finding:
    """Whether DeePMD-kit finds the model, and no other plugin beside it."""
    missing = [group for group in _ENTRIES if "deepmd_gnn" not in entry_points(group=group).names]
    if missing:
        advice = "pip install the package into the environment of dp (from the checkout: pip install .)"
        return Finding("plugin", False, f"DeePMD-kit does not find it under {', '.join(missing)}", advice)
    path = os.environ.get("DP_PLUGIN_PATH")
    if path:
        advice = "unset DP_PLUGIN_PATH unless another program needs it: this package has no library to load"
        return Finding("plugin", False, f"found; DP_PLUGIN_PATH is {path}", advice)
    return Finding("plugin", True, 'found: "type": "mace" in the input of dp --pt and dp --pt-expt')


def threads() -> Finding:
    """Threads of one process against the cores that it may use."""
    cores = len(os.sched_getaffinity(0))
    given = os.environ.get("OMP_NUM_THREADS", "")
    found = f"{cores} cores, OMP_NUM_THREADS is {given or 'not set'}"
    advice = (
        "export OMP_NUM_THREADS=1 (training: the number of cores) and OMP_WAIT_POLICY=passive; ranks times threads must not "
        f"exceed {cores}"
    )
    if given.isdigit() and 0 < int(given) <= cores:
        return Finding("threads", True, found)
    return Finding("threads", False, found, advice)


def processor() -> Finding:
    """Vector instructions, without which a ``.pt2`` is slow."""
    wanted = ("avx2", "fma", "avx512f", "avx512vl", "amx_tile")
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    present = [name for name in wanted if name in flags]
    if platform.machine() not in ("x86_64", "AMD64"):
        return Finding("processor", None, platform.machine(), "kernels for x86 are the fastest; others run")
    ok = {"avx2", "fma"} <= flags
    advice = "" if ok else "models run several times slower; in a virtual machine pass the host's CPU on"
    return Finding("processor", ok, " ".join(present) or "no AVX2", advice)


def gpu() -> Finding:
    """NVIDIA GPU, as torch sees it and as the driver does."""
    import torch

    built = (
        f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPUs"
    )
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count()))
        return Finding("GPU", True, f"{names}; {built}")
    if shutil.which("nvidia-smi") and _output(["nvidia-smi", "-L"])[1].startswith("GPU"):
        advice = f"{built}, but cannot use the GPU that nvidia-smi shows: update the NVIDIA driver"
        return Finding("GPU", False, "not usable", advice)
    return Finding("GPU", None, "none; everything runs on the CPU")


def cuda_runtime() -> Finding:
    """The library that DeePMD-kit's plugin for LAMMPS is linked to, even where it runs on a CPU."""
    name = "libcudart.so.12"
    folders = [
        *os.environ.get("LD_LIBRARY_PATH", "").split(":"),
        *(f"{p}/nvidia/cuda_runtime/lib" for p in sys.path),
    ]
    place = next((folder for folder in folders if folder and (Path(folder) / name).exists()), None)
    if place is None and name not in _output(["ldconfig", "-p"])[1]:
        advice = f"LAMMPS's plugin aborts without it: pip install nvidia-cuda-runtime-cu12, or {_LAMMPS}"
        return Finding("CUDA library", None, f"{name} was not found", advice)
    return Finding("CUDA library", True, f"{name} in {place or 'the system'}")


def lammps() -> list[Finding]:
    """LAMMPS with the pair style, and ``mpirun`` that gives it several ranks."""
    programs = find_programs()
    if programs.lmp is None:
        return [Finding("LAMMPS", None, "lmp was not found", _LAMMPS)]
    code, text = _ask([programs.lmp])
    if code or "deepmd" not in text.split():
        advice = f"{_LAMMPS}; an lmp of your own needs DeePMD-kit's plugin in LAMMPS_PLUGIN_PATH. It said: {text[-200:]}"
        return [Finding("LAMMPS", False, f"{programs.lmp} has no pair_style deepmd", advice)]
    version = next((line for line in text.splitlines() if line.startswith("LAMMPS (")), "LAMMPS")
    first = Finding("LAMMPS", True, f"{version} with pair_style deepmd: {programs.lmp}")
    if programs.mpirun is None:
        return [first, Finding("MPI", None, "mpirun was not found", _LAMMPS)]
    code, text = _ask([programs.mpirun, "-n", "2", programs.lmp])
    if code == 0 and "ranks=2" in text:
        return [first, Finding("MPI", True, f"two ranks: {programs.mpirun}")]
    advice = (
        "mpirun and lmp are of different MPI libraries, or mpirun cannot start two processes: use the mpirun beside lmp "
        f"({Path(programs.lmp).parent}). It said: {text[-200:]}"
    )
    return [first, Finding("MPI", False, f"{programs.mpirun} gives LAMMPS no two ranks", advice)]


def all_findings(kernels: Callable[[], list[Finding]]) -> list[Finding]:
    """Look at everything.

    Parameters
    ----------
    kernels : Callable
        Looks at compiler and generated kernels.

    Returns
    -------
    list[Finding]
    """
    first = [python(), packages(), plugin(), threads(), processor()]
    return [*first, *kernels(), gpu(), cuda_runtime(), *lammps()]


def _ask(program: list[str]) -> tuple[int, str]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in.doctor").write_text(_QUESTION)
        return _output([*program, "-in", "in.doctor", "-log", "none", "-nocite"], folder)


def _output(command: list[str], folder: str | None = None) -> tuple[int, str]:
    """Exit code and output; what cannot be run says why."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout + done.stderr
