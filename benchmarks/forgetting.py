"""What fine-tuning brings and what it costs: errors on the new data, and on frames of the foundation model's own kind.

``python benchmarks/forgetting.py --own OWN --pool POOL.xyz`` fine-tunes the tutorial model of the tests (MACE 0.3.6, 32x0e, xTB energies of
solvent clusters) on AcAc with ``deepmd-gnn finetune``, in the ways that it offers, and trains a new model of the same architecture, all
with equal steps, batches and loss. It prints a Markdown table: mean and standard deviation over the seeds of root mean square errors
on the new test sets and on labelled frames of the foundation's own (OWN: a data folder; energies after a least squares fit of E0, because
the level of theory is another), and the first step at which the validation error of forces is below ``--target``. POOL has structures for
the replay (extended XYZ); without, training frames are perturbed. Both are from https://github.com/imagdau/Tutorials (MIT licence):
``solvent_xtb_test.xyz`` by ``deepmd-gnn data``, and ``solvent_xtb_train_200.xyz``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from finetune import DATA, FOUNDATION, FROZEN, errors, subset, train

from deepmd_gnn.datasets.folders import find_systems
from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.datasets.sources import read_frames
from deepmd_gnn.tools.result_files import read_learning_curve

STARTS = {
    "new": [],
    "all weights": [],
    "frozen": ["--freeze", *FROZEN],
    "adapters": ["--adapters", "4"],
    "replay, perturbed": ["--replay", "100"],
    "replay, pool": ["--replay", "100"],
}
HEAD = [
    "300 K: energy",
    "force",
    "600 K: energy",
    "force",
    "own: energy",
    "force",
    "steps to target",
    "s CPU",
]


def data_folder(folder: Path, frames: int) -> Path:
    """The new data: the first frames of AcAc at 300 K, and the validation set of the example."""
    subset(folder / "train", frames)
    (folder / "valid").symlink_to(DATA / "valid_300K")
    return folder


def own_frames(path: Path, count: int) -> list[Frame]:
    """Labelled frames of the foundation's own kind, evenly from all systems."""
    systems = find_systems(path)
    found = []
    for system in systems:
        frames = list(read_frames(system))
        found += frames[: max(1, count // len(systems))]
    return found[:count]


def own_errors(checkpoint: Path, frames: list[Frame]) -> list[float]:
    """Energy in meV/atom after a fit of one energy for each element, and force in meV/Å."""
    from ase.data import chemical_symbols
    from deepmd.infer import DeepPot

    model = DeepPot(str(checkpoint))
    names = model.get_type_map()
    rest, counts, squares, components = [], [], 0.0, 0
    for frame in frames:
        kinds = [names.index(chemical_symbols[number]) for number in frame.numbers]
        energy, force, _ = model.eval(frame.positions.reshape(1, -1), None, kinds)
        rest.append(frame.info["REF_energy"] - float(energy[0, 0]))
        counts.append(np.bincount(kinds, minlength=len(names)))
        squares += float(((force[0] - frame.arrays["REF_forces"]) ** 2).sum())
        components += 3 * len(kinds)
    table = np.array(counts, dtype=float)
    fitted = table @ np.linalg.lstsq(table, np.array(rest), rcond=None)[0]
    per_atom = (np.array(rest) - fitted) / table.sum(1)
    return [1e3 * float(np.sqrt(np.mean(per_atom**2))), 1e3 * float(np.sqrt(squares / components))]


def steps_to(target: float, curve: Path) -> float:
    """First step of ``lcurve.out`` with a validation error of forces below `target` (meV/Å); NaN if there is none."""
    columns = read_learning_curve(curve).columns
    errors_of_forces = next(values for name, values in columns.items() if name.startswith("rmse_f_val"))
    below = columns["step"][1e3 * errors_of_forces < target]
    return float(below[0]) if len(below) else float("nan")


def fine_tuned(folder: Path, start: str, data: Path, seed: int, args: argparse.Namespace) -> Path:
    """Run `deepmd-gnn finetune`; the result. ``new`` takes its input, and starts from random weights."""
    rate = {"new": args.rate_new, "adapters": args.rate_adapters}.get(start, args.rate)
    pool = ["--replay-from", str(args.pool)] if start == "replay, pool" else []
    command = [
        sys.executable, "-m", "deepmd_gnn", "finetune", str(args.foundation), str(data), "-o", str(folder), "--steps", str(args.steps),
        "--seed", str(seed), "--rate", str(rate), *STARTS[start], *pool, *(["--dry-run"] if start == "new" else []),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr[-3000:]}")
    if start != "new":
        return folder / "finetuned.pt"
    config = json.loads((folder / "input.json").read_text())
    automatic = {"avg_num_neighbors": "auto", "scale": "auto", "atomic_energies": "auto"}
    config["model"].update(automatic, seed=seed)
    train(folder / "new", config, [])
    (folder / "lcurve.out").symlink_to(folder / "new" / "lcurve.out")
    return folder / "new" / "model.ckpt.pt"


def compare(folder: Path, args: argparse.Namespace) -> None:
    """Run everything; print rows as they come."""
    data = data_folder(folder / "data", args.frames)
    own = own_frames(args.own, args.own_frames) if args.own else []
    print("| " + " | ".join(["start", *HEAD]) + " |\n|---|" + len(HEAD) * "---:|", flush=True)
    for start in args.starts:
        rows = []
        for seed in args.seeds:
            run = folder / f"{start}_{seed}".replace(" ", "_").replace(",", "")
            begin = os.times()
            result = fine_tuned(run, start, data, seed, args)
            end = os.times()
            seconds = end.children_user + end.children_system - begin.children_user - begin.children_system
            of_own = own_errors(result, own) if own else [float("nan")] * 2
            rows.append(
                [
                    *errors(result, args.test_frames),
                    *of_own,
                    steps_to(args.target, run / "lcurve.out"),
                    seconds,
                ]
            )
        table = np.array(rows)
        cells = [
            f"{m:.3g} ± {s:.2g}" for m, s in zip(table.mean(0), table.std(0, ddof=len(rows) > 1), strict=True)
        ]
        print("| " + " | ".join([start, *cells]) + " |", flush=True)


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--foundation", type=Path, default=FOUNDATION, help="native model with H, C and O")
    parser.add_argument("--own", type=Path, help="labelled frames of the foundation's own kind (data folder)")
    parser.add_argument("--own-frames", type=int, default=170)
    parser.add_argument("--pool", type=Path, help="structures for `replay, pool`")
    parser.add_argument("--frames", type=int, default=50, help="frames to train on")
    parser.add_argument("--test-frames", type=int, default=200, help="frames of each test set")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--target", type=float, default=150.0, help="meV/Å")
    parser.add_argument("--starts", nargs="+", choices=STARTS)
    parser.add_argument("--rate-new", type=float, default=0.01, help="learning rate of the new model")
    parser.add_argument("--rate", type=float, default=0.005, help="of the fine-tuned ones")
    parser.add_argument("--rate-adapters", type=float, default=0.01)
    args = parser.parse_args()
    args.starts = args.starts or [start for start in STARTS if start != "replay, pool" or args.pool]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), args)


if __name__ == "__main__":
    main()
