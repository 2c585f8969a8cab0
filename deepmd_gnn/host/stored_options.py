"""What a model's options were when its weights were saved, kept beside them, so that another input is noticed.

The host loads only tensors into a model built from the input. Options that are in no shape (a non-linearity, the order
of elements) would go unnoticed, and constants of the checkpoint (the cutoff of the radial basis) replace the input's. The
options are therefore a tensor, too: JSON in bytes, one for each part that the host takes or leaves as a whole.
"""

import json
import logging
from typing import Any, NamedTuple

import torch

from deepmd_gnn.config.checks import is_unbounded
from deepmd_gnn.config.described import OPTION_TENSORS, STATISTICS
from deepmd_gnn.config.mace import MaceConfig, spelling_hint
from deepmd_gnn.config.networks import config_class
from deepmd_gnn.config.sections import is_default

log = logging.getLogger("deepmd.deepmd_gnn")

TYPES = ("type_map", "pair_exclude_types", "atom_exclude_types")
# Constants that say what an older file's options were: name in the model, option, relative tolerance. A file made from a
# native float32 model has its cutoff in that precision.
_CONSTANTS = (
    ("energy_model.radial_embedding.cutoff_fn.r_max", "r_max", 1e-6),
    ("energy_model.radial_embedding.cutoff_fn.p", "num_cutoff_basis", 0.0),
)


class Difference(NamedTuple):
    """An option with two values."""

    name: str
    stored: Any
    """Where the weights were saved."""
    given: Any
    """In the model section."""


def pack(options: dict[str, Any]) -> torch.Tensor:
    """Options as a tensor of bytes, uint8, shape (nbyte,), the same for equal options; tuples become lists."""
    return torch.tensor(list(json.dumps(options, sort_keys=True).encode()), dtype=torch.uint8, device="cpu")


def unpack(tensor: torch.Tensor) -> dict[str, Any]:
    """Inverse of :func:`pack`."""
    return dict(json.loads(bytes(tensor.tolist())))


def compare_options(given: dict[str, torch.Tensor], stored: dict[str, torch.Tensor]) -> list[int] | None:
    """Compare the model that weights are loaded into with the one they were saved from.

    Parameters
    ----------
    given, stored : dict[str, torch.Tensor]
        Tensors of any shape by name, of the model and of the file.

    Returns
    -------
    list[int], optional
        If the elements have another order: place in the file of each type of the model.

    Raises
    ------
    ValueError
        If they are different models; the message names each option with both values.
    """
    parts = [name for name in OPTION_TENSORS if name in stored and name in given]
    found = [d for name in parts for d in _differences(unpack(given[name]), unpack(stored[name]))]
    found += [d for d in _constants(given, stored) if d.name not in {known.name for known in found}]
    kind = _kind(given)
    _refuse([d for d in found if d.name not in (*TYPES, *STATISTICS)], kind)
    for difference in found:
        _report(difference)
    if "network_options" in parts:
        return _order(*(unpack(tensors["network_options"])["type_map"] for tensors in (given, stored)))
    _check_older(given, stored)
    return None


def _differences(given: dict[str, Any], stored: dict[str, Any]) -> list[Difference]:
    return [
        Difference(key, stored[key], value)
        for key, value in given.items()
        if key in stored and stored[key] != value and key != "type_map"
    ]


def _constants(given: dict[str, torch.Tensor], stored: dict[str, torch.Tensor]) -> list[Difference]:
    found = []
    for name, option, tolerance in _CONSTANTS:
        if name in given and name in stored:
            ours, theirs = float(given[name]), float(stored[name])
            if abs(ours - theirs) > tolerance * abs(ours):
                found.append(Difference(option, theirs, ours))
    return found


def _kind(given: dict[str, torch.Tensor]) -> str:
    """Type of a model; MACE does not say it."""
    options = unpack(given["network_options"]) if "network_options" in given else {}
    return str(options.get("type", MaceConfig.kind))


def _refuse(found: list[Difference], kind: str) -> None:
    if not found:
        return
    values = "; ".join(
        f"'{d.name}' is {d.stored!r} in the file and {d.given!r}{_origin(d, kind)} in the model section"
        for d in found
    )
    raise ValueError(
        f"{kind} model: the file's weights belong to another model: {values}. Write the file's values into the model "
        f"section, or train a new model without the file.{''.join(spelling_hint(d.name) for d in found if kind == MaceConfig.kind)}"
    )


def _origin(difference: Difference, kind: str) -> str:
    """Mark a value that the user need not have written."""
    return " (the default)" if is_default(difference.name, difference.given, config_class(kind)) else ""


def _report(difference: Difference) -> None:
    """Say which of two values is used, where either may be."""
    name, stored, given = difference
    if name in TYPES:
        log.warning(
            "MACE %s: %s as in the model section; in the file of the weights %s.", name, given, stored
        )
    elif given != "auto":
        log.warning(
            "MACE %s: the value of the file stays, as it belongs to the weights; %s of the model section is not used (the "
            "file's training had %s).",
            name, given, stored,
        )  # fmt: skip


def _order(given: list[str], stored: list[str]) -> list[int] | None:
    if given == stored:
        return None
    if sorted(given) != sorted(stored):
        raise ValueError(
            f"mace model: the file's weights are for type_map {stored}, but the model section has {given}. Only the order "
            "may differ; for other elements use --finetune."
        )
    log.warning(
        "MACE type_map: weights and E0 are put from the file's order %s into %s.",
        stored, given,
    )  # fmt: skip
    return [stored.index(name) for name in given]


def _check_older(given: dict[str, torch.Tensor], stored: dict[str, torch.Tensor]) -> None:
    """Compare the elements of a file without options by atomic number, and say what its version had as default."""
    name = "energy_model.atomic_numbers"
    if name not in given or name not in stored:
        return
    ours, theirs = given[name].tolist(), stored[name].tolist()
    if ours != theirs:
        raise ValueError(
            f"mace model: the file's weights are for atomic numbers {theirs}, but type_map has {ours}. Write the type_map "
            "in the file's order, or use --finetune, which takes other orders and elements."
        )
    options = unpack(given["network_options"])
    kinds = options.get("interaction_first"), options.get("interaction")
    if options.get("apply_cutoff") is False and is_unbounded(kinds):
        log.warning(
            "MACE apply_cutoff: false as in the model section; the file does not say what it was trained with. If its "
            "input did not have this key it was true."
        )
