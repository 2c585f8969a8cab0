"""How long a training step takes on this machine: measured, because it depends on everything."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.datasets.database import is_database, read_database
from deepmd_gnn.datasets.folders import read_systems
from deepmd_gnn.datasets.summary import DataFolder
from deepmd_gnn.tools.evaluation import quiet

_WARM_UP, _TIMED = 1, 3


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
        inputs = []
        for _, frame in zip(range(batch), frames, strict=False):
            names = [chemical_symbols[number] for number in frame.numbers]
            types = torch.tensor([section["type_map"].index(name) for name in names], device=device)[None]
            box = torch.tensor(frame.cell.reshape(1, 9), device=device) if any(frame.pbc) else None
            inputs.append((torch.tensor(frame.positions[None], device=device), types, box))
        times = []
        for _ in range(_WARM_UP + _TIMED):
            begin = time.perf_counter()
            for coord, types, box in inputs:
                out = model(coord.requires_grad_(True), types, box)
                ((out["force"] ** 2).sum() + (out["energy"] ** 2).sum()).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - begin)
    return float(np.median(times[_WARM_UP:]))
