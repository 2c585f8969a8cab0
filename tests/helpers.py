"""Small models and structures, and native MACE as the independent reference."""

import copy
import functools
import json

import numpy as np
import torch
from deepmd.pt.model.model import get_model
from deepmd.pt.utils.nlist import extend_input_and_build_neighbor_list
from native_models import default_dtype

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.mace_network import build_native

TINY = {
    "type": "mace",
    "type_map": ["O", "H"],
    "r_max": 4.0,
    "num_channels": 4,
    "max_L": 1,
    "max_ell": 2,
    "correlation": 2,
    "num_radial_basis": 4,
    "radial_MLP": [8],
    "MLP_irreps": "4x0e",
    "seed": 1,
    "avg_num_neighbors": 8.0,
    "scale": 1.3,
    "atomic_energies": {"O": -5.0, "H": -1.25},
}


def tiny_model(**options):
    """A tiny MACE model in eval mode, deterministic; built once, because copies cost next to nothing."""
    section = {**TINY, **options}
    try:
        text = json.dumps(section)
    except TypeError:  # options as no input file has them
        return get_model(section).eval()
    if section["seed"] is None or json.loads(text) != section:
        return get_model(section).eval()
    return copy.deepcopy(_built(text))


@functools.cache
def _built(text):
    return get_model(json.loads(text)).eval()


def random_frame(natoms=12, box_length=6.0, seed=0, ntypes=2, triclinic=True, spacing=1.0):
    """Coordinates (n, 3), types (n,) and cell (3, 3) with no two atoms closer than `spacing` (images included)."""
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * box_length
    if triclinic:
        cell[1, 0], cell[2, 0], cell[2, 1] = 0.1 * box_length, -0.08 * box_length, 0.12 * box_length
    fractional: list[np.ndarray] = []
    while len(fractional) < natoms:
        trial = rng.random(3)
        if all(_distance(trial - other, cell) > spacing for other in fractional):
            fractional.append(trial)
    return np.array(fractional) @ cell, rng.integers(0, ntypes, natoms), cell


def _distance(fractional, cell):
    return np.linalg.norm((fractional - np.round(fractional)) @ cell)


def native_model(model):
    """Native ScaleShiftMACE with the weights and statistics of one of our models, E0 zero.

    Always evaluated in float64: native float32 also rounds the coordinates, ours does not.
    """
    return _with_weights(_built_native(_architecture(model)), model)


def _architecture(model):
    """What the native modules of a model depend on, as text; they are in float64 for every precision."""
    options = {**model.config.to_dict(), "num_channels": None, "max_L": None, "precision": "float64"}
    return json.dumps([options, model.energy_model.atomic_numbers.tolist()])


def _built_native(architecture):
    options, atomic_numbers = json.loads(architecture)
    return build_native(MaceConfig(**options), atomic_numbers)


@functools.lru_cache(maxsize=4)
def _kept_native(architecture):
    """For evaluations only: e3nn's modules take longer to build than to evaluate."""
    return _built_native(architecture)


def _with_weights(native, model):
    weights = {
        k: v for k, v in model.energy_model.state_dict().items() if k not in ("scale", "avg_num_neighbors")
    }
    missing, unexpected = native.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not set(missing) & {name for name, p in native.named_parameters() if p.numel()}
    native.scale_shift.scale.fill_(float(model.energy_model.scale))
    for block in native.interactions:
        block.avg_num_neighbors = float(model.energy_model.avg_num_neighbors)
    return native.eval()


