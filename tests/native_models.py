"""Native MACE models, built and evaluated with mace-torch alone: the reference of the import and export tests."""

import contextlib
import copy

import numpy as np
import torch
from e3nn import o3
from mace import modules
from mace.tools import utils
from matscipy.neighbours import neighbour_list

NUMBERS = [1, 6, 8]
SYMBOLS = ["H", "C", "O"]


@contextlib.contextmanager
def default_dtype(dtype=torch.float64):
    """MACE builds its parameters in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # noqa: TID251 - restored
    try:
        yield
    finally:
        torch.set_default_dtype(before)  # noqa: TID251


_BUILT = {}


def native(*arguments, **options):
    """A model of its own as :func:`built` makes it, which takes ten times as long as a copy; and as after that torch's random numbers."""
    key = repr((arguments, sorted(options.items())))
    if key not in _BUILT:
        model = built(*arguments, **options)
        if not all(type(parameter) is torch.nn.Parameter for parameter in model.parameters()):
            return model  # mace-torch's empty parameters cannot be copied
        _BUILT[key] = model, torch.get_rng_state()
    model, state = _BUILT[key]
    torch.set_rng_state(state)
    return copy.deepcopy(model)


def built(kind="ScaleShiftMACE", seed=0, dtype=torch.float64, **options):
    """A tiny native model with random weights and statistics; options as in mace-torch."""
    heads = options.get("heads", ["Default"])
    rng = np.random.default_rng(seed)
    settings = {
        "r_max": 4.3,
        "num_bessel": 4,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": "RealAgnosticResidualInteractionBlock",
        "interaction_cls_first": "RealAgnosticInteractionBlock",
        "num_interactions": 2,
        "num_elements": len(NUMBERS),
        "hidden_irreps": "4x0e + 4x1o",
        "MLP_irreps": "3x0e",
        "atomic_energies": rng.uniform(-20.0, -1.0, (len(heads), len(NUMBERS))),
        "avg_num_neighbors": 7.25,
        "atomic_numbers": NUMBERS,
        "correlation": 2,
        "gate": torch.nn.functional.silu,
        "radial_MLP": [8],
        "use_reduced_cg": False,
        **options,
    }
    if kind == "ScaleShiftMACE":
        settings["atomic_inter_scale"] = rng.uniform(0.5, 2.0, len(heads))
        settings["atomic_inter_shift"] = rng.uniform(-1.0, 1.0, len(heads))
    for key in ("interaction_cls", "interaction_cls_first", "readout_cls"):
        if key in settings:
            settings[key] = (
                getattr(modules, settings[key], None) or modules.interaction_classes[settings[key]]
            )
    for key in ("hidden_irreps", "MLP_irreps", "edge_irreps"):
        if key in settings:
            settings[key] = o3.Irreps(settings[key])
    torch.manual_seed(seed)
    with default_dtype(dtype):
        model = getattr(modules, kind)(**settings)
    for name, parameter in model.named_parameters():  # biases begin at zero, alpha and beta at round numbers
        if name.endswith(("bias", "alpha", "beta")):
            parameter.data += torch.rand_like(parameter)
    return model


def native_evaluation(model, coord, symbols, cell, head=0, pbc=None):
    """Energy, forces and virial of a native model in float64; cell None for free boundaries."""
    model = model.double()
    table = utils.AtomicNumberTable([int(z) for z in model.atomic_numbers])
    numbers = [NUMBERS[SYMBOLS.index(name)] for name in symbols]
    types = torch.tensor([table.z_to_index(z) for z in numbers])
    box = np.eye(3) * (np.ptp(coord, axis=0).max() + 30.0) if cell is None else np.asarray(cell)
    i, j, shift = neighbour_list(
        "ijS", positions=coord, cell=box, pbc=pbc or [cell is not None] * 3, cutoff=float(model.r_max)
    )
    data = {
        "positions": torch.tensor(coord, requires_grad=True),
        "cell": torch.tensor(box),
        "unit_shifts": torch.tensor(shift, dtype=torch.float64),
        "shifts": torch.tensor(shift @ box),
        "edge_index": torch.tensor(np.stack([i, j]), dtype=torch.int64),
        "node_attrs": torch.nn.functional.one_hot(types, len(table)).double(),
        "batch": torch.zeros(len(types), dtype=torch.int64),
        "ptr": torch.tensor([0, len(types)]),
        "head": torch.tensor([head]),
    }
    with default_dtype():
        out = model(data, compute_virials=cell is not None, compute_displacement=cell is not None)
    result = {"energy": out["energy"], "force": out["forces"]}
    if cell is not None:
        result["virial"] = out["virials"].reshape(9)
    return {key: value.detach().numpy() for key, value in result.items()}
