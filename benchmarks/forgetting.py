"""What fine-tuning brings and what it costs: errors on the new data, and on frames of the foundation model's own kind.

``python benchmarks/forgetting.py --own OWN --pool POOL.xyz`` fine-tunes the tutorial model of the tests (MACE 0.3.6, 32x0e, xTB energies of
solvent clusters) on AcAc with ``deepmd-gnn finetune``, in the ways that it offers, and trains a new model of the same architecture, all
with equal steps, batches and loss. It prints a Markdown table: mean and standard deviation over the seeds of root mean square errors
on the new test sets and on labelled frames of the foundation's own (OWN: anything that ``deepmd-gnn data`` reads; energies after a least
squares fit of E0, because the level of theory is another), and the first step at which the validation error of forces is below
``--target``, or else within ten per cent of the least of that training. POOL has structures for the replay (extended XYZ); without, training
frames are perturbed. Both are from https://github.com/imagdau/Tutorials (MIT licence): ``solvent_xtb_test.xyz`` and
``solvent_xtb_train_200.xyz``. Other models and data: ``--foundation``, ``--train``, ``--valid`` and ``--test NAME=PATH``, where
``PATH@START:STOP:STEP`` is a part of the frames; ``--scale`` and ``--shift`` make another level of theory of all labels.
With ``--json FILE`` each result is kept, and what is in the file is not run again.

Everything runs in this process, one training after the other; "s CPU" are seconds of a training alone.
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
from pathlib import Path

import numpy as np
from finetune import DATA, FOUNDATION, FROZEN
from forgetting_data import Level, errors, labelled, named, write_folder

from deepmd_gnn.cli import main as deepmd_gnn
from deepmd_gnn.native.writer import load_checkpoint
from deepmd_gnn.tools.result_files import read_learning_curve

STARTS = ("new", "all weights", "frozen", "adapters", "replay, perturbed", "replay, pool")


def options(start, args):
    """Options of ``deepmd-gnn finetune`` for a way."""
    return {
        "frozen": ["--freeze", *args.freeze],
        "adapters": ["--adapters", str(args.rank)],
        "replay, perturbed": ["--replay", str(args.replay)],
        "replay, pool": ["--replay", str(args.replay), "--replay-from", *(args.pool or [])],
    }.get(start, [])


def steps_to(curve, target=None):
    """First step of ``lcurve.out`` with a small validation error of forces.

    Parameters
    ----------
    curve : pathlib.Path
        The file.
    target : float, optional
        meV/Å; by default 1.1 times the least error of the file.

    Returns
    -------
    float
        NaN if there is none.
    """
    columns = read_learning_curve(curve).columns
    values = 1e3 * next(values for name, values in columns.items() if name.startswith("rmse_f_val"))
    below = columns["step"][values <= (1.1 * np.nanmin(values) if target is None else target)]
    return float(below[0]) if len(below) else float("nan")


def quietly(function, *arguments):
    """Call what prints much; if it fails, print that."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = function(*arguments)
    if status:
        raise RuntimeError(f"{arguments} failed:\n{said.getvalue()[-3000:]}")


def train(folder, *arguments):
    """Run ``dp --pt train`` in a folder, in this process; return the seconds of CPU."""
    from deepmd.main import main as dp

    before, begin = Path.cwd(), os.times()
    os.chdir(folder)
    try:
        dp(["--pt", "train", "input.json", *arguments, "--skip-neighbor-stat", "-v", "ERROR"])
    finally:
        os.chdir(before)
    end = os.times()
    return end.user + end.system - begin.user - begin.system


def fine_tuned(folder, start, data, seed, args):
    """One training; ``new`` takes the input of the fine-tuning, and starts from random weights.

    Returns
    -------
    result, curve : pathlib.Path
        The model, and the learning curve.
    seconds : float
        Of CPU.
    """
    rate = {"new": args.rate_new, "adapters": args.rate_adapters}.get(start, args.rate)
    common = ["--steps", str(args.steps), "--seed", str(seed), "--rate", str(rate), "--patience", "0"]
    command = ["finetune", str(args.foundation), str(data), "-o", str(folder), *common, "--dry-run"]
    quietly(deepmd_gnn, [*command, *options(start, args)])
    if start != "new":
        seconds = train(folder, "--init-model", "start.pt")
        quietly(deepmd_gnn, ["finetune", "--restart", str(folder)])
        return folder / "finetuned.pt", folder / "lcurve.out", seconds
    config = json.loads((folder / "input.json").read_text())
    automatic = {"avg_num_neighbors": "auto", "scale": "auto", "atomic_energies": "auto"}
    config["model"].update(automatic, seed=seed)
    (folder / "new").mkdir()
    (folder / "new" / "input.json").write_text(json.dumps(config))
    seconds = train(folder / "new")
    return folder / "new" / "model.ckpt.pt", folder / "new" / "lcurve.out", seconds