def native_graph(model, coord, atype, cell):
    """Input of native MACE for a frame; neighbour list by matscipy."""
    from matscipy.neighbours import neighbour_list

    box = np.eye(3) * (np.ptp(coord, axis=0).max() + 20.0) if cell is None else np.asarray(cell)
    i, j, shift = neighbour_list(
        "ijS", positions=coord, cell=box, pbc=[cell is not None] * 3, cutoff=model.get_rcut()
    )
    return {
        "positions": torch.tensor(coord, requires_grad=True),
        "cell": torch.tensor(box),
        "unit_shifts": torch.tensor(shift, dtype=torch.float64),
        "shifts": torch.tensor(shift @ box),
        # Native: vector = r_receiver − r_sender + shift. matscipy's vector goes from i to the image of j.
        "edge_index": torch.tensor(np.stack([i, j]), dtype=torch.int64),
        "node_attrs": torch.nn.functional.one_hot(torch.as_tensor(atype), len(model.get_type_map())).double(),
        "batch": torch.zeros(len(atype), dtype=torch.int64),
        "ptr": torch.tensor([0, len(atype)]),
        "head": torch.zeros(1, dtype=torch.int64),
        **{one.name: torch.tensor([one.stand_in], dtype=torch.float64) for one in quantities(model)},
    }


def quantities(model):
    """Quantities of a frame (charge, spin) that the energy of a model depends on."""
    return getattr(model.config, "features", [])


def native_results(model, coord, atype, cell):
    """Results of native MACE as numpy arrays, energies without E0."""
    periodic = cell is not None
    native = _with_weights(_kept_native(_architecture(model)), model)
    graph = native_graph(model, coord, atype, cell)
    with default_dtype():  # native ZBL rounds its prefactor to the default dtype
        out = native(graph, compute_virials=periodic, compute_displacement=periodic)
    return {
        "energy": out["energy"].detach().numpy(),
        "atom_energy": out["node_energy"].detach().numpy(),
        "force": out["forces"].detach().numpy(),
        "virial": out["virials"].detach().numpy().reshape(9) if periodic else None,
        "features": out["node_feats"].detach().numpy(),
    }


def our_results(model, coord, atype, cell, **kwargs):
    """The same quantities from our model's ``forward``, one frame."""
    box = None if cell is None else torch.tensor(np.asarray(cell).reshape(1, 9))
    out = model(
        torch.tensor(np.asarray(coord)[None]), torch.as_tensor(np.asarray(atype))[None], box, **kwargs
    )
    return {key: value[0].detach().numpy() for key, value in out.items()}


def assert_close(actual, expected, tolerance, what=""):
    """Compare relative to the largest reference value."""
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-12)
    deviation = float(np.abs(np.asarray(actual) - np.asarray(expected)).max(initial=0.0)) / scale
    assert deviation <= tolerance, f"{what}: relative deviation {deviation:.2e} > {tolerance:.0e}"


def extended(frames, rcut):
    """Frames as tensors, and with ghosts and the list that the host builds."""
    coord = torch.tensor(np.stack([f[0] for f in frames]))
    atype = torch.tensor(np.stack([f[1] for f in frames]))
    box = torch.tensor(np.stack([f[2].reshape(9) for f in frames]))
    lower = extend_input_and_build_neighbor_list(coord, atype, rcut, [400], mixed_types=True, box=box)
    return (coord, atype, box), lower


def rotation(seed=0):
    """A random proper rotation."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def self_send(nloc, owner):
    """Communication tensors of one rank that sends to itself; the first result has to be kept alive."""
    rows = owner[0, nloc:].to(torch.int32).contiguous()
    one = torch.ones(1, dtype=torch.int32)
    lists = torch.tensor([rows.data_ptr()], dtype=torch.int64)
    none = torch.zeros(1, dtype=torch.int64)
    sent, received = one * len(rows), one * len(rows)  # two tensors: a test changes one
    names = ("send_list", "send_proc", "recv_proc", "send_num", "recv_num", "communicator")
    return rows, dict(zip(names, (lists, one * 0, one * 0, sent, received, none), strict=True))


def folded(out, owner, nloc):
    """Bring forces and virials of ghosts home and use the names of ``forward``."""
    result = {key: out[key].detach() for key in ("energy", "atom_energy", "virial")}
    for key, width, name in (("extended_force", 3, "force"), ("extended_virial", 9, "atom_virial")):
        index = owner.unsqueeze(2).expand(-1, -1, width)
        zeros = torch.zeros(len(owner), nloc, width, dtype=torch.float64)
        result[name] = zeros.scatter_add(1, index, out[key].detach())
    return result
