"""Fine-tuning of an imported MACE model, as a whole, in parts and with adapters, against training from scratch, at equal numbers of steps.

``python benchmarks/finetune.py`` converts the tutorial model of the tests (MACE 0.3.6, 32x0e, trained on xTB energies of
solvent clusters), trains it and a new model of the same architecture on AcAc, and prints a Markdown table of the errors.
All get the same data, batches, loss and schedule; the learning rates are arguments. ``frozen`` trains neither the elements' embedding
nor the first layer, ``adapters`` matrices of low rank only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
FOUNDATION = ROOT / "tests" / "data" / "v0.3.6_mace01_swa_compiled.model"
DATA = ROOT / "examples" / "acac" / "data"
TESTS = ("test_300K", "test_600K")
FROZEN = ["node_embedding", "interactions.0", "products.0"]
STARTS = ["new", "imported", "frozen", "adapters"]


def training_input(model, frames, steps, rate, seed):
    """Input of one training.

    Parameters
    ----------
    model : dict
        Model section.
    frames : str
        Folder of the training data.
    steps : int
        Number of steps.
    rate : float
        Learning rate of the first step; the last one has a thousandth.
    seed : int
        Of the batches, and of the weights of a new model.

    Returns
    -------
    dict
        Content of ``input.json``.
    """
    weights = {"start_pref_e": 1, "limit_pref_e": 1000, "start_pref_f": 100, "limit_pref_f": 100}
    return {
        "model": {**model, "seed": seed},
        "learning_rate": {"type": "cosine", "start_lr": rate, "stop_lr": rate / 1000},
        "optimizer": {"type": "Adam"},
        "loss": {"type": "ener", **weights, "intensive_ener_virial": True},
        "training": {
            "training_data": {"systems": [frames], "batch_size": 5},
            "numb_steps": steps,
            "gradient_max_norm": 10.0,
            "change_bias_after_training": True,
            "seed": seed,
            "disp_freq": 100,
            "save_freq": steps,
        },
    }


def subset(folder, count):
    """Copy the first frames of the training data.

    Parameters
    ----------
    folder : pathlib.Path
        Of the copy.
    count : int
        How many frames.

    Returns
    -------
    str
        The folder.
    """
    source = DATA / "train_300K"
    (folder / "set.000").mkdir(parents=True)
    for name in ("type.raw", "type_map.raw", "nopbc"):
        (folder / name).write_bytes((source / name).read_bytes())
    for name in ("box", "coord", "energy", "force"):
        np.save(folder / "set.000" / f"{name}.npy", np.load(source / "set.000" / f"{name}.npy")[:count])
    return str(folder)


def train(folder, config, arguments):
    """Train in a process of its own.

    Parameters
    ----------
    folder : pathlib.Path
        Working directory.
    config : dict
        Content of ``input.json``.
    arguments : list[str]
        Further arguments of ``dp --pt train``.

    Returns
    -------
    float
        Seconds of CPU.
    """
    folder.mkdir(parents=True)
    (folder / "input.json").write_text(json.dumps(config))
    begin = os.times()
    command = [
        sys.executable,
        "-m",
        "deepmd",
        "--pt",
        "train",
        "input.json",
        "--skip-neighbor-stat",
        *arguments,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    end = os.times()
    return end.children_user + end.children_system - begin.children_user - begin.children_system


def errors(checkpoint, frames):
    """Root mean square errors on the test sets.

    Parameters
    ----------
    checkpoint : pathlib.Path
        The trained model.
    frames : int
        How many of each set.

    Returns
    -------
    list[float]
        Energy in meV/atom and force in meV/Å of each set.
    """
    from deepmd.infer import DeepPot

    model = DeepPot(str(checkpoint))
    numbers = []
    for name in TESTS:
        coord, energy, force = (
            np.load(DATA / name / "set.000" / f"{key}.npy")[:frames] for key in ("coord", "energy", "force")
        )
        elements = (DATA / name / "type_map.raw").read_text().split()
        atype = [
            model.get_type_map().index(elements[int(t)])
            for t in (DATA / name / "type.raw").read_text().split()
        ]
        predicted = model.eval(coord, None, atype)
        numbers += [
            1e3 * np.sqrt(np.mean((predicted[0].ravel() - energy.ravel()) ** 2)) / len(atype),
            1e3 * np.sqrt(np.mean((predicted[1].ravel() - force.ravel()) ** 2)),
        ]
    return numbers


def compare(folder, args):
    """Run all trainings.

    Parameters
    ----------
    folder : pathlib.Path
        For their files.
    args : argparse.Namespace
        Command line.

    Yields
    ------
    str
        Rows of the table.
    """
    from deepmd_gnn import convert
    from deepmd_gnn.native.conversion import model_section

    foundation = folder / "foundation.pt"
    section = model_section(convert(args.foundation, foundation, head=args.head, precision="float64"))
    new = {**section, "avg_num_neighbors": "auto", "scale": "auto", "atomic_energies": "auto"}
    frames = subset(folder / "data", args.frames)
    finetune = ["--finetune", str(foundation)]
    yield "| steps | start | learning rate | seed | 300 K: energy | force | 600 K: energy | force | s CPU |"
    yield "|---:|---|---:|---:|---:|---:|---:|---:|---:|"
    for steps in args.steps:
        for seed in args.seeds:
            for start, model, rate, options in (
                ("new", new, args.rate_new, []),
                ("imported", section, args.rate_imported, finetune),
                ("frozen", {**section, "freeze": FROZEN}, args.rate_imported, finetune),
                ("adapters", {**section, "adapters": {"rank": args.rank}}, args.rate_adapters, finetune),
            ):
                if start not in args.starts:
                    continue
                run = folder / f"{start}_{steps}_{seed}"
                seconds = train(run, training_input(model, frames, steps, rate, seed), options)
                row = " | ".join(f"{x:.3g}" for x in errors(run / "model.ckpt.pt", args.test_frames))
                yield f"| {steps} | {start} | {rate:g} | {seed} | {row} | {seconds:.0f} |"


def main():
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--foundation", type=Path, default=FOUNDATION, help="native model with H, C and O")
    parser.add_argument("--head", help="of the native model")
    parser.add_argument("--frames", type=int, default=450, help="frames to train on")
    parser.add_argument("--test-frames", type=int, default=200, help="frames of each test set")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS[:2], help="which to train")
    parser.add_argument("--rate-new", type=float, default=0.01, help="learning rate of the new model")
    parser.add_argument(
        "--rate-imported", type=float, default=0.01, help="learning rate of the imported model"
    )
    parser.add_argument("--rate-adapters", type=float, default=0.01, help="learning rate of the adapters")
    parser.add_argument("--rank", type=int, default=4, help="of the adapters")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as name:
        for row in compare(Path(name), args):
            print(row, flush=True)
    print(f"evaluation: {time.process_time() - begin:.0f} s CPU", file=sys.stderr)


if __name__ == "__main__":
    main()
