"""Error bars of one model (LLPR, ``deepmd-gnn uncertainty``) beside a committee of four, on frames with known errors.

``python benchmarks/uncertainty.py acac`` trains four networks of the same options from different weights on the same frames, gives
the first one an uncertainty, and prints a Markdown table for each test set: rank correlation (Spearman) of predicted standard deviations
and absolute errors, root mean square of error over deviation (1 if calibrated), the share of errors within one and two deviations
(0.68 and 0.95 of a Gaussian), and the cost of an evaluation in units of energy and forces of one model. The committee's deviations are
also multiplied by a factor fitted to the same validation frames, as LLPR's are. ``water`` is the other system. ``--seeds 3`` repeats all with
other weights and orders of the data, and ends with mean and standard deviation; ``--figure`` draws errors against deviations.
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
from reliability import HEAD, draw, statistics, summary, text

from deepmd_gnn.datasets.sources import read_frames
from deepmd_gnn.tools.alike_frames import inputs_of
from deepmd_gnn.tools.error_bars import rms_ratio
from deepmd_gnn.tools.evaluation import load_potential, quiet
from deepmd_gnn.tools.uncertainty import uncertainty

ROOT = Path(__file__).parents[1]
SYSTEMS = {
    "acac": {
        "folder": ROOT / "examples" / "acac" / "data",
        "train": "train_300K", "valid": "valid_300K", "tests": ["test_300K", "test_600K"],
        "model": {
            "type_map": ["H", "C", "O"],
            "atomic_energies": {"H": -13.568422178253735, "C": -1026.8538996116154, "O": -2037.796869412825},
        },
    },
    "water": {
        "folder": ROOT / "examples" / "water" / "data",
        "train": "data_1", "valid": "data_0", "tests": ["data_3"],
        "model": {"type_map": ["O", "H"]},
    },
}  # fmt: skip
NETWORK = {
    "type": "mace", "r_max": 4.0, "max_L": 1, "max_ell": 2, "correlation": 2, "num_radial_basis": 8,
    "radial_MLP": [32, 32], "MLP_irreps": "16x0e", "precision": "float32",
}  # fmt: skip


def train(system, folder, arguments, seed):
    """Train one member; its checkpoint, and seconds of CPU."""
    chosen = SYSTEMS[system]
    weights = {"start_pref_e": 1, "limit_pref_e": 100, "start_pref_f": 100, "limit_pref_f": 100}
    config = {
        "model": {**NETWORK, "num_channels": arguments.channels, **chosen["model"]},
        "learning_rate": {"type": "cosine", "start_lr": arguments.rate, "stop_lr": arguments.rate / 1000},
        "optimizer": {"type": "Adam"},
        "loss": {"type": "ener", **weights, "start_pref_v": 0, "limit_pref_v": 0},
        "training": {
            "training_data": {"systems": [str(chosen["folder"] / chosen["train"])], "batch_size": arguments.batch},
            "numb_steps": arguments.steps, "gradient_max_norm": 10.0, "seed": seed,
            "disp_freq": arguments.steps, "save_freq": arguments.steps,
        },
    }  # fmt: skip
    begin = time.process_time()
    return train_here(folder, config), time.process_time() - begin


def train_here(folder, config, options=()):
    """Train in this process, which has the imports already, unless the folder has the result; the checkpoint."""
    from deepmd.main import main as dp

    if not (folder / "model.ckpt.pt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "input.json").write_text(json.dumps(config))
        before = Path.cwd()
        os.chdir(folder)
        try:
            dp(["--pt", "train", "--skip-neighbor-stat", "input.json", "--log-path", "train.log", *options])
        finally:
            os.chdir(before)
    return folder / "model.ckpt.pt"


def frames_of(path, count):
    """The first frames of a folder; all have the same atoms here."""
    return [frame for _, frame in zip(range(count), read_frames(path), strict=False)]


def references(frames):
    """Energies (nf,) in eV and forces (nf, natom, 3) in eV/Å."""
    energies = [frame.info.get("REF_energy", frame.info.get("energy")) for frame in frames]
    forces = [frame.arrays.get("REF_forces", frame.arrays.get("forces")) for frame in frames]
    return np.array(energies, dtype=float), np.array(forces, dtype=float)


def predictions(model, frames, size=16):
    """Energies and forces of a model, as :func:`references`."""
    found = []
    for begin in range(0, len(frames), size):
        with quiet():
            energy, force = model.eval(*inputs_of(frames[begin : begin + size], model, []).arrays)[:2]
        found.append((np.asarray(energy)[:, 0], np.asarray(force)))
    return tuple(np.concatenate(one) for one in zip(*found, strict=True))


def last_layer(model, frames, forces):
    """Standard deviations by the last layer: of energies, and perhaps of atoms' forces."""
    with quiet():
        found = uncertainty(model, *inputs_of(frames, model, []).arrays, forces=forces)
    return found["energy_std"][:, 0], found["force_std"][..., 0] if forces else None


def seconds(functions, times):
    """Shortest CPU time of each function's calls, which take turns: a machine does other things as well."""
    best = dict.fromkeys(functions, float("inf"))
    for turn in range(times + 1):
        for name, function in functions.items():
            begin = time.process_time()
            function()
            if turn:
                best[name] = min(best[name], time.process_time() - begin)
    return best


