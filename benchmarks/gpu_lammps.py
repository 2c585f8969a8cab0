"""LAMMPS on a GPU: energy and forces against Python, and time per step."""

import os
import shlex
import shutil
import subprocess

import ase
import ase.io
import numpy as np
import workload
from gpu_inputs import REPLICAS, frames

STEPS = 50
# File, replicas of the cell in each direction and ranks, the most important first.
RUNS = [
    ("M.pt2", 4, 1),
    ("M.pt2", 2, 1),
    ("S.pt2", 4, 1),
    ("S.pth", 2, 1),
    ("M.pt2", 2, 2),
    ("S.pt2", 2, 1),
    ("S.pt2", 2, 2),
    ("S.pth", 2, 2),
]
INPUT = """units metal
atom_style atomic
atom_modify map yes
boundary p p p
read_data {name}.data
pair_style deepmd {file}
pair_coeff * * O H
fix 1 all nve
timestep 0.0001
thermo {steps}
thermo_style custom step pe
thermo_modify format float %.10f
run 0
write_dump all custom {name}.forces id fx fy fz modify sort id format float %.12g
velocity all create 300 1
run {steps}
run {steps}
"""


def lammps(results, folder):
    """One rank, and two on this GPU."""
    command = shlex.split(os.environ.get("GPU_CHECK_LAMMPS", "mpirun -n {ranks} lmp -in"))
    if shutil.which(command[0]) is None:
        results.add("not run", f"{command[0]} is not installed")
        return
    expected = {}
    for file, replicas, ranks in RUNS:
        if not (folder / file).exists():
            continue
        if (file, replicas) not in expected:
            expected[file, replicas] = _in_python(folder, file, min(replicas, REPLICAS[-1]))
        start = [part.format(ranks=ranks) for part in command]
        _run(results, folder, file, start, ranks, expected[file, replicas])


def _in_python(folder, file, replicas):
    """Write the structure, and return energy and forces."""
    from deepmd.infer import DeepPot

    coord, cell, types = frames(replicas)
    name = f"{len(types)}.data"
    symbols = [workload.system("water").type_map[kind] for kind in types]
    atoms = ase.Atoms(symbols, coord[0], cell=cell.reshape(3, 3), pbc=True)
    ase.io.write(folder / name, atoms, format="lammps-data", specorder=["O", "H"], masses=True)
    energy, force, _ = DeepPot(str(folder / file)).eval(coord, cell, types)
    return float(energy.ravel()[0]), force[0]


def _run(results, folder, file, command, ranks, expected):
    label = f"{file}, {ranks} rank{'s' * (ranks > 1)}, {len(expected[1])} atoms"
    text = INPUT.format(file=file, name=len(expected[1]), steps=STEPS)
    (folder / f"in.{file}").write_text(text, encoding="utf-8")
    done = subprocess.run([*command, f"in.{file}"], cwd=folder, capture_output=True, text=True, check=False)
    rows = [line.split() for line in done.stdout.splitlines()]
    energies = [float(row[1]) for row in rows if len(row) == 2 and row[0] == "0"]
    loops = [float(row[3]) for row in rows if row[:2] == ["Loop", "time"]]
    if done.returncode or not energies or len(loops) < 3:
        results.add("failed", f"{label}: {(done.stderr or done.stdout).strip()[-300:]}")
        return
    energy = abs(energies[0] - expected[0]) / len(expected[1])
    forces = np.loadtxt(folder / f"{len(expected[1])}.forces", skiprows=9)[:, 1:]
    force = np.abs(forces - expected[1]).max() / np.abs(expected[1]).max()
    results.add(f"{label}: energy against Python", energy, "eV per atom")
    results.add(f"{label}: forces against Python", float(force), "of the largest")
    if not (energy < 2e-5 and force < 2e-5):
        results.add("wrong", label)
    results.add(f"{label}: step", loops[-1] / STEPS * 1e3, "ms")
