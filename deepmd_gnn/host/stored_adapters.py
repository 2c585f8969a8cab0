"""Adapters of low rank in checkpoints: beside whole weights, so that every reader has the trained model.

Under a weight's own name stands what the model was trained to have; what it was without adapters, and these, are there for a
restart. Frozen files, ``--finetune`` and older versions see whole weights only.
"""

import logging
from typing import Any

import torch

from deepmd_gnn.files.tensor_names import NETWORK
from deepmd_gnn.nn.adapters import key_of

log = logging.getLogger("deepmd.deepmd_gnn")
PREFIX = "adapters."


def merge_stored(model: Any, state_dict: dict[str, Any], prefix: str) -> None:
    """Before tensors are saved: the weights are those that were trained; adapters that were not are left out.

    Parameters
    ----------
    model : GraphModel
        Also scripted, and then without adapters.
    state_dict : dict[str, Any]
        Tensors under the model's own names; changed.
    prefix : str
        Of these names.
    """
    adapters = getattr(model, "adapters", None)
    if adapters is None:
        return
    if adapters.is_new():
        _drop(state_dict, prefix)
        return
    with torch.no_grad():
        state_dict.update({f"{prefix}{NETWORK}{name}": weight for name, weight in adapters.weights().items()})


def fit_adapters(model: Any, state_dict: dict[str, Any], prefix: str) -> None:
    """Before tensors are loaded: go on with adapters of the file, or begin new ones with its weights.

    Parameters
    ----------
    model : GraphModel
        Also scripted, and then without adapters.
    state_dict : dict[str, Any]
        Tensors under the model's own names, as they stand in the file; changed.
    prefix : str
        Of these names.
    """
    adapters = getattr(model, "adapters", None)
    given = {k.removeprefix(prefix) for k in state_dict if k.startswith(f"{prefix}{PREFIX}")}
    if adapters is None:
        if given:
            log.info(
                "mace model: adapters (lora) of the file are part of its weights; they are not trained apart."
            )
        _drop(state_dict, prefix)
        return
    adapters.has_weights = True
    own = {f"{PREFIX}{name}": value for name, value in adapters.state_dict().items()}
    stored = {name: state_dict[prefix + name] for name in given}
    same = given == set(own) and all(stored[name].shape == value.shape for name, value in own.items())
    if same and _belong(adapters, stored, state_dict, f"{prefix}{NETWORK}"):
        return
    if same:
        log.info(
            "mace model: the weights of the file are others than its adapters (lora) make; new ones begin with these weights."
        )
    elif given:
        log.info(
            "mace model: the file has adapters (lora) of another rank or of other parts; they are merged, and new ones begin."
        )
    _drop(state_dict, prefix)
    for name in adapters.blocks:
        key = key_of(name)
        state_dict[f"{prefix}{PREFIX}left.{key}"] = adapters.left[key].detach()
        state_dict[f"{prefix}{PREFIX}right.{key}"] = torch.zeros_like(adapters.right[key])
        weight = state_dict.get(f"{prefix}{NETWORK}{name}")
        # A file without this weight is refused, and named, later.
        state_dict[f"{prefix}{PREFIX}base.{key}"] = own[f"{PREFIX}base.{key}"] if weight is None else weight


def _belong(adapters: Any, stored: dict[str, Any], state_dict: dict[str, Any], prefix: str) -> bool:
    """Whether the weights of a file are those that its adapters make; another program may have changed them."""
    made = adapters.weights_with({name.removeprefix(PREFIX): value for name, value in stored.items()})
    for name, weight in made.items():
        given = state_dict.get(prefix + name)
        # Sums of products have another order on another machine.
        tolerance = 1e-4 if weight.dtype == torch.float32 else 1e-10
        if given is None or not torch.allclose(weight.to(given), given, rtol=tolerance, atol=tolerance):
            return False
    return True


def _drop(state_dict: dict[str, Any], prefix: str) -> None:
    for name in [name for name in state_dict if name.startswith(f"{prefix}{PREFIX}")]:
        del state_dict[name]
