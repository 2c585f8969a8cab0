"""Names of a model's tensors in checkpoints: the host's words for its parts, native MACE's names below them.

The host asks the names what belongs to the features (``.descriptor.``) when ``--model-branch RANDOM`` starts a new
head and when it counts parameters.
"""

from typing import Any

import torch

_NETWORK = "energy_model."
_FITTING = ("readouts.", "scale")


def stored_name(name: str) -> str:
    """Name in a checkpoint of a tensor of the model, without prefix.

    Parameters
    ----------
    name : str
        E.g. ``energy_model.readouts.0.linear.weight``.

    Returns
    -------
    str
        E.g. ``fitting_net.readouts.0.linear.weight``.
    """
    if not name.startswith(_NETWORK):
        return name
    inner = name.removeprefix(_NETWORK)
    return ("fitting_net." if inner.startswith(_FITTING) else "descriptor.") + inner


def model_name(name: str) -> str:
    """Inverse of :func:`stored_name`; names of the model itself, as in TorchScript files, stay."""
    for part in ("descriptor.", "fitting_net."):
        if name.startswith(part):
            return _NETWORK + name.removeprefix(part)
    return name


def _rename_stored(
    module: torch.nn.Module,  # noqa: ARG001 - torch's signature
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],  # noqa: ARG001
) -> None:
    for key in [key for key in state_dict if key.startswith(prefix + _NETWORK)]:
        state_dict[prefix + stored_name(key.removeprefix(prefix))] = state_dict.pop(key)


class StoredNames(torch.nn.Module):
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that renames in ``state_dict`` and ``load_state_dict``."""

    counted: dict[str, list[float]]

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_rename_stored)  # type: ignore[no-untyped-call]

    # A hook would be lost in TorchScript, into which the host's Python interface loads checkpoints without asking
    # whether all names fit; methods that are not compiled stay.
    @torch.jit.unused
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if "counted" in self.__dict__:
            # The statistics come with the weights now: they are not to be merged with those of another task.
            self.counted = {}
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = model_name(key.removeprefix(prefix))
            if prefix + name != key:
                state_dict[prefix + name] = state_dict.pop(key)
        torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *others)
