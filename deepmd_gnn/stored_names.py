"""Renames a model's tensors on the way to and from checkpoints, see :mod:`~deepmd_gnn.checkpoint_names`."""

from typing import Any

import torch

from deepmd_gnn.checkpoint_files import improve_trainers
from deepmd_gnn.checkpoint_names import NETWORK, model_name, stored_name
from deepmd_gnn.observed_types import note_in_checkpoint


def _rename_stored(
    module: Any,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],  # noqa: ARG001
) -> None:
    for key in [key for key in state_dict if key.startswith(prefix + NETWORK)]:
        state_dict[prefix + stored_name(key.removeprefix(prefix))] = state_dict.pop(key)
    note_in_checkpoint(state_dict, prefix, module.observed_type)


class StoredNames(torch.nn.Module):
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that renames in ``state_dict`` and ``load_state_dict``."""

    counted: dict[str, list[float]]
    observed: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_rename_stored)  # type: ignore[no-untyped-call]
        improve_trainers()

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
        # Files of 1.0.0.dev0 do not have it.
        state_dict.setdefault(f"{prefix}observed", self.observed)
        torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *others)
