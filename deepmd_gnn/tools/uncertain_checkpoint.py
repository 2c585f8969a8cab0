"""A posterior of the last layer beside the weights of a checkpoint, or as members of a committee in checkpoints of their own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepmd_gnn.files.tensor_names import stored_name
from deepmd_gnn.files.weight_checksum import weight_checksum
from deepmd_gnn.files.whole_file import whole_file
from deepmd_gnn.tools.posterior import Posterior

_PREFIX = "uncertainty."


def store(source: Path, output: Path, head: str | None, posterior: Posterior) -> None:
    """Write a checkpoint once more, with a posterior; everything else stays, the optimiser's state included.

    Parameters
    ----------
    source, output : Path
        Checkpoints, perhaps the same.
    head : str, optional
        Branch of a multi-task checkpoint.
    posterior : Posterior
        Made with the weights of `source`.
    """
    content = torch.load(source, map_location="cpu", weights_only=True)
    state = content.get("model", content)
    prefix = _prefix(state, head)
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    description = {**posterior.description, "weights": weight_checksum(own)}
    tensors = {
        "factor": torch.as_tensor(posterior.factor, dtype=torch.float64),
        "members": torch.as_tensor(posterior.members, dtype=torch.float64),
        "force_scale": torch.tensor(posterior.force_scale, dtype=torch.float64),
        "description": torch.tensor(list(json.dumps(description).encode()), dtype=torch.int32),
    }
    state.update({f"{prefix}{_PREFIX}{name}": value for name, value in tensors.items()})
    _write(content, output)


def write_members(
    source: Path, folder: Path, head: str | None, posterior: Posterior, names: list[str]
) -> list[Path]:
    """Write checkpoints whose last layers are draws from the posterior: a committee without further trainings.

    Parameters
    ----------
    source : Path
        Checkpoint whose other weights they have.
    folder : Path
        Where they are written, as ``member_1.pt`` and so on; made if it is not there.
    head : str, optional
        Branch of a multi-task checkpoint.
    posterior : Posterior
        With as many draws as there shall be members.
    names : list[str]
        Of the weights of the last layer, in the network.

    Returns
    -------
    list[Path]
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = torch.load(source, map_location="cpu", weights_only=True)
    state = content.get("model", content)
    prefix = _prefix(state, head)
    for key in [key for key in state if key.startswith(f"{prefix}{_PREFIX}")]:
        del state[key]  # of other weights
    if "model" in content:
        content["optimizer"] = None
    before = dict(state)
    written = []
    for number, change in enumerate(posterior.members, start=1):
        begin = 0
        for name in names:
            key = prefix + stored_name(f"energy_model.{name}")
            key = key if key in state else f"{prefix}energy_model.{name}"
            weight = before[key]
            part = np.asarray(change[begin : begin + weight.numel()])
            begin += weight.numel()
            changed = weight.to(torch.float64) + torch.as_tensor(part).view_as(weight)
            state[key] = changed.to(weight.dtype)
        written.append(folder / f"member_{number}.pt")
        _write(content, written[-1])
    return written


def _prefix(state: dict[str, Any], head: str | None) -> str:
    """Beginning of the names of one model's tensors; a compiled training has one word more."""
    prefix = f"model.{head or 'Default'}."
    compiled = f"{prefix}original_model."
    return compiled if any(key.startswith(compiled) for key in state) else prefix


def _write(content: dict[str, Any], output: Path) -> None:
    with whole_file(output) as unfinished:
        torch.save(content, unfinished)
