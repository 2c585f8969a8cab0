"""How long a training step takes on this machine: measured, because it depends on everything."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.datasets.database import is_database, read_database
from deepmd_gnn.datasets.folders import read_systems
from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.datasets.summary import DataFolder
from deepmd_gnn.tools.evaluation import quiet

_WARM_UP, _TIMED = 1, 3
# Seconds after which one timed step has to do.
_PATIENCE = 20.0


def seconds_per_step(sections: dict[str, dict[str, Any]], data: DataFolder) -> float:
    """Time energy, forces and the gradient of their squares for one batch.

    Parameters
    ----------
    sections : dict
        Input with ``model`` and ``training``.
    data : DataFolder
        Frames of the batch: the first of the first training system.

    Returns
    -------
    float
        Seconds, without reading data.
    """
    batch = sections["training"]["training_data"]["batch_size"]
    first = Path(data.train.systems if isinstance(data.train.systems, str) else data.train.systems[0])
    frames = read_database(first) if is_database(first) else read_systems(first)
    with quiet():
        import torch
        from deepmd.pt.model.model import get_model

        # Statistics do not change what a step costs.
        section = {"avg_num_neighbors": 20.0, "scale": 1.0, **sections["model"], "atomic_energies": None}
        model = get_model(section).train()
        device = next(model.parameters()).device
        # Frames of one size are one call, as in the training: for small molecules a call costs more than its atoms.
        alike: dict[tuple[int, bool], list[Frame]] = {}
        for _, frame in zip(range(batch), frames, strict=False):
            alike.setdefault((len(frame.numbers), any(frame.pbc)), []).append(frame)
        inputs = [_tensors(some, section["type_map"], device) for some in alike.values()]
        times = []
        for _ in range(_WARM_UP + _TIMED):
            begin = time.perf_counter()
            for coord, types, box in inputs:
                out = model(coord.requires_grad_(True), types, box)
                ((out["force"] ** 2).sum() + (out["energy"] ** 2).sum()).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
            if len(times) > _WARM_UP and sum(times) > _PATIENCE:
                break
    return float(np.median(times[_WARM_UP:]))


def _tensors(frames: list[Frame], type_map: list[str], device: Any) -> tuple[Any, Any, Any]:
    """Coordinates (nframes, natoms, 3), types (nframes, natoms) and cells (nframes, 9) or none."""
    import torch

    place = {name: number for number, name in enumerate(type_map)}
    coord = np.stack([frame.positions for frame in frames])
    types = [[place[chemical_symbols[number]] for number in frame.numbers] for frame in frames]
    cells = np.stack([frame.cell.reshape(9) for frame in frames]) if any(frames[0].pbc) else None
    box = None if cells is None else torch.tensor(cells, device=device)
    return torch.tensor(coord, device=device), torch.tensor(types, device=device), box
