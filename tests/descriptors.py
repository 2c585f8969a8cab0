"""MACE as a descriptor: tiny models of DeePMD-kit with it, and data with labels for all of their fitting networks."""

import numpy as np
from deepmd.pt.model.model import get_model
from helpers import random_frame

DESCRIPTOR = {
    "type": "mace",
    "r_max": 4.0,
    "num_channels": 4,
    "max_L": 1,
    "max_ell": 2,
    "correlation": 2,
    "num_radial_basis": 4,
    "radial_MLP": [8],
    "keep_last_layer_irreps": True,
    "seed": 1,
    "avg_num_neighbors": 2.0,
    "sel": 150,
}
FITTINGS = {
    "ener": {},
    "property": {"property_name": "gap", "task_dim": 2, "intensive": True},
    "dos": {"numb_dos": 5},
    "dipole": {},
    "polar": {},
}


def section(kind="ener", fitting=None, **options):
    """A model section."""
    return {
        "type_map": ["O", "H"],
        "descriptor": {**DESCRIPTOR, **options},
        "fitting_net": {"type": kind, "neuron": [8, 8], "seed": 1, **FITTINGS[kind], **(fitting or {})},
    }


def model(kind="ener", **options):
    """A model with random weights, in eval mode."""
    return get_model(section(kind, **options)).eval()


def descriptor(**options):
    """The descriptor of such a model."""
    return model(**options).get_descriptor()


def write_labels(path, nframe=2, seed=0, gap=1, dos=5):
    """A system with random labels of all kinds; returns its path as a string."""
    rng = np.random.default_rng(seed)
    coord, atype, cell = random_frame(natoms=8, seed=seed, spacing=1.3, box_length=5.0)
    (path / "set.000").mkdir(parents=True)
    labels = {
        "coord": coord.reshape(1, -1) + rng.normal(0, 0.05, (nframe, coord.size)),
        "box": np.tile(cell.reshape(1, 9), (nframe, 1)),
        "energy": rng.normal(size=nframe),
        "force": rng.normal(size=(nframe, coord.size)),
        "gap": rng.normal(size=(nframe, gap)),
        "dos": rng.normal(size=(nframe, dos)),
        "dipole": rng.normal(size=(nframe, 3)),
        "polarizability": rng.normal(size=(nframe, 9)),
    }
    for name, values in labels.items():
        np.save(path / "set.000" / f"{name}.npy", values)
    np.savetxt(path / "type.raw", atype, fmt="%d")
    (path / "type_map.raw").write_text("O\nH\n")
    return str(path)
