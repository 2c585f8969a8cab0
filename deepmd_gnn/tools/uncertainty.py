"""How uncertain a model is about structures: standard deviations by the last layer (LLPR) of any kind of model file."""

from typing import Any

import numpy as np
import torch

from deepmd_gnn.tools.alike_frames import frames_per_batch

_MOST_FRAMES = 64


def network_of(potential: Any) -> Any:
    """The model inside DeePMD-kit's Python inference, scripted or not.

    Parameters
    ----------
    potential : deepmd.infer.DeepPot
        Of a ``.pt`` or ``.pth``, or of a ``.pt2`` or ``.pte``, beside which the host rebuilds the model.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        If it is of another program or version, or of a network without the method.
    """
    backend = potential.deep_eval
    parts = getattr(getattr(backend, "dp", None), "model", None)
    model: Any = getattr(backend, "_dpmodel", None)
    if isinstance(parts, torch.nn.ModuleDict):
        model = parts["Default"]
    elif isinstance(model, torch.nn.Module):
        model.eval()  # beside an exported file, as the host rebuilds it, it is in the mode of training
    if not hasattr(model, "forward_uncertainty"):
        raise ValueError(
            "this model file has no uncertainty: it is not of this package, or was frozen by an earlier version. Freeze the "
            "checkpoint again."
        )
    if model.get_last_layer_size() == 0:
        section = backend.get_model_def_script()
        kind = section.get("type", "this") if isinstance(section, dict) else "this"
        raise ValueError(
            f"a {kind} model does not tell the features before its last layer, so that it has no uncertainty of its own. Take "
            "a committee of several models, or a model of type mace without use_coulomb_term."
        )
    return model


def has_uncertainty(potential: Any) -> bool:
    """Whether a model knows its uncertainty.

    Parameters
    ----------
    potential : deepmd.infer.DeepPot
        Of any model.

    Returns
    -------
    bool
        False for other models than ours.
    """
    try:
        return bool(network_of(potential).has_uncertainty())
    except (ValueError, AttributeError):
        return False


def uncertainty(
    potential: Any,
    coords: np.ndarray,
    cells: np.ndarray | None,
    atom_types: np.ndarray,
    fparam: np.ndarray | None = None,
    *,
    forces: bool = False,
    gradient: bool = False,
) -> dict[str, np.ndarray]:
    """Standard deviations of energies, and of forces, for a model that knows its uncertainty (``deepmd-gnn uncertainty``).

    Parameters
    ----------
    potential : deepmd.infer.DeepPot
        Of a ``.pt``, ``.pth``, ``.pt2`` or ``.pte``. The last two are evaluated by the model that DeePMD-kit rebuilds beside them.
    coords : array_like
        Å, shape (nf, natom * 3) or (nf, natom, 3).
    cells : array_like, optional
        Å, shape (nf, 9) or (nf, 3, 3); None for free boundaries.
    atom_types : array_like
        Shape (natom,) or (nf, natom); −1 for an atom that does not count.
    fparam : array_like, optional
        Quantities of the frames that the energy depends on, shape (nf, nquantity).
    forces : bool
        Also of the forces: as many backward passes as the model has draws from its posterior, 8 by default.
    gradient : bool
        Also the derivative of the energy's standard deviation: one backward pass.

    Returns
    -------
    dict[str, numpy.ndarray]
        ``energy_std`` (nf, 1) and ``atom_energy_std`` (nf, natom, 1) in eV; with `forces` ``force_std`` (nf, natom, 1), the
        root of the mean square length of the error of an atom's force, in eV/Å; with `gradient` ``energy_std_gradient`` (nf, natom, 3) in eV/Å.

    Raises
    ------
    ValueError
        If the model does not know its uncertainty; the message says what to do.
    """
    model = network_of(potential)
    if not model.has_uncertainty():
        raise ValueError(
            "no uncertainty is stored with this model: run `deepmd-gnn uncertainty CHECKPOINT DATA`, and freeze the checkpoint again."
        )
    flags = bool(forces), bool(gradient)
    found = _by_batches(
        lambda *inputs: model.forward_uncertainty(*inputs, *flags), model, coords, cells, atom_types, fparam
    )
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def last_layer_features(
    potential: Any,
    coords: np.ndarray,
    cells: np.ndarray | None,
    atom_types: np.ndarray,
    fparam: np.ndarray | None = None,
) -> np.ndarray:
    """Derivatives of the atoms' energies by the weights of the last linear layers.

    Parameters
    ----------
    potential, coords, cells, atom_types, fparam
        As for :func:`uncertainty`.

    Returns
    -------
    numpy.ndarray
        eV, shape (nf, natom, weights).
    """
    model = network_of(potential)
    found = _by_batches(
        lambda *inputs: {"": model.forward_last_layer(*inputs)}, model, coords, cells, atom_types, fparam
    )
    return np.concatenate([part[""] for part in found])


def _by_batches(
    evaluate: Any, model: Any, coords: Any, cells: Any, atom_types: Any, fparam: Any
) -> list[dict[str, np.ndarray]]:
    device = model.out_bias.device
    types = torch.as_tensor(np.asarray(atom_types), dtype=torch.int64, device=device)
    natom = types.shape[-1]
    frames = torch.as_tensor(np.asarray(coords), dtype=torch.float64, device=device).reshape(-1, natom, 3)
    number = frames.shape[0]
    box = None
    if cells is not None:
        box = torch.as_tensor(np.asarray(cells), dtype=torch.float64, device=device).reshape(number, 9)
    values = None
    if fparam is not None:
        values = torch.as_tensor(np.asarray(fparam), dtype=torch.float64, device=device)
        values = values.reshape(-1, model.get_dim_fparam()).expand(number, -1)
    size = frames_per_batch(_MOST_FRAMES, natom)
    found = []
    for begin in range(0, number, size):
        part = slice(begin, begin + size)
        kinds = types[part] if types.ndim == 2 else types.expand(min(size, number - begin), natom)
        result = evaluate(
            frames[part], kinds, None if box is None else box[part], None if values is None else values[part]
        )
        found.append({name: value.cpu().numpy() for name, value in result.items()})
    return found
