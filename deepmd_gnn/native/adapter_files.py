"""Files with the adapters of a training only, which make its model together with the foundation that they were trained on.

A checkpoint has whole weights, so that every reader has the trained model; of many fine-tunings of one foundation these files keep
what differs: two narrow matrices for each weight, E0, and the options.
"""

import json
from pathlib import Path
from typing import Any

import torch
from deepmd.pt.model.model import get_model

from deepmd_gnn.files.tensor_names import NETWORK
from deepmd_gnn.files.weight_checksum import weight_checksum
from deepmd_gnn.files.whole_file import refuse_existing, whole_file
from deepmd_gnn.mace import MaceModel
from deepmd_gnn.native.conversion import model_section, save_checkpoint
from deepmd_gnn.native.fine_tuned import load_foundation
from deepmd_gnn.native.writer import load_checkpoint

_MARK = "deepmd_gnn_adapters"
_VERSION = 1
# Of one model, and not of its foundation.
_OWN = ("out_bias", "out_std", "observed")


def take_out(checkpoint: Path, output: Path, branch: str | None = None) -> None:
    """Write the adapters of a training.

    Parameters
    ----------
    checkpoint : Path
        Of a training with adapters.
    output : Path
        Ends in ``.pt``; must not exist.
    branch : str, optional
        Of a multi-task checkpoint.

    Raises
    ------
    ValueError
        If it has none, or none that were trained.
    """
    refuse_existing(output)
    model = load_checkpoint(checkpoint, branch)
    adapters = model.adapters
    if adapters is None or adapters.is_new():
        raise ValueError(
            f"{checkpoint}: has no adapters (lora). Take a checkpoint that a training with them has written (model.ckpt.pt, not "
            "finetuned.pt, whose weights are whole)."
        )
    weights: dict[str, torch.Tensor] = dict(model.energy_model.named_parameters())
    for name, key in adapters.named():
        weights[name] = getattr(adapters.base, key)
    tensors = {name: value for name, value in adapters.state_dict().items() if not name.startswith("base.")}
    content = {
        _MARK: _VERSION,
        "section": json.dumps(model_section(model)),
        "foundation": _checksum(weights),
        "adapters": tensors,
        "own": {name: getattr(model, name).detach().clone() for name in _OWN},
    }
    with whole_file(output) as unfinished:
        torch.save(content, unfinished)


def put_on(path: Path, foundation: str | Path, output: Path, head: str | None = None) -> None:
    """Make the model of adapters and their foundation, with whole weights.

    Parameters
    ----------
    path : Path
        From :func:`take_out`.
    foundation : str or Path
        Checkpoint or native ``.model`` that the training began with.
    output : Path
        Checkpoint; must not exist.
    head : str, optional
        Of the foundation.

    Raises
    ------
    ValueError
        If the file has no adapters, or these are of another foundation.
    """
    refuse_existing(output)
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get(_MARK) != _VERSION:
        raise ValueError(
            f"{path}: is no file of adapters that this version knows; `deepmd-gnn adapters` writes them."
        )
    section = json.loads(content["section"])
    whole, _ = load_foundation(foundation, head, section["type_map"])
    weights: dict[str, torch.Tensor] = dict(whole.energy_model.named_parameters())
    if _checksum(weights) != content["foundation"]:
        raise ValueError(
            f"{path}: was trained on other weights than those of {foundation}. Give the foundation, and its head, that the training began with."
        )
    model: Any = get_model(section)
    _fill(model, weights, content)
    # By way of the portable form, which has whole weights and no adapters.
    result = MaceModel.deserialize({**model.serialize(), **model_section(model), "adapters": None})
    save_checkpoint(result.eval(), output)


def _fill(model: MaceModel, weights: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    adapters = model.adapters
    assert adapters is not None
    with torch.no_grad():
        for name, weight in model.energy_model.named_parameters():
            weight.copy_(weights[name])
        for name, key in adapters.named():
            getattr(adapters.base, key).copy_(weights[name])
        for name, value in adapters.state_dict(keep_vars=True).items():
            if not name.startswith("base."):
                value.copy_(content["adapters"][name])
        for name, value in content["own"].items():
            getattr(model, name).copy_(value)
    adapters.has_weights = True
    model.eval()  # merges


def _checksum(weights: dict[str, torch.Tensor]) -> str:
    return weight_checksum({f"{NETWORK}{name}": value for name, value in weights.items()})
