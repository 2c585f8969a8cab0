"""What adapters of low rank cost: time and memory of a training step, and sizes of files, against all weights.

``python benchmarks/adapters.py`` trains a model with random weights on random frames of water's density: all weights, adapters of
``--ranks``, and only ``interactions.0.linear_up``, whose gradient needs everything that any adapter's does: no adapter can cost less. Steps of all
alternate in one process, which is what the ratios are of; peaks of memory are of a process for each. It prints a Markdown table.
"""

import argparse
import io
import multiprocessing
import os
import re
import time
from pathlib import Path

import numpy as np
import torch
from deepmd.pt.model.model import get_model

SECTION = {
    "type": "mace",
    "type_map": ["O", "H"],
    "r_max": 5.0,
    "avg_num_neighbors": 30.0,
    "scale": 1.0,
    "seed": 1,
}
ONE = "one matrix"


def model_of(variant, args):
    """A model in training mode.

    Parameters
    ----------
    variant : str
        ``all weights``, ``rank N`` or :data:`ONE`.
    args : argparse.Namespace
        With the size.

    Returns
    -------
    MaceModel
    """
    section = {**SECTION, "num_channels": args.channels, "max_L": args.max_l, "precision": args.precision}
    if variant.startswith("rank"):
        section["adapters"] = {"rank": int(variant.split()[1])}
    model = get_model(section).train()
    if model.adapters is not None:
        model.adapters.has_weights = True  # random ones do for a measurement
    if variant == ONE:
        model.requires_grad_(False)
        model.energy_model.interactions[0].linear_up.requires_grad_(True)
    return model


def frames(args):
    """Coordinates, types and cell of a batch: water's density, atoms not on top of each other."""
    rng = np.random.default_rng(0)
    edge = int(np.ceil(args.atoms ** (1 / 3)))
    length = (args.atoms / 0.1) ** (1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(edge)] * 3, indexing="ij"), -1).reshape(-1, 3)[: args.atoms]
    coord = (grid + rng.uniform(-0.2, 0.2, (args.frames, args.atoms, 3))) * length / edge
    types = rng.integers(0, 2, (args.frames, args.atoms))
    return (
        torch.tensor(coord),
        torch.tensor(types),
        torch.eye(3, dtype=torch.float64).reshape(1, 9).repeat(args.frames, 1) * length,
    )


class Training:
    """A model, its optimiser, and a step with a loss on energies and forces."""

    def __init__(self, variant, args):
        self.model = model_of(variant, args)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=1e-4)
        self.inputs = frames(args)

    def step(self):
        """One step."""
        coord, types, box = self.inputs
        self.optimizer.zero_grad(set_to_none=True)
        out = self.model(coord.clone().requires_grad_(True), types, box)
        ((out["force"] ** 2).mean() + (out["energy"] ** 2).mean()).backward()
        self.optimizer.step()

    def sizes(self):
        """Numbers that are trained, and MB of a checkpoint as the host writes it, with the optimiser's state, without, and of these numbers."""
        found = [sum(p.numel() for p in self.parameters)]
        tensors = {name: value for name, value in self.model.state_dict().items() if torch.is_tensor(value)}
        trained = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        for content in (
            {"model": tensors, "optimizer": self.optimizer.state_dict()},
            {"model": tensors},
            trained,
        ):
            file = io.BytesIO()
            torch.save(content, file)
            found.append(len(file.getvalue()) / 1e6)
        return found


def peak(training):
    """MB that the first steps of a process add to what it had before: in a fork, of which nothing comes back but the number."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(growth(training)))
    process.start()
    found = receiver.recv()
    process.join()
    return found


def growth(training):
    """What the process of this call grows by."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak until now
    before = resident("VmRSS")
    for _ in range(3):
        training.step()
    return resident("VmHWM") - before


def resident(name):
    """A line of what Linux says about this process, MB."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) / 1e3


def compare(args):
    """Measure and print."""
    variants = ["all weights", *(f"rank {rank}" for rank in args.ranks), ONE]
    trainings = {name: Training(name, args) for name in variants}
    peaks = {
        name: peak(training) for name, training in trainings.items()
    }  # before there is memory to hand on
    seconds = {name: [] for name in variants}
    for turn in range(args.turns + 1):
        for name, training in trainings.items():
            begin = time.process_time()
            training.step()
            if turn:
                seconds[name].append(time.process_time() - begin)
    whole = np.array(seconds["all weights"])
    print(
        "| | numbers trained | least CPU s of a step | ratio | median ratio of a turn | peak, MB | checkpoint, MB | without the optimiser | "
        "what was trained |"
    )
    print("|---|" + 8 * "---:|")
    for name in variants:
        own = np.array(seconds[name])
        ratio = own / whole
        trained, *files = trainings[name].sizes()
        print(
            f"| {name} | {trained} | {own.min():.3f} | {own.min() / whole.min():.2f} | {np.median(ratio):.2f} ± {ratio.std():.2f} | {peaks[name]:.0f} | "
            f"{files[0]:.2f} | {files[1]:.2f} | {files[2]:.2f} |",
            flush=True,
        )


def main():
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--max-l", type=int, default=1)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--atoms", type=int, default=64, help="of a frame")
    parser.add_argument("--frames", type=int, default=2, help="of a batch")
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    compare(args)


if __name__ == "__main__":
    main()