def frames_of(args):
    """All frames of the comparison: training, validation, tests by name, the foundation's own."""
    level = Level(args.scale, args.shift)
    tests = {name: labelled([path], level, args.test_frames) for name, path in named(args.test).items()}
    own = labelled(args.own, level, args.own_frames) if args.own else []
    return (
        labelled(args.train, level)[: args.frames],
        labelled(args.valid, level, args.valid_frames),
        tests,
        own,
    )


def compare(folder, args):
    """Run everything; print rows as they come."""
    training, valid, tests, own = frames_of(args)
    data = write_folder(folder / "set", training, valid)
    kept = json.loads(args.json.read_text()) if args.json and args.json.is_file() else {}
    steps = "steps to 1.1 × its least" if args.target is None else f"steps to {args.target:g} meV/Å"
    head = [f"{name}: {what}" for name in (*tests, "own") for what in ("energy", "force")] + [steps, "s CPU"]
    print("| " + " | ".join(["start", *head]) + " |\n|---|" + len(head) * "---:|", flush=True)
    for start in args.starts:
        rows = []
        for seed in args.seeds:
            key = f"{start}, seed {seed}"
            if key not in kept:
                run = folder / f"{start}_{seed}".replace(" ", "_").replace(",", "")
                result, curve, seconds = fine_tuned(run, start, data, seed, args)
                model = load_checkpoint(result)
                row = [value for frames in tests.values() for value in errors(model, frames, fitted=False)]
                kept[key] = [*row, *errors(model, own, fitted=True), steps_to(curve, args.target), seconds]
                if args.json:
                    args.json.write_text(json.dumps(kept, indent=1))
            rows.append(kept[key])
        table = np.array(rows)
        cells = [
            f"{m:.3g} ± {s:.2g}" for m, s in zip(table.mean(0), table.std(0, ddof=len(rows) > 1), strict=True)
        ]
        print("| " + " | ".join([start, *cells]) + " |", flush=True)
    if own:
        foundation(folder, tests, own)


def foundation(folder, tests, own):
    """A row for the foundation, with E0 fitted everywhere; what the first fine-tuning has made of it."""
    path = next(iter(sorted(folder.glob("*/foundation.pt"))), None)
    if path is not None:
        model = load_checkpoint(path)
        row = [value for frames in (*tests.values(), own) for value in errors(model, frames, fitted=True)]
        print(
            "| foundation, E0 fitted | " + " | ".join(f"{value:.3g}" for value in row) + " | | |", flush=True
        )


def main():
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--foundation", type=Path, default=FOUNDATION, help="native model or checkpoint")
    parser.add_argument("--train", nargs="+", default=[str(DATA / "train_300K")], help="the new data")
    parser.add_argument("--valid", nargs="+", default=[str(DATA / "valid_300K")])
    parser.add_argument(
        "--test", nargs="+", default=[f"300 K={DATA / 'test_300K'}", f"600 K={DATA / 'test_600K'}"]
    )
    parser.add_argument("--own", nargs="+", default=[], help="labelled frames of the foundation's own kind")
    parser.add_argument("--own-frames", type=int, default=170)
    parser.add_argument("--scale", type=float, default=1.0, help="of all labels")
    parser.add_argument("--shift", nargs="+", default=[], help="of E0, e.g. H=1.5 C=-3, eV")
    parser.add_argument("--pool", nargs="+", help="structures for `replay, pool`")
    parser.add_argument("--replay", type=int, default=100, help="frames of the replay")
    parser.add_argument("--freeze", nargs="+", default=FROZEN, help="parts for `frozen`")
    parser.add_argument("--rank", type=int, default=4, help="of the adapters")
    parser.add_argument("--frames", type=int, default=50, help="frames to train on")
    parser.add_argument("--valid-frames", type=int, default=50)
    parser.add_argument("--test-frames", type=int, default=200, help="frames of each test set")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--target", type=float, help="meV/Å")
    parser.add_argument("--starts", nargs="+", choices=STARTS)
    parser.add_argument("--rate-new", type=float, default=0.01, help="learning rate of the new model")
    parser.add_argument("--rate", type=float, default=0.005, help="of the fine-tuned ones")
    parser.add_argument("--rate-adapters", type=float, default=0.01)
    parser.add_argument("--json", type=Path, help="keep results here")
    args = parser.parse_args()
    args.starts = args.starts or [start for start in STARTS if start != "replay, pool" or args.pool]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        compare(Path(name), args)


if __name__ == "__main__":
    main()
