"""Renames a model's tensors on the way to and from checkpoints, see :mod:`~deepmd_gnn.files.tensor_names`, and compares."""

from typing import TYPE_CHECKING, Any

import torch
from deepmd.pt.model.model.model import BaseModel

from deepmd_gnn.config.described import OPTION_TENSORS
from deepmd_gnn.files.tensor_names import model_name, stored_name
from deepmd_gnn.host.observed_types import note_in_checkpoint
from deepmd_gnn.host.stored_adapters import fit_adapters, merge_stored
from deepmd_gnn.host.stored_options import compare_options
from deepmd_gnn.host.stored_uncertainty import fit_uncertainty, leave_out_unknown
from deepmd_gnn.nn.elements import reorder_elements


def _rename_stored(
    module: Any,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],  # noqa: ARG001
) -> None:
    merge_stored(module, state_dict, prefix)
    leave_out_unknown(state_dict, prefix)
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = stored_name(key.removeprefix(prefix))
        if prefix + name != key:
            state_dict[prefix + name] = state_dict.pop(key)
    note_in_checkpoint(state_dict, prefix, module.observed_type)


class StoredModel(BaseModel):
    """A model of the host whose ``state_dict`` and ``load_state_dict`` rename and compare."""

    if TYPE_CHECKING:
        counted: dict[str, list[float]]
        observed: torch.Tensor
        """Elements seen in the training data, see :mod:`~deepmd_gnn.host.observed_types`."""

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
        fit_uncertainty(self, state_dict, prefix)
        fit_adapters(self, state_dict, prefix)
        fit_stored(self, state_dict, prefix)
        # Files of 1.0.0.dev0 do not have it.
        state_dict.setdefault(f"{prefix}observed", self.observed)
        # Constants are computed, not stored, but TorchScript asks for them, and the host tells users that weights are missing.
        for name, value in self.named_buffers():
            if name.endswith(".value"):
                state_dict.setdefault(prefix + name, value)
        torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *others)


def fit_stored(model: torch.nn.Module, state_dict: dict[str, Any], prefix: str) -> None:
    """Compare weights of a file with the model they are loaded into, and put its elements into the model's order.

    Parameters
    ----------
    model : torch.nn.Module
        The model, also scripted.
    state_dict : dict[str, Any]
        Tensors of the file under the model's own names; changed.
    prefix : str
        Of these names.

    Raises
    ------
    ValueError
        If they belong to another model.
    """
    given = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    stored = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    order = compare_options(given, stored)
    missing = [name for name, _ in model.named_parameters() if name not in stored]
    if missing:
        # The host starts from frozen files without asking whether they have all weights; the rest would be random.
        raise ValueError(
            f"mace model: the file lacks {len(missing)} weights of this model, {', '.join(missing[:3])} for example; it is of "
            "another model. Start from a file with the same options, or train a new model without it."
        )
    if order is not None:
        stored = reorder_elements(stored, model, order)
        state_dict.update({prefix + name: value for name, value in stored.items()})
    # What they say is the same by now, and older files do not have them.
    state_dict.update({prefix + name: given[name] for name in OPTION_TENSORS})
