"""CPU time and peak memory of our model against native MACE on the same weights and edges.

``python benchmarks/run.py --model S --precision float32`` prints a Markdown table. Every measurement runs in its
own process on one thread; the tasks take turns, and ratios are medians of the ratios within a turn.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import lammps_step
import workload

HERE = Path(__file__).parent
PYTHON_TASKS = (
    "native force",
    "ours force",
    "ours scripted",
    "native train",
    "ours train",
    "ours compiled train",
)
# Model file of each task in LAMMPS.
LAMMPS_TASKS = {
    "ours LAMMPS": "model.pth",
    "ours LAMMPS .pt2": "model.pt2",
    "ours LAMMPS .pt2 without kernels": "plain.pt2",
}
FREEZES = {"ours LAMMPS .pt2": "freeze", "ours LAMMPS .pt2 without kernels": "freeze plain"}
REFERENCE = {
    "ours force": "native force",
    "ours scripted": "native force",
    **dict.fromkeys(LAMMPS_TASKS, "native force"),
    "ours train": "native train",
    "ours compiled train": "native train",
}
LABELS = {
    "native force": "native, energy and forces of a ready graph",
    "ours force": "Python call: neighbours, energy, forces, virial",
    "ours scripted": "the same, TorchScript",
    "ours LAMMPS": "MD step, LAMMPS with `.pth`, skin 2 Å",
    "ours LAMMPS .pt2": "MD step, LAMMPS with `.pt2`, skin 2 Å",
    "ours LAMMPS .pt2 without kernels": "the same, frozen with `--no-kernels`",
    "native train": "native, training step",
    "ours train": "training step",
    "ours compiled train": "training step, `enable_compile`",
}


def measure(task, folder, args):
    """Run one task in a process of its own.

    Parameters
    ----------
    task : str
        Key of `LABELS`, "prepare", "freeze" or "freeze plain".
    folder : pathlib.Path
        Shared files of the tasks.
    args : argparse.Namespace
        Command line.

    Returns
    -------
    dict or None
        See ``measure.py``.
    """
    if task in LAMMPS_TASKS:
        return lammps_step.run_lammps(folder, workload.system(args.system), args.steps, LAMMPS_TASKS[task])
    command = [sys.executable, str(HERE / "measure.py"), task, str(folder), args.model, args.precision]
    done = subprocess.run(
        [*command, args.system, str(args.calls)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{task} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1]) if task != "prepare" else None


def run_rounds(tasks, args):
    """Take turns.

    Parameters
    ----------
    tasks : list[str]
        What to measure.
    args : argparse.Namespace
        Command line.

    Returns
    -------
    list[dict[str, dict]]
        One result per task for every turn.
    """
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"building {args.system} {args.model} {args.precision}", file=sys.stderr, flush=True)
        measure("prepare", folder, args)
        for task, freeze in FREEZES.items():
            if task in tasks:
                frozen = measure(freeze, folder, args)
                print(
                    f"{freeze}: {frozen['seconds'][0]:.0f} s of CPU, {frozen['peak_mb']:.0f} MB", flush=True
                )
        for turn in range(args.rounds):
            rounds.append({})
            for task in tasks:
                print(f"turn {turn + 1} of {args.rounds}: {task}", end=" ", file=sys.stderr, flush=True)
                result = rounds[-1][task] = measure(task, folder, args)
                seconds = statistics.median(result["seconds"])
                print(f"{seconds:.3f} s, {result['peak_mb']:.0f} MB", file=sys.stderr, flush=True)
    return rounds


def check_same_energy(rounds, precision):
    """Refuse to compare evaluations that do not give the same energy.

    Parameters
    ----------
    rounds : list[dict[str, dict]]
        See :func:`run_rounds`.
    precision : str
        ``"float32"`` or ``"float64"``.

    Raises
    ------
    RuntimeError
        If an energy deviates from the first one.
    """
    tolerance = {"float32": 1e-4, "float64": 1e-8}[precision]
    energies = {task: result["energy"] for task, result in rounds[0].items()}
    reference = next(iter(energies.values()))
    for task, energy in energies.items():
        if abs(energy - reference) > tolerance * max(abs(reference), 1.0):
            raise RuntimeError(f"not the same model: {task} gives {energy} eV, expected {reference} eV")


def summarise(rounds):
    """Medians over the turns.

    Parameters
    ----------
    rounds : list[dict[str, dict]]
        See :func:`run_rounds`.

    Returns
    -------
    dict[str, dict[str, float]]
        Per task: ``ms`` (CPU), ``first_ms`` (mean of the warm-up), ``peak_mb``, and the ratios ``time_ratio`` and
        ``memory_ratio`` to native.
    """
    summary = {}
    for task in rounds[0]:
        seconds = [statistics.median(turn[task]["seconds"]) for turn in rounds]
        first = [statistics.mean(turn[task]["first_seconds"]) for turn in rounds]
        peaks = [turn[task]["peak_mb"] for turn in rounds]
        row = {
            "ms": 1e3 * statistics.median(seconds),
            "first_ms": 1e3 * statistics.median(first),
            "peak_mb": statistics.median(peaks),
        }
        native = REFERENCE.get(task)
        if native in rounds[0]:
            base = [statistics.median(turn[native]["seconds"]) for turn in rounds]
            base_mb = [turn[native]["peak_mb"] for turn in rounds]
            row["time_ratio"] = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
            row["memory_ratio"] = statistics.median(a / b for a, b in zip(peaks, base_mb, strict=True))
        summary[task] = row
    return summary


def table(summary, args):
    """Format the summary as Markdown."""
    lines = [
        f"| {args.system}, {args.model}, {args.precision} | ms CPU | of native | peak MB | of native |",
        "|---|---:|---:|---:|---:|",
    ]
    for task, row in summary.items():
        ratios = [f"{row[key]:.2g}" if key in row else "1" for key in ("time_ratio", "memory_ratio")]
        lines.append(
            f"| {LABELS[task]} | {row['ms']:.3g} | {ratios[0]} | {row['peak_mb']:.0f} | {ratios[1]} |"
        )
    return "\n".join(lines)


def parse_arguments():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=list(workload.IRREPS), default="S", help=str(workload.IRREPS))
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    parser.add_argument("--system", choices=workload.SYSTEMS, default="water")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all tasks")
    parser.add_argument("--calls", type=int, default=3, help="measured calls per turn, after three others")
    parser.add_argument(
        "--steps", type=int, default=10, help="measured MD steps per turn, after three others"
    )
    parser.add_argument("--tasks", nargs="+", choices=list(LABELS), help="default: all that can run")
    parser.add_argument("--json", type=Path, help="write every measurement to this file")
    return parser.parse_args()


def main():
    """Measure and print."""
    args = parse_arguments()
    tasks = args.tasks or list(LABELS)
    if lammps_step.lammps_executable() is None:
        print("no lmp found: MD steps are not measured", file=sys.stderr)
        tasks = [task for task in tasks if task not in LAMMPS_TASKS]
    rounds = run_rounds(tasks, args)
    check_same_energy(rounds, args.precision)
    summary = summarise(rounds)
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        args.json.write_text(
            json.dumps({"settings": settings, "summary": summary, "rounds": rounds}, indent=1)
        )
    print(table(summary, args))


if __name__ == "__main__":
    main()
