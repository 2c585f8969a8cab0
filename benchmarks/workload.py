"""What the benchmarks evaluate: a structure, the two model sizes, native MACE and our model on the same weights."""

import os
from pathlib import Path

import numpy as np
import torch

STRUCTURE = Path(__file__).with_name("water192.xyz")
TYPE_MAP = ["O", "H"]
R_MAX = 6.0
AVG_NUM_NEIGHBORS = 89.0
MODELS = {"S": "64x0e", "M": "128x0e + 128x1o"}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
OURS_ONLY = ("scale", "avg_num_neighbors")


def read_water():
    """Read the benchmark structure.

    Returns
    -------
    coord, atype, cell : numpy.ndarray
        Å, shape (192, 3); indices into `TYPE_MAP`, shape (192,); Å, shape (3, 3).
    """
    from ase.io import read

    atoms = read(STRUCTURE)
    atype = np.array([TYPE_MAP.index(symbol) for symbol in atoms.get_chemical_symbols()])
    return atoms.get_positions(wrap=True), atype, np.array(atoms.cell)


def our_model(size, precision):
    """Build our model with random weights, the same for every precision.

    Parameters
    ----------
    size : str
        Key of `MODELS`.
    precision : str
        Key of `DTYPES`.

    Returns
    -------
    deepmd_gnn.mace.MaceModel
        In eval mode.
    """
    from deepmd.pt.model.model import get_model

    options = {
        "type": "mace",
        "type_map": TYPE_MAP,
        "r_max": R_MAX,
        "hidden_irreps": MODELS[size],
        "precision": precision,
        "avg_num_neighbors": AVG_NUM_NEIGHBORS,
        "scale": 1.0,
        "atomic_energies": {"O": 0.0, "H": 0.0},
        "seed": 1,
    }
    return get_model(options).eval()


def native_model(size, precision, weights):
    """Build native MACE the way its users do: scripted e3nn modules, everything in one dtype.

    Parameters
    ----------
    size, precision : str
        As in :func:`our_model`.
    weights : dict[str, torch.Tensor]
        State of our energy model.

    Returns
    -------
    mace.modules.ScaleShiftMACE
        In eval mode.
    """
    from deepmd_gnn.import_order import allow_e3nn_constants

    allow_e3nn_constants()
    from e3nn import o3
    from mace import modules
    from mace.tools.torch_tools import default_dtype

    with default_dtype(DTYPES[precision]):
        native = modules.ScaleShiftMACE(
            r_max=R_MAX,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=len(TYPE_MAP),
            hidden_irreps=o3.Irreps(MODELS[size]),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(TYPE_MAP)),
            avg_num_neighbors=AVG_NUM_NEIGHBORS,
            atomic_numbers=[8, 1],
            correlation=3,
            gate=torch.nn.functional.silu,
            radial_MLP=[64, 64, 64],
            use_reduced_cg=False,
            atomic_inter_scale=1.0,
            atomic_inter_shift=0.0,
        )
    shared = {name: value for name, value in weights.items() if name not in OURS_ONLY}
    unexpected = native.load_state_dict(shared, strict=False).unexpected_keys
    if unexpected:
        raise RuntimeError(f"weights without a place in native MACE: {unexpected}")
    return native.eval()


def native_graph(precision):
    """Graph of the water structure as native MACE takes it, ready to use.

    Parameters
    ----------
    precision : str
        Key of `DTYPES`.

    Returns
    -------
    dict[str, torch.Tensor]
        Positions, edges within `R_MAX`, shifts and one-hot elements.
    """
    from matscipy.neighbours import neighbour_list

    coord, atype, cell = read_water()
    i, j, shift = neighbour_list("ijS", positions=coord, cell=cell, pbc=[True] * 3, cutoff=R_MAX)
    dtype = DTYPES[precision]
    return {
        "positions": torch.tensor(coord, dtype=dtype),
        "cell": torch.tensor(cell, dtype=dtype),
        "unit_shifts": torch.tensor(shift, dtype=dtype),
        "shifts": torch.tensor(shift @ cell, dtype=dtype),
        "edge_index": torch.tensor(np.stack([i, j]), dtype=torch.int64),
        "node_attrs": torch.nn.functional.one_hot(torch.as_tensor(atype), len(TYPE_MAP)).to(dtype),
        "batch": torch.zeros(len(atype), dtype=torch.int64),
        "ptr": torch.tensor([0, len(atype)]),
        "head": torch.zeros(1, dtype=torch.int64),
    }


def use_one_thread():
    """Evaluate on one thread, so that CPU seconds compare."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
