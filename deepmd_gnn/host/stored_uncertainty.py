"""The posterior of the last layer in checkpoints: only beside the weights that it was made for.

A training changes weights, and what was accumulated with the old features says nothing about new ones. So the posterior
carries a checksum of the weights, and is left out, with a line in the log, where it does not fit: when a model is loaded and when it is
saved. A model without it has no tensors of it in its checkpoint.
"""

import json
import logging
from typing import Any

import torch

from deepmd_gnn.files.weight_checksum import weight_checksum
from deepmd_gnn.nn.uncertainty import TENSORS

log = logging.getLogger("deepmd.deepmd_gnn")
_PREFIX = "uncertainty."
_AGAIN = "Run `deepmd-gnn uncertainty` again with the checkpoint that is to be used."


def forget_uncertainty(model: Any, reason: str) -> None:
    """Drop the posterior of a model, if it has one, and say why.

    Parameters
    ----------
    model : GraphModel
        Also scripted.
    reason : str
        For the log.
    """
    known = model.uncertainty.factor
    if known.numel() > 0:
        log.warning("mace model: the uncertainty of the model is dropped: %s. %s", reason, _AGAIN)
        _resize(model, {name: empty(name, known) for name in TENSORS})


def empty(name: str, like: torch.Tensor) -> torch.Tensor:
    """A tensor of the posterior as in a model that has none, of shape (), (0,) or (0, 0)."""
    if name == "force_scale":
        return torch.ones((), dtype=torch.float64, device=like.device)
    if name == "description":
        return torch.zeros(0, dtype=torch.int32, device=like.device)
    return torch.zeros(0, 0, dtype=torch.float64, device=like.device)


def _resize(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    for name, value in tensors.items():
        if getattr(model.uncertainty, name).shape != value.shape or value.numel() == 0:
            setattr(model.uncertainty, name, value)


def fit_uncertainty(model: Any, state_dict: dict[str, Any], prefix: str) -> None:
    """Before tensors are loaded: make room for the posterior in them, or forget the model's own.

    Parameters
    ----------
    model : GraphModel
        Also scripted.
    state_dict : dict[str, Any]
        Tensors under the model's own names, as they stand in the file; changed.
    prefix : str
        Of these names.
    """
    names = {name: f"{prefix}{_PREFIX}{name}" for name in TENSORS}
    here = model.uncertainty.factor
    given = {name: state_dict[key] for name, key in names.items() if key in state_dict}
    if len(given) == len(names) and given["factor"].numel() > 0:
        stored = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        if _fits(stored):
            _resize(
                model, {name: torch.empty_like(value, device=here.device) for name, value in given.items()}
            )
            return
        log.warning(
            "mace model: the file has an uncertainty of other weights than its own, which is left out. %s",
            _AGAIN,
        )
    nothing = {name: empty(name, here) for name in TENSORS}
    _resize(model, nothing)
    state_dict.update({names[name]: value for name, value in nothing.items()})


def leave_out_unknown(state_dict: dict[str, Any], prefix: str) -> None:
    """Before tensors are saved: leave the posterior out if there is none, or if it is not of these weights.

    Parameters
    ----------
    state_dict : dict[str, Any]
        Tensors under the model's own names; changed.
    prefix : str
        Of these names.
    """
    factor = state_dict.get(f"{prefix}{_PREFIX}factor")
    if factor is None:
        return
    stored = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    if factor.numel() > 0:
        if _fits(stored):
            return
        log.warning(
            "mace model: the weights have changed since the uncertainty was made, so it is not saved with them. %s",
            _AGAIN,
        )
    for name in TENSORS:
        state_dict.pop(f"{prefix}{_PREFIX}{name}", None)


def _fits(tensors: dict[str, torch.Tensor]) -> bool:
    """Whether the posterior is of the weights beside it."""
    try:
        description = json.loads(bytes(tensors[f"{_PREFIX}description"].tolist()))
    except (ValueError, UnicodeDecodeError):
        return False
    return isinstance(description, dict) and description.get("weights") == weight_checksum(tensors)
