"""Train native MACE and our model side by side, and compare what the models reach.

``python benchmarks/training.py acac`` needs about half an hour of one core and prints a Markdown table. Everything is
written below ``--folder``; what is finished there is not repeated.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import training_frames
import training_sets

HERE = Path(__file__).parent
ROWS = {
    "energy": ("energy", 1e3, "meV/atom"),
    "force": ("force", 1e3, "meV/Å"),
    "virial": ("virial", 1e3, "meV/atom"),
    "stress": ("stress", 1e3, "meV/Å³"),
}


def run(folder, program, *arguments):
    """Run a training program in a folder; returns what :mod:`count_steps` counted."""
    result = folder / "steps.json"
    command = [sys.executable, str(HERE / "count_steps.py"), str(result), program, "--", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    with (folder / "output.log").open("w") as log:
        done = subprocess.run(
            command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False
        )
    if done.returncode != 0:
        raise RuntimeError(f"{program} failed, see {folder / 'output.log'}")
    return json.loads(result.read_text())


def train_native(dataset, folder, seed):
    """Train native MACE; returns the counted steps and the model as ours."""
    from deepmd_gnn import load_mace

    counted = run(folder, "mace_run_train", *dataset.native(folder, seed))
    return counted, load_mace(folder / dataset.native_model)


def train_ours(dataset, folder, seed, weights):
    """Train our model with the recipe of the example; returns the counted steps and the model."""
    (folder / "input.json").write_text(json.dumps(dataset.ours(seed), indent=1))
    counted = run(folder, "dp", "--pt", "train", "input.json")
    return counted, load_checkpoint(folder / weights)


def load_checkpoint(path):
    """Read a model from a checkpoint of ``dp --pt train``."""
    from deepmd.pt.model.model import get_model

    state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    model = get_model(state["_extra_state"]["model_params"])
    prefix = "model.Default."
    model.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    return model.eval()


def measure(name, dataset, root, seed, args):
    """One training and its errors, or the stored result."""
    folder = root / f"{name}_{seed}"
    stored = folder / "result.json"
    if stored.exists():
        return json.loads(stored.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
    if name == "native":
        counted, model = train_native(dataset, folder, seed)
    else:
        counted, model = train_ours(dataset, folder, seed, args.weights)
    result = {**counted, "errors": {k: training_frames.errors(model, f) for k, f in dataset.tests().items()}}
    stored.write_text(json.dumps(result, indent=1))
    print(json.dumps(result["errors"]), file=sys.stderr, flush=True)
    return result


def table(results):
    """Format as Markdown: mean over the seeds, and the seeds in brackets.

    Parameters
    ----------
    results : dict[str, list[dict]]
        Per program one result for each seed.

    Returns
    -------
    str
    """
    names = list(results)
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    first = results[names[0]][0]["errors"]
    for part, kinds in first.items():
        for kind in kinds:
            label, factor, unit = ROWS[kind]
            cells = [[factor * result["errors"][part][kind] for result in results[name]] for name in names]
            digits = 1 if kind == "force" else 2
            cells = [
                f"{np.mean(values):.{digits}f} ({', '.join(f'{v:.{digits}f}' for v in values)})"
                for values in cells
            ]
            lines.append(f"| {part}, {label} ({unit}) | {' | '.join(cells)} |")
    for key, label, factor in (("seconds_per_step", "CPU ms per step", 1e3), ("seconds", "CPU s in all", 1)):
        cells = [f"{factor * np.mean([result[key] for result in results[name]]):.0f}" for name in names]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Train and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", choices=list(training_sets.SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--programs", nargs="+", default=["native", "ours"], help="native, ours")
    parser.add_argument("--input", type=Path, help="another input than the example's")
    parser.add_argument("--weights", default="model.ckpt.pt", help="checkpoint to test")
    parser.add_argument("--folder", type=Path, default=Path("training_runs"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset = training_sets.SETS[args.dataset](args.input)
    root = args.folder.resolve() / args.dataset
    results = {name: [] for name in args.programs}
    for seed in args.seeds:
        for name in args.programs:
            results[name].append(measure(name, dataset, root, seed, args))
    print(table(results))


if __name__ == "__main__":
    main()
