"""What the benchmarks evaluate: structures, the two model sizes, native MACE and our model on the same weights."""

import os
from pathlib import Path
from typing import NamedTuple

import ase.build
import ase.data
import ase.io
import numpy as np
import torch

MODELS = {"S": "64x0e", "M": "128x0e + 128x1o"}
# T: for the tests, which only ask whether a benchmark runs.
IRREPS = {**MODELS, "XS": "8x0e + 8x1o", "T": "2x0e + 2x1o"}
# Degree of the spherical harmonics and of the products.
ORDERS = dict.fromkeys((*MODELS, "XS"), (3, 3)) | {"T": (1, 1)}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
OURS_ONLY = ("scale", "avg_num_neighbors")


class System(NamedTuple):
    """A structure and what depends on it."""

    atoms: ase.Atoms
    """Orthorhombic cell, or none."""
    type_map: list[str]
    """Elements."""
    r_max: float
    """Cutoff, Å."""
    avg_num_neighbors: float
    """Normalisation; about the mean number of neighbours."""

    @property
    def types(self):
        """Indices into `type_map`, shape (natom,)."""
        return np.array([self.type_map.index(symbol) for symbol in self.atoms.get_chemical_symbols()])

    @property
    def periodic(self):
        """Whether there is a cell."""
        return bool(self.atoms.pbc.all())


def system(name):
    """Make one of the structures.

    Parameters
    ----------
    name : str
        ``"water"``: 192 atoms of the liquid; ``"benzene"``: one molecule; ``"copper"``: 500 atoms of the hot crystal.

    Returns
    -------
    System
    """
    if name == "water":
        atoms = ase.io.read(Path(__file__).with_name("water192.xyz"))
        atoms.wrap()
        return System(atoms, ["O", "H"], 6.0, 89.0)
    if name == "benzene":
        atoms = ase.build.molecule("C6H6")
        atoms.rattle(0.03, seed=1)
        return System(atoms, ["H", "C"], 5.0, 11.0)
    atoms = ase.build.bulk("Cu", cubic=True) * (5, 5, 5)
    atoms.rattle(0.1, seed=1)
    atoms.wrap()
    return System(atoms, ["Cu"], 5.0, 42.0)


SYSTEMS = ("water", "benzene", "copper")


def model_options(size, precision, structure):
    """Model section of an input.

    Parameters
    ----------
    size : str
        Key of `IRREPS`.
    precision : str
        Key of `DTYPES`.
    structure : System
        What it is for.

    Returns
    -------
    dict
        Random weights are the same for every precision.
    """
    max_ell, correlation = ORDERS[size]
    return {
        "type": "mace",
        "type_map": structure.type_map,
        "r_max": structure.r_max,
        "hidden_irreps": IRREPS[size],
        "max_ell": max_ell,
        "correlation": correlation,
        "precision": precision,
        "avg_num_neighbors": structure.avg_num_neighbors,
        "scale": 1.0,
        "atomic_energies": dict.fromkeys(structure.type_map, 0.0),
        "seed": 1,
    }


def our_model(size, precision, structure):
    """Build our model with the options of :func:`model_options`, in eval mode."""
    from deepmd.pt.model.model import get_model

    return get_model(model_options(size, precision, structure)).eval()


def native_model(size, precision, structure, weights):
    """Build native MACE the way its users do: scripted e3nn modules, everything in one dtype.

    Parameters
    ----------
    size, precision, structure :
        As in :func:`our_model`.
    weights : dict[str, torch.Tensor]
        State of our energy model.

    Returns
    -------
    mace.modules.ScaleShiftMACE
        In eval mode.
    """
    from deepmd_gnn.files.import_order import allow_e3nn_constants

    allow_e3nn_constants()
    from e3nn import o3
    from mace import modules
    from mace.tools.torch_tools import default_dtype

    max_ell, correlation = ORDERS[size]
    with default_dtype(DTYPES[precision]):
        native = modules.ScaleShiftMACE(
            r_max=structure.r_max,
            num_bessel=8,
            num_polynomial_cutoff=5,
            max_ell=max_ell,
            interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
            interaction_cls_first=modules.interaction_classes["RealAgnosticInteractionBlock"],
            num_interactions=2,
            num_elements=len(structure.type_map),
            hidden_irreps=o3.Irreps(IRREPS[size]),
            MLP_irreps=o3.Irreps("16x0e"),
            atomic_energies=np.zeros(len(structure.type_map)),
            avg_num_neighbors=structure.avg_num_neighbors,
            atomic_numbers=[ase.data.atomic_numbers[symbol] for symbol in structure.type_map],
            correlation=correlation,
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


def native_graph(precision, structure):
    """Graph of the structure as native MACE takes it, ready to use.

    Parameters
    ----------
    precision : str
        Key of `DTYPES`.
    structure : System
        The structure.

    Returns
    -------
    dict[str, torch.Tensor]
        Positions, edges within the cutoff, shifts and one-hot elements.
    """
    from matscipy.neighbours import neighbour_list

    coord, atype = structure.atoms.get_positions(), structure.types
    cell = np.array(structure.atoms.cell) if structure.periodic else np.eye(3) * 100.0
    i, j, shift = neighbour_list(
        "ijS", positions=coord, cell=cell, pbc=structure.atoms.pbc, cutoff=structure.r_max
    )
    dtype = DTYPES[precision]
    return {
        "positions": torch.tensor(coord, dtype=dtype),
        "cell": torch.tensor(cell, dtype=dtype),
        "unit_shifts": torch.tensor(shift, dtype=dtype),
        "shifts": torch.tensor(shift @ cell, dtype=dtype),
        "edge_index": torch.tensor(np.stack([i, j]), dtype=torch.int64),
        "node_attrs": torch.nn.functional.one_hot(torch.as_tensor(atype), len(structure.type_map)).to(dtype),
        "batch": torch.zeros(len(atype), dtype=torch.int64),
        "ptr": torch.tensor([0, len(atype)]),
        "head": torch.zeros(1, dtype=torch.int64),
    }


def use_one_thread():
    """Evaluate on one thread, so that CPU seconds compare."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
