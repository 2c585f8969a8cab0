"""MD steps of `.pt2` files for several CPUs, on one machine that runs them all.

``python benchmarks/cpus.py --model M`` prints a Markdown table: one rank, one thread, 192 atoms of water, files in alternation.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import lammps_step
import measure
import workload

# So that torch, and the library for products of matrices that it brings, use no more than the file.
SHARE = {
    "x86-64-v4": {},
    "x86-64-v3": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "generic": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def main():
    """Freeze, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=list(workload.IRREPS), default="S", help=str(workload.IRREPS))
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    parser.add_argument("--system", default="water", help="see workload.py")
    parser.add_argument(
        "--cpus",
        nargs="+",
        choices=list(SHARE),
        help="default: all that run here; the first is compared with",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns; the median of each counts")
    parser.add_argument("--steps", type=int, default=50, help="measured steps in a turn")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args.cpus = args.cpus or running_here()
    with tempfile.TemporaryDirectory() as folder:
        print(table(Path(folder), args))


def running_here():
    """Names of the CPUs whose files run on this one."""
    from deepmd_gnn.kernels.cpu.targets import known_machines, target_machine

    known, widest = known_machines(), target_machine().vector_bytes
    return [name for name in SHARE if name in known and known[name].vector_bytes <= widest]


def freeze(folder, cpu, args):
    """Compile the model for a CPU."""
    measure.freeze(folder, args.model, args.precision, workload.system(args.system), cpu=cpu)
    (folder / measure.FROZEN["kernels"]).rename(folder / f"{cpu}.pt2")


def table(folder, args):
    """A row for each CPU: milliseconds of a step, and the ratio to the first one within the turns."""
    for cpu in args.cpus:
        print(f"freezing for {cpu}", file=sys.stderr)
        freeze(folder, cpu, args)
    seconds = {cpu: [] for cpu in args.cpus}
    energies = {}
    for _ in range(args.rounds):
        for cpu, found in seconds.items():
            run = lammps_step.run_lammps(
                folder, workload.system(args.system), args.steps, f"{cpu}.pt2", environment=SHARE[cpu]
            )
            found.append(run["seconds"][0])
            energies[cpu] = run["energy"]
    first = args.cpus[0]
    lines = [
        f"| {args.model}, {args.precision}, file for | ms CPU per step | of {first} | energy of the start, eV |",
        "|---|---:|---:|---:|",
    ]
    for cpu, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, seconds[first], strict=True))
        lines.append(f"| {cpu} | {1000 * statistics.median(found):.3g} | {ratio:.3g} | {energies[cpu]:.6f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
