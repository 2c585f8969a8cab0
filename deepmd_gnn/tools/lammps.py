"""LAMMPS as a program: find it, run it on a number of ranks, read what it says."""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deepmd_gnn.tools.structures import Structure

# Kinds of model files that LAMMPS runs.
RUNNABLE = (".pth", ".pt2")
_HEADER = """\
units metal
atom_style atomic
atom_modify map yes
boundary {boundary}
box tilt large
read_data {data}
pair_style deepmd {model}
pair_coeff * * {names}
neighbor 1.0 bin
neigh_modify one 10000
thermo_style custom step pe
thermo_modify format float %.15g
"""
_FORCES = """\
dump 1 all custom 1 forces.txt id fx fy fz
dump_modify 1 sort id format float %.15g
run 0
"""
_STEPS = """\
velocity all create {temperature} 4711
fix 1 all nve
timestep {timestep}
thermo 1000000
run {warm_up}
run {steps}
"""


# Runs a command and writes the largest resident memory of what it started, in kB. A process begins with the memory of the
# one that starts it, as far as the system keeps count, so that a small one stands between.
_MEASURE = """\
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code if code >= 0 else 128 - code)
"""


class LammpsError(ValueError):
    """LAMMPS did not finish; the message ends with its own words."""


@dataclass(frozen=True)
class Programs:
    """What is installed."""

    lmp: str | None
    mpirun: str | None

    def obstacle(self, suffix: str, ranks: int) -> str | None:
        """Why LAMMPS cannot run a kind of file on a number of ranks; None if it can."""
        if suffix not in RUNNABLE:
            return f"LAMMPS runs {' and '.join(RUNNABLE)}, not {suffix}"
        if self.lmp is None:
            return "lmp was not found"
        if ranks > 1 and self.mpirun is None:
            return "mpirun was not found"
        return None


def find_programs() -> Programs:
    """Look for ``lmp`` and ``mpirun`` beside the running Python, then on the search path.

    Returns
    -------
    Programs
    """
    beside = str(Path(sys.executable).parent)
    found = [shutil.which(name, path=beside) or shutil.which(name) for name in ("lmp", "mpirun")]
    return Programs(*found)


def forces(
    model: Path, structure: Structure, ranks: int, folder: Path, programs: Programs
) -> tuple[float, np.ndarray]:
    """Energy and forces of one configuration.

    Parameters
    ----------
    model : Path
        Frozen model.
    structure : Structure
        In LAMMPS' orientation.
    ranks : int
        Number of MPI ranks.
    folder : Path
        Where to run; made if needed.
    programs : Programs
        From :func:`find_programs`.

    Returns
    -------
    tuple[float, numpy.ndarray]
        eV, and eV/Å of shape (natom, 3).

    Raises
    ------
    LammpsError
        If LAMMPS fails.
    """
    output, _ = _run(_FORCES, model, structure, ranks, folder, programs)
    energy = float(re.findall(r"^\s*0\s+(\S+)\s*$", output, re.MULTILINE)[-1])
    lines = (folder / "forces.txt").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("ITEM: ATOMS")) + 1
    return energy, np.array([line.split()[1:] for line in lines[start:]], dtype=float)


@dataclass(frozen=True)
class Speed:
    """Of molecular dynamics."""

    seconds: float
    """Wall time per step."""
    memory_mb: float
    """Largest resident memory of one process."""


def speed(
    model: Path,
    structure: Structure,
    ranks: int,
    folder: Path,
    programs: Programs,
    *,
    steps: int,
    timestep: float,
    temperature: float,
) -> Speed:
    """Time molecular dynamics without thermostat.

    Parameters
    ----------
    model, structure, ranks, folder, programs
        As for :func:`forces`.
    steps : int
        Steps that are timed, after a few that are not.
    timestep : float
        ps.
    temperature : float
        Of the initial velocities, K.

    Returns
    -------
    Speed

    Raises
    ------
    LammpsError
        If LAMMPS fails.
    """
    settings = {
        "temperature": temperature,
        "timestep": timestep,
        "warm_up": max(2, steps // 5),
        "steps": steps,
    }
    output, memory = _run(_STEPS.format(**settings), model, structure, ranks, folder, programs)
    loop = re.findall(r"Loop time of (\S+) on", output)[-1]
    return Speed(float(loop) / steps, memory)


def _run(
    script: str, model: Path, structure: Structure, ranks: int, folder: Path, programs: Programs
) -> tuple[str, float]:
    folder.mkdir(parents=True, exist_ok=True)
    structure.write_lammps_data(folder / "structure.data")
    link = folder / f"model{model.suffix}"  # a name without spaces, whatever the user's is
    link.unlink(missing_ok=True)
    link.symlink_to(model.resolve())
    header = _HEADER.format(
        boundary="p p p" if structure.periodic else "f f f",
        data="structure.data",
        model=link.name,
        names=" ".join(structure.type_map),
    )
    (folder / "in.lmp").write_text(header + script)
    command = [str(programs.lmp), "-in", "in.lmp", "-log", "log.lammps", "-nocite"]
    if ranks > 1:
        command = [str(programs.mpirun), "-n", str(ranks), *command]
    memory = (folder / "memory").absolute()
    command = [sys.executable, "-I", "-S", "-c", _MEASURE, str(memory), *command]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        words = [line for line in output.splitlines() if "error" in line.lower()] or output.splitlines()[-3:]
        raise LammpsError(f"LAMMPS on {ranks} rank(s) ended with {done.returncode}: {' '.join(words)[-500:]}")
    return output, int(memory.read_text()) / 1024
