"""How time and memory of an MD step grow with the number of atoms, and what a second rank brings.

``python benchmarks/growth.py --model M --precision float32`` freezes a `.pt2` and prints Markdown tables.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lammps_step
import workload

HERE = Path(__file__).parent
# Copies of the cell of 192 atoms along its axes.
COPIES = ((1, 1, 1), (2, 2, 2), (3, 3, 3), (3, 3, 6), (8, 8, 8))
RANK_COPIES = ((1, 1, 1), (2, 2, 2))


def freeze(folder, args):
    """Write ``model.pt2``."""
    options = [
        "freeze" if args.kernels else "freeze plain",
        str(folder),
        args.model,
        args.precision,
        "water",
        "1",
    ]
    subprocess.run([sys.executable, str(HERE / "measure.py"), *options], check=True, capture_output=True)
    return "model.pt2" if args.kernels else "plain.pt2"


def run_at_once(folder, model, steps, copies, number):
    """Run the same simulation in several processes at a time; mean seconds, largest memory."""
    folders = [folder / str(index) for index in range(number)]
    for part in folders:
        part.mkdir(exist_ok=True)
        if not (part / model).exists():
            (part / model).symlink_to(folder / model)

    def run(part):
        return lammps_step.run_lammps(part, workload.system("water"), steps, model, copies=copies)

    with ThreadPoolExecutor(number) as pool:
        results = list(pool.map(run, folders))
    return {
        "seconds": [sum(result["seconds"][0] for result in results) / number],
        "peak_mb": max(result["peak_mb"] for result in results),
    }


def growth(folder, model, args):
    """Steps on one rank, one row for each number of atoms; the sizes take turns."""
    at_once = len(os.sched_getaffinity(0)) if args.all_cores else 1
    rows = {copies: [] for copies in COPIES[: args.sizes]}
    for turn in range(args.rounds):
        for copies, results in rows.items():
            steps = max(2, args.steps // (copies[0] * copies[1] * copies[2]))
            results.append(run_at_once(folder, model, steps, copies, at_once))
            print(turn, copies, results[-1], file=sys.stderr, flush=True)
    lines = [
        "| atoms | ms CPU per step | µs per atom | peak MB | kB per atom beyond 192 |",
        "|---:|---:|---:|---:|---:|",
    ]
    first = min(result["peak_mb"] for result in rows[COPIES[0]])
    for copies, results in rows.items():
        atoms = 192 * copies[0] * copies[1] * copies[2]
        seconds = min(result["seconds"][0] for result in results)
        peak = max(result["peak_mb"] for result in results)
        extra = f"{1e3 * (peak - first) / (atoms - 192):.1f}" if atoms > 192 else ""
        lines.append(
            f"| {atoms} | {1e3 * seconds:.0f} | {1e6 * seconds / atoms:.0f} | {peak:.0f} | {extra} |"
        )
    return "\n".join(lines)


def ranks(folder, model, args):
    """The same systems on one and two ranks; efficiency is the ratio of their CPU times."""
    lines = ["| atoms | 1 rank, ms CPU | 2 ranks, ms CPU of both | efficiency |", "|---:|---:|---:|---:|"]
    for copies in RANK_COPIES:
        number = copies[0] * copies[1] * copies[2]
        times = {1: [], 2: []}
        for _ in range(args.rounds):
            for processes, results in times.items():
                steps = max(2, 2 * args.steps // number)
                result = lammps_step.run_lammps(
                    folder, workload.system("water"), steps, model, copies=copies, ranks=processes
                )
                results.append(result["seconds"][0])
                print(processes, result, file=sys.stderr, flush=True)
        one, two = min(times[1]), min(times[2])
        lines.append(f"| {192 * number} | {1e3 * one:.0f} | {1e3 * two:.0f} | {one / two:.2f} |")
    return "\n".join(lines)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=list(workload.IRREPS), default="S", help=str(workload.IRREPS))
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    parser.add_argument("--rounds", type=int, default=2, help="turns; the best of each counts")
    parser.add_argument("--steps", type=int, default=40, help="measured steps of the smallest system")
    parser.add_argument("--sizes", type=int, default=4, help="how many of the systems; 5: up to 98304 atoms")
    parser.add_argument(
        "--all-cores",
        action="store_true",
        help="the same simulation on every core at a time, as on a full node: cores share caches and memory",
    )
    parser.add_argument("--no-kernels", dest="kernels", action="store_false")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = freeze(folder, args)
        print(growth(folder, model, args), flush=True)
        print(ranks(folder, model, args))


if __name__ == "__main__":
    main()
