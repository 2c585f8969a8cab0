"""Which elements the training data had: part of the model, so that it survives restarts and freezes.

The host keeps the list in the checkpoint's copy of the input, and forgets it when a training is continued.
"""

from typing import Any

import torch

from deepmd_gnn.host.classes import is_ours

UNKNOWN = -1


def unknown_types(ntypes: int) -> torch.Tensor:
    """Make the record of a model that has seen no data, int64, shape (ntypes,)."""
    return torch.full((ntypes,), UNKNOWN, dtype=torch.int64, device="cpu")


def observed_record(names: list[str], type_map: list[str]) -> torch.Tensor:
    """Make the record of some elements: 1 for those in `names`, else 0, int64, shape (ntypes,)."""
    return torch.tensor([int(name in names) for name in type_map], dtype=torch.int64, device="cpu")


def observed_names(record: torch.Tensor, type_map: list[str]) -> list[str] | None:
    """Elements of a record, shape (ntypes,), in the order of `type_map`; None if unknown."""
    flags = record.tolist()
    if UNKNOWN in flags:
        return None
    return [name for name, flag in zip(type_map, flags, strict=True) if flag]


def note_in_checkpoint(state_dict: dict[str, Any], prefix: str, observed: list[str] | None) -> None:
    """Write observed elements to where the host's ``show`` looks for them: ``info`` in the copy of the input.

    Parameters
    ----------
    state_dict : dict
        Of the host's wrapper, ``_extra_state`` included; changed.
    prefix : str
        Of the model in it, ``…model.BRANCH.``.
    observed : list[str], optional
        The elements; None leaves it as it is.
    """
    root, _, branch = prefix.removesuffix(".").rpartition("model.")
    extra = state_dict.get(f"{root}_extra_state")
    if observed is None or not isinstance(extra, dict):
        return
    section = extra.get("model_params", {})
    section = section.get("model_dict", {}).get(branch, {}) if "model_dict" in section else section
    if is_ours(section):
        section.setdefault("info", {})["observed_type"] = observed
