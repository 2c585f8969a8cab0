"""What is gained by choosing which frames to label: errors against the number of labels, chosen at random, by a committee, or by LLPR.

``python benchmarks/active_learning.py --json active.json --figure active.png`` starts, for each seed, with a few labels of AcAc at 300 K. The pool
has frames at 300 K and at 600 K; in each round a small network is trained further on all labels there are, and the pool's frames with the
largest deviation of a force are labelled. Deviations are those of a committee (whose first member is the network), or those of the network's last
layer (``deepmd-gnn uncertainty``). It prints a Markdown table, mean and standard deviation over the seeds, of root mean square
errors of the network, one model whatever the way, on other frames at 600 K, and of how many of the labels are at 600 K.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from uncertainty import NETWORK, SYSTEMS, frames_of, predictions, references, train_here

from deepmd_gnn.tools.alike_frames import inputs_of
from deepmd_gnn.tools.evaluation import load_potential, quiet
from deepmd_gnn.tools.plots import PALETTE, style_axis
from deepmd_gnn.tools.posterior import PosteriorMaker
from deepmd_gnn.tools.uncertainty import uncertainty

WAYS = ("random", "committee", "LLPR")
DATA = SYSTEMS["acac"]["folder"]
QUANTITIES = {"force": "force RMSE (meV/Å)", "energy": "energy RMSE (meV/atom)"}


def choose(deviations, left, number, rng):
    """Which frames of the pool to label next.

    Parameters
    ----------
    deviations : numpy.ndarray or None
        Of the frames `left`, shape (n,), eV/Å; None to choose at random.
    left : numpy.ndarray
        Places in the pool that have no label yet, shape (n,).
    number : int
        How many.
    rng : numpy.random.Generator
        Only for choosing at random.

    Returns
    -------
    numpy.ndarray
        Places in the pool, shape (number,): those with the largest deviations, the largest one first.
    """
    if deviations is None:
        return rng.choice(left, number, replace=False)
    return left[np.argsort(-deviations, kind="stable")[:number]]


def committee_deviations(models, frames):
    """Largest deviation of an atom's force in each frame, as LAMMPS writes it; eV/Å, shape (nf,)."""
    forces = np.stack([predictions(model, frames, 64)[1] for model in models])
    return np.sqrt(forces.var(axis=0).sum(axis=2)).max(axis=1)


def last_layer_deviations(model, labelled, frames):
    """The same by the last layer, from the features of the labelled frames. These also calibrate: a factor does not change the order."""
    maker = PosteriorMaker(model)
    maker.add(labelled)
    maker.finish(labelled, held_out=True)
    with quiet():
        found = uncertainty(model, *inputs_of(frames, model, []).arrays, forces=True)
    return found["force_std"][..., 0].max(axis=1)


class Pool:
    """Frames to label, and frames to test on.

    Parameters
    ----------
    size : int
        Frames of each temperature.
    tests : int
        Held-out frames at 600 K, from behind those of the pool.
    """

    def __init__(self, size, tests):
        hot = frames_of(DATA / "test_600K", 650)
        self.size = size
        self.frames = frames_of(DATA / "train_300K", size) + hot[:size]
        self.tests = hot[-tests:]
        self.arrays = {
            name: np.concatenate(
                [
                    np.load(DATA / part / "set.000" / f"{name}.npy")[:size]
                    for part in ("train_300K", "test_600K")
                ]
            )
            for name in ("box", "coord", "energy", "force")
        }

    def write(self, folder, places):
        """Write the frames at these places as a system of DeePMD-kit."""
        (folder / "set.000").mkdir(parents=True)
        for name in ("type.raw", "type_map.raw", "nopbc"):
            (folder / name).write_bytes((DATA / "train_300K" / name).read_bytes())
        for name, values in self.arrays.items():
            np.save(folder / "set.000" / f"{name}.npy", values[places])


def training_input(arguments, system, seed):
    """Input of one training; members of a committee differ in their seed."""
    weights = {"start_pref_e": 1, "limit_pref_e": 100, "start_pref_f": 100, "limit_pref_f": 100}
    return {
        "model": {**NETWORK, "num_channels": arguments.channels, "max_L": arguments.max_L, **SYSTEMS["acac"]["model"]},
        "learning_rate": {"type": "cosine", "start_lr": arguments.rate, "stop_lr": arguments.rate / 1000},
        "optimizer": {"type": "Adam"},
        "loss": {"type": "ener", **weights, "start_pref_v": 0, "limit_pref_v": 0},
        "training": {
            "training_data": {"systems": [str(system)], "batch_size": 5}, "numb_steps": arguments.steps,
            "gradient_max_norm": 10.0, "change_bias_after_training": True, "seed": seed,
            "disp_freq": arguments.steps, "save_freq": arguments.steps,
        },
    }  # fmt: skip


