"""MD steps per second of both kinds of frozen files, on one rank and two, against native MACE's evaluation.

``python benchmarks/steps.py --model M --precision float64`` prints a Markdown table; 192 atoms of water, one thread per rank.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import lammps_step
import run as benchmark
import workload

FILES = {"`.pth`": "model.pth", "`.pt2`": "model.pt2"}


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=list(workload.IRREPS), default="S", help=str(workload.IRREPS))
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    parser.add_argument("--rounds", type=int, default=1, help="turns; the best of each counts")
    parser.add_argument(
        "--steps", type=int, default=10, help="measured steps of the `.pth`; 5 times as many of the `.pt2`"
    )
    args = parser.parse_args()
    args.system, args.calls = "water", 2
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        print(table(Path(name), args))


def table(folder, args):
    """Rows for native and each file, columns for one rank and two."""
    benchmark.measure("prepare", folder, args)
    benchmark.measure("freeze", folder, args)
    native, seconds = [], {(label, ranks): [] for label in FILES for ranks in (1, 2)}
    memory = {}
    for _ in range(args.rounds):
        native.append(statistics.median(benchmark.measure("native force", folder, args)["seconds"]))
        for (label, ranks), results in seconds.items():
            steps = args.steps * (1 if FILES[label] == "model.pth" else 5)
            result = lammps_step.run_lammps(
                folder, workload.system("water"), steps, FILES[label], ranks=ranks
            )
            # CPU time, of which a rank has its share: so many steps per second where every rank has a core.
            results.append(result["seconds"][0] / ranks)
            memory[label, ranks] = max(memory.get((label, ranks), 0.0), result["peak_mb"])
    lines = [
        f"| {args.model}, {args.precision} | 1 rank, steps/s | of native | peak MB | 2 ranks, steps/s | of native | peak MB each |",
        "|---|---:|---:|---:|---:|---:|---:|",
        f"| native, evaluations of a ready graph | {1 / min(native):.3g} | 1 | | | | |",
    ]
    for label in FILES:
        cells = [
            f"{1 / min(seconds[label, ranks]):.3g} | {min(native) / min(seconds[label, ranks]):.3g} | {memory[label, ranks]:.0f}"
            for ranks in (1, 2)
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
