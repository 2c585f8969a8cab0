"""What the parts of ``gpu_check.py`` evaluate and compare: water, checkpoints, the reference, results."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import workload

HERE = Path(__file__).parent
REFERENCE = HERE / "gpu_reference.npz"
# Sizes and precisions, the most important first.
CHOSEN = os.environ.get("GPU_CHECK_MODELS", "M:float32 S:float32 M:float64 S:float64")
MODELS = tuple(tuple(word.split(":")) for word in CHOSEN.split())
REPLICAS = (1, 2, 4)  # 192, 1536 and 12 288 atoms
SIZES = tuple(dict.fromkeys(size for size, _ in MODELS))
# Largest deviation, relative to the largest value, and of the energy per atom in eV.
TOLERANCE = {"float32": (2e-5, 2e-5), "float64": (1e-8, 1e-8)}
NAMES = ("energy", "force", "virial", "atom_energy", "atom_virial")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Results:
    """Appends results of a part to its file."""

    def __init__(self, part, folder):
        self.part, self.file = part, folder / f"{part}.jsonl"
        self.file.write_text("", encoding="utf-8")

    def add(self, what, value, unit=""):
        """Append one."""
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"part": self.part, "what": what, "value": value, "unit": unit}) + "\n")
        print(what, value, unit)


def checkpoint(folder, size, precision, name="", **options):
    """Write a checkpoint with random weights, as the trainer would; with other options under a name of its own."""
    from deepmd.pt.model.model import get_model
    from deepmd.pt.train.wrapper import ModelWrapper

    water = workload.system("water")
    parameters = {**workload.model_options(size, precision, water), **options}
    wrapper = ModelWrapper(get_model(copy.deepcopy(parameters)), model_params=parameters)
    path = folder / f"{name or size}_{precision}.pt"
    torch.save({"model": wrapper.state_dict()}, path)
    return path


def frames(replicas):
    """Coordinates, cell and types of water, replicated in every direction."""
    atoms = workload.system("water").atoms
    cell = np.array(atoms.cell)
    cells = np.stack(np.meshgrid(*[np.arange(replicas)] * 3, indexing="ij"), -1).reshape(-1, 3) @ cell
    coord = (atoms.get_positions()[None] + cells[:, None]).reshape(1, -1, 3)
    return coord, (cell * replicas).reshape(1, 9), np.tile(workload.system("water").types, replicas**3)


def evaluated(file, moved=0.0, stretched=1.0):
    """All results of a file, or of one that is open, for water; with atoms moved at random by so many Å, and the cell stretched."""
    from deepmd.infer import DeepPot

    coord, cell, types = frames(1)
    coord, cell = coord * stretched, cell * stretched
    coord = coord + moved * np.random.default_rng(1).standard_normal(coord.shape)
    pot = file if isinstance(file, DeepPot) else DeepPot(str(file))
    return dict(
        zip(
            ("energy", "force", "virial", "atom_energy", "atom_virial"),
            pot.eval(coord, cell, types, atomic=True),
            strict=True,
        )
    )


def reference(folder):
    """Results of both models in double precision on the CPU."""
    values = {}
    for size in workload.MODELS:
        model = workload.our_model(size, "float64", workload.system("water")).to("cpu")
        coord, cell, types = frames(1)
        out = model(torch.tensor(coord), torch.tensor(types[None]), torch.tensor(cell), do_atomic_virial=True)
        values |= {f"{size}_{name}": out[name].detach().numpy() for name in NAMES}
        values[f"{size}_weights"] = sum(
            p.double().abs().sum().item() for p in model.energy_model.parameters()
        )
    np.savez_compressed(folder / REFERENCE.name, **values)


def expected_results(size, folder):
    """The stored reference; one made now if this torch draws other random weights."""
    stored = np.load(REFERENCE)
    model = workload.our_model(size, "float64", workload.system("water"))
    weights = sum(p.double().abs().sum().item() for p in model.energy_model.parameters())
    if abs(weights / float(stored[f"{size}_weights"]) - 1) > 1e-12:
        print("other random weights than the stored reference's: evaluated anew on the CPU")
        script = f"import sys; sys.path.insert(0, {str(HERE)!r}); import gpu_inputs, pathlib; gpu_inputs.reference(pathlib.Path({str(folder)!r}))"
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            env={**os.environ, "DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        )
        stored = np.load(folder / REFERENCE.name)
    return {name: stored[f"{size}_{name}"] for name in NAMES}


def compare(results, label, found, expected, precision):
    """Add how far results are off, and whether that is too much."""
    tolerance, per_atom = TOLERANCE[precision]
    natom = expected["force"].reshape(-1, 3).shape[0]
    energy = float(np.abs(found["energy"].ravel() - expected["energy"].ravel()).max()) / natom
    worst = 0.0
    for name in ("force", "virial", "atom_virial"):
        difference = np.abs(found[name].ravel() - expected[name].ravel()).max()
        worst = max(worst, float(difference / np.abs(expected[name]).max()))
    results.add(f"{label}: energy off by", energy, "eV per atom")
    results.add(f"{label}: forces, virials off by", worst, "of the largest")
    if not (energy <= per_atom and worst <= tolerance):
        results.add("wrong", label)


def compare_replays(results, label, pot, precision):
    """From the third evaluation of a size on a CUDA graph is replayed: the same, for other coordinates and fewer edges."""
    other = {"moved": 0.02, "stretched": 1.03}
    exact = evaluated(pot, **other)
    for _ in range(3):
        evaluated(pot)
    compare(results, f"{label}, replayed", evaluated(pot, **other), exact, precision)