def trained(folder, pool, places, seeds, arguments, before=None):
    """Models with these seeds, trained on these frames; from the weights of the round that is in the folder `before`."""
    pool.write(folder / "data", places)
    models = []
    for seed in seeds:
        name = f"model_{seed}"
        start = ["--init-model", str(before / name / "model.ckpt.pt")] if before else []
        config = training_input(arguments, folder / "data", seed)
        models.append(load_potential(train_here(folder / name, config, start)))
    return models


def tested(model, pool, places):
    """A row of the results: errors on the held-out frames in meV/Å and meV/atom."""
    energies, forces = references(pool.tests)
    found_energies, found_forces = predictions(model, pool.tests, 64)
    return {
        "labels": len(places),
        "hot": int((np.asarray(places) >= pool.size).sum()),
        "force": 1e3 * float(np.sqrt(((found_forces - forces) ** 2).mean())),
        "energy": 1e3 * float(np.sqrt(((found_energies - energies) ** 2).mean())) / forces.shape[1],
    }


def deviations(way, models, pool, places, left):
    """Deviations of the frames that are left, by one of the ways."""
    frames = [pool.frames[place] for place in left]
    if way == "random":
        return None
    if way == "committee":
        return committee_deviations(models, frames)
    return last_layer_deviations(models[0], [pool.frames[place] for place in places], frames)


def one_seed(seed, folder, pool, arguments):
    """Rows of all ways and rounds; the first round is common to all."""
    first = np.random.default_rng(seed).choice(pool.size, arguments.labels[0], replace=False)
    members = [100 * seed + member for member in range(arguments.members)]
    common = trained(folder / "first", pool, first, members, arguments)
    for way in arguments.ways:
        rng = np.random.default_rng(1000 + seed)
        places, models, before = first, common, folder / "first"
        yield {"seed": seed, "way": way, **tested(models[0], pool, places)}
        for number in arguments.labels[1:]:
            left = np.setdiff1d(np.arange(2 * pool.size), places)
            chosen = choose(deviations(way, models, pool, places, left), left, number - len(places), rng)
            places = np.concatenate([places, chosen])
            # Nothing is chosen after the last round.
            asked = way == "committee" and number != arguments.labels[-1]
            wanted = members if asked else members[:1]
            here = folder / f"{way}_{number}"
            models, before = trained(here, pool, places, wanted, arguments, before), here
            yield {"seed": seed, "way": way, **tested(models[0], pool, places)}


def statistics(rows, way, labels, key):
    """Mean and standard deviation over the seeds."""
    values = [row[key] for row in rows if row["way"] == way and row["labels"] == labels]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def table(rows, labels):
    """Markdown."""
    lines = [
        "| labels | | force RMSE, meV/Å | energy RMSE, meV/atom | of the labels at 600 K |",
        "|---|---|---|---|---|",
    ]
    ways = [way for way in WAYS if any(row["way"] == way for row in rows)]
    for number in labels:
        for way in ways:
            cells = [
                f"{m:.0f} ± {s:.0f}" if m >= 100 else f"{m:.1f} ± {s:.1f}"
                for m, s in (statistics(rows, way, number, key) for key in QUANTITIES)
            ]
            hot = statistics(rows, way, number, "hot")[0]
            lines.append(f"| {number} | {way} | {' | '.join(cells)} | {hot:.0f} |")
    return "\n".join(lines)


def draw(rows, labels):
    """Errors against the number of labels."""
    figure = Figure(figsize=(7.2, 3.0), dpi=150, layout="constrained")
    for axis, (key, name) in zip(figure.subplots(1, 2), QUANTITIES.items(), strict=True):
        for place, way in enumerate(WAYS):
            found = [
                statistics(rows, way, number, key)
                for number in labels
                if any(row["way"] == way for row in rows)
            ]
            if found:
                means, spreads = zip(*found, strict=True)
                shifted = np.array(labels) * 1.04 ** (place - 1)  # bars beside each other
                axis.errorbar(
                    shifted, means, spreads, color=PALETTE[place], label=way, marker="o", ms=4, capsize=2
                )
        axis.set(xscale="log", xlabel="labels", ylabel=name)
        axis.set_xticks(labels, [str(number) for number in labels])
        axis.xaxis.minorticks_off()
        style_axis(axis)
        axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)
    return figure


def main():
    """Train, choose, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 20, 40, 80], help="after each round")
    parser.add_argument("--pool", type=int, default=150, help="frames of each temperature")
    parser.add_argument("--tests", type=int, default=150, help="held-out frames at 600 K")
    parser.add_argument("--members", type=int, default=3, help="of the committee")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--max-L", type=int, default=1, dest="max_L")
    parser.add_argument("--rate", type=float, default=0.03)
    parser.add_argument("--json", type=Path, help="keep all results")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    pool, rows = Pool(arguments.pool, arguments.tests), []
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for row in one_seed(seed, Path(folder) / f"seed_{seed}", pool, arguments):
                rows.append(row)
                if arguments.json:
                    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows, arguments.labels))
    print(f"\n{len(arguments.seeds)} seeds, {time.process_time() - begin:.0f} s of CPU")
    if arguments.figure:
        draw(rows, arguments.labels).savefig(arguments.figure)


if __name__ == "__main__":
    main()