def compare(name, models, frames, scales, costs, number):
    """Print the table of a test set; its statistics by quantity and way, with energies per atom."""
    energies, forces = references(frames)
    members = [predictions(model, frames) for model in models]
    all_energies, all_forces = (np.stack(one) for one in zip(*members, strict=True))
    energy_std, force_std = last_layer(models[0], frames, True)
    natoms = forces.shape[1]
    error, mean_error = energies - all_energies[0], energies - all_energies.mean(axis=0)
    force_error, mean_force_error = forces - all_forces[0], forces - all_forces.mean(axis=0)
    print(
        f"\n{name}: {len(frames)} frames; RMSE of the first model {1e3 * np.sqrt((error**2).mean()) / natoms:.2f} meV/atom and "
        f"{1e3 * np.sqrt((force_error**2).mean()):.0f} meV/Å, of the committee's mean {1e3 * np.sqrt((mean_error**2).mean()) / natoms:.2f} "
        f"and {1e3 * np.sqrt((mean_force_error**2).mean()):.0f}\n"
    )
    spread = all_energies.std(axis=0)
    force_spread = np.sqrt(all_forces.var(axis=0).sum(axis=2)).ravel()
    # Errors of forces are lengths of vectors, of which a Gaussian has 0.61 and 0.99 within one and two deviations.
    lengths, mean_lengths = (np.linalg.norm(one, axis=2).ravel() for one in (force_error, mean_force_error))
    pairs = {
        "energy": {
            "LLPR": (energy_std / natoms, error / natoms),
            "committee": (spread / natoms, mean_error / natoms),
            "committee, scaled": (spread * scales[0] / natoms, mean_error / natoms),
        },
        "forces": {
            "LLPR": (force_std.ravel(), lengths),
            "committee": (force_spread, mean_lengths),
            "committee, scaled": (force_spread * scales[1], mean_lengths),
        },
    }
    print(f"{HEAD} cost |\n|---|---|---|---|---|---|")
    found = {
        quantity: {way: statistics(*pair, number) for way, pair in ways.items()}
        for quantity, ways in pairs.items()
    }
    for quantity, ways in found.items():
        for way, one in ways.items():
            cost = costs[quantity if way == "LLPR" else "committee"]
            print(f"| {quantity}, {way} | {text([one])} | {cost} |")
    return found


def committee_scales(models, frames):
    """Factors of a committee's deviations, by the closed form of LLPR's."""
    energies, forces = references(frames)
    members = [predictions(model, frames) for model in models]
    all_energies, all_forces = (np.stack(one) for one in zip(*members, strict=True))
    force_spread = np.sqrt(all_forces.var(axis=0).sum(axis=2))
    force_error = np.linalg.norm(forces - all_forces.mean(axis=0), axis=2)
    return rms_ratio(all_energies.std(axis=0), energies - all_energies.mean(axis=0)), rms_ratio(
        force_spread.ravel(), force_error.ravel()
    )


def main():
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("--data", type=Path, help="folder of the data (default: that of the example)")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--frames", type=int, default=300, help="of each test set, at most")
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument(
        "--seeds", type=int, default=1, help="how many committees, of different weights and order of the data"
    )
    parser.add_argument("--bins", type=int, default=10, help="of the calibration plot")
    parser.add_argument("--folder", type=Path, help="keeps the trainings (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="keep all statistics")
    parser.add_argument("--figure", type=Path, help="draw the calibration plot")
    arguments = parser.parse_args()
    if arguments.data:
        SYSTEMS[arguments.system]["folder"] = arguments.data.resolve()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder.resolve() if arguments.folder else Path(temporary)
        for seed in range(arguments.seeds):
            results.append(one_committee(folder, seed, arguments))
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.seeds > 1:
        print(summary(results))
    if arguments.figure:
        draw(results).savefig(arguments.figure)


def one_committee(folder, seed, arguments):
    """Train a committee and evaluate it; statistics of each test set."""
    chosen = SYSTEMS[arguments.system]
    first = seed * arguments.members
    trained = [
        train(arguments.system, folder / f"member{first + k}", arguments, first + k + 1)
        for k in range(arguments.members)
    ]
    print(f"training: {np.mean([one[1] for one in trained]):.0f} s of CPU each")
    sure = folder / f"sure{seed}.pt"
    sure.unlink(missing_ok=True)
    data = [str(chosen["folder"] / chosen[part]) for part in ("train", "valid")]
    command = [
        sys.executable,
        "-m",
        "deepmd_gnn",
        "uncertainty",
        str(trained[0][0]),
        data[0],
        "--valid",
        data[1],
        "-o",
        str(sure),
    ]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(f"{done.stdout}deepmd-gnn uncertainty: {time.perf_counter() - begin:.0f} s")
    models = [load_potential(path) for path in (sure, *(one[0] for one in trained[1:]))]
    scales = committee_scales(models, frames_of(chosen["folder"] / chosen["valid"], 10**9))
    one = frames_of(chosen["folder"] / chosen["valid"], 1)
    taken = seconds(
        {
            "plain": lambda: predictions(models[0], one),
            "energy": lambda: (predictions(models[0], one), last_layer(models[0], one, False)),
            "forces": lambda: (predictions(models[0], one), last_layer(models[0], one, True)),
            "committee": lambda: [predictions(model, one) for model in models],
        },
        10,
    )
    costs = {name: f"{value / taken['plain']:.1f}" for name, value in taken.items()}
    print(f"one evaluation of one frame: {1e3 * taken['plain']:.1f} ms of CPU")
    return {
        test: compare(
            test, models, frames_of(chosen["folder"] / test, arguments.frames), scales, costs, arguments.bins
        )
        for test in chosen["tests"]
    }


if __name__ == "__main__":
    main()
