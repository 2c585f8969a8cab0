"""What a per-atom virial costs: CPU time of molecular dynamics steps with and without it, 192 atoms of water, one rank.

``python benchmarks/atomic_virial.py`` prints the ratio. Runs with and without ``compute centroid/stress/atom`` take
turns in one LAMMPS process; the ratio is the median over the turns. The compute is summed over the atoms at every
step, so that LAMMPS needs it without writing a file.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
from pathlib import Path

import lammps_step
import torch
import workload

SETUP = """
units metal
boundary p p p
atom_style atomic
read_data system.data
mass 1 15.999
mass 2 1.008
pair_style deepmd model.pth
pair_coeff * * O H
neighbor 2.0 bin
neigh_modify every 10 delay 0 check no
velocity all create 300 1
fix 1 all nve
timestep 0.0005
thermo 1
compute virial all centroid/stress/atom NULL pair
compute total all reduce sum c_virial[1] c_virial[5] c_virial[9]
run 5
"""
PLAIN = "thermo_style custom step pe\nrun {steps}\n"
ATOMIC = "thermo_style custom step pe c_total[1]\nrun {steps}\n"
# User time: what LAMMPS says it used of the time that passed, so that other programs on the machine do not count.
LOOP = re.compile(r"Loop time of (\S+) on .*?(\S+)% CPU use", re.DOTALL)


def build_model(folder, size, precision):
    """Write the TorchScript file.

    Parameters
    ----------
    folder : pathlib.Path
        Where to.
    size, precision : str
        Keys of `workload.IRREPS` and `workload.DTYPES`.
    """
    torch.jit.script(workload.our_model(size, precision, workload.system("water"))).save(
        str(folder / "model.pth")
    )


def run_turns(folder, steps, turns):
    """Run LAMMPS.

    Parameters
    ----------
    folder : pathlib.Path
        Holds the model.
    steps, turns : int
        Steps of each run, and runs of each sort.

    Returns
    -------
    list[float]
        CPU seconds per step, plain and with per-atom virial in turn.
    """
    lammps_step.write_data(workload.system("water"), folder / "system.data")
    # The first run with the compute compiles; it is not measured.
    text = SETUP + ATOMIC.format(steps=5) + (PLAIN + ATOMIC).format(steps=steps) * turns
    (folder / "in.lammps").write_text(text)
    threads = ("OMP_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS")
    done = subprocess.run(
        [lammps_step.lammps_executable(), "-in", "in.lammps", "-log", "none"],
        cwd=folder,
        env={**os.environ, **dict.fromkeys(threads, "1")},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"LAMMPS failed ({done.returncode}):\n{done.stdout[-3000:]}")
    runs = [float(wall) * float(use) / 100 / steps for wall, use in LOOP.findall(done.stdout)]
    return runs[2:]


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=list(workload.IRREPS), default="S")
    parser.add_argument("--precision", choices=list(workload.DTYPES), default="float32")
    parser.add_argument("--steps", type=int, default=5, help="steps of each run")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        build_model(Path(name), args.model, args.precision)
        seconds = run_turns(Path(name), args.steps, args.turns)
    plain, atomic = seconds[0::2], seconds[1::2]
    ratios = [b / a for a, b in zip(plain, atomic, strict=True)]
    print(f"plain step            {1e3 * statistics.median(plain):8.1f} ms CPU")
    print(f"with per-atom virial  {1e3 * statistics.median(atomic):8.1f} ms CPU")
    print(
        f"ratio                 {statistics.median(ratios):8.3f} (of {len(ratios)}: {min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
