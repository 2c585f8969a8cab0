"""Other elements for a trained network: drop, add and reorder what depends on the type."""

from typing import cast

import torch

from deepmd_gnn.nn.energy import MaceEnergy
from deepmd_gnn.nn.linear import Linear


def copy_elements(old: MaceEnergy, new: MaceEnergy, kept: list[tuple[int, int]]) -> None:
    """Copy a network into one with another type map.

    Weights and constants that every element shares are copied; of those that belong to an element, the elements in
    both maps are.
    e3nn divides by the square root of the number of elements, so these weights are rescaled: the numbers a model
    gives for atoms of the kept elements do not change.

    Parameters
    ----------
    old, new : MaceEnergy
        Networks of the same architecture.
    kept : list[tuple[int, int]]
        Index in the old and in the new type map of each element in both.
    """
    source, target = torch.tensor(kept, dtype=torch.int64, device="cpu").reshape(-1, 2).unbind(dim=1)
    gain = (new.ntypes / old.ntypes) ** 0.5
    axes = _element_axes(new)
    state = old.state_dict()
    with torch.no_grad():
        for name, value in new.state_dict().items():
            if name == "atomic_numbers":
                continue
            if name not in axes:
                value.copy_(state[name])
                continue
            inputs, rescaled = axes[name]
            theirs = state[name].view(_blocks(inputs, old.ntypes, state[name]))
            ours = value.view(_blocks(inputs, new.ntypes, value))
            rows = theirs.index_select(1, source.to(theirs.device)).to(ours.device)
            ours.index_copy_(1, target.to(ours.device), rows * (gain if rescaled else 1.0))


def reorder_elements(
    tensors: dict[str, torch.Tensor], model: torch.nn.Module, order: list[int]
) -> dict[str, torch.Tensor]:
    """Put the tensors of a model with the same elements in another order into this order.

    Parameters
    ----------
    tensors : dict[str, torch.Tensor]
        By name, as in :meth:`~deepmd_gnn.mace.MaceModel.state_dict` before its names are those of checkpoints.
    model : torch.nn.Module
        A model with the new order.
    order : list[int]
        Old place of each element.

    Returns
    -------
    dict[str, torch.Tensor]
        Those that have an axis of elements, reordered copies.
    """
    network = cast("MaceEnergy", model.energy_model)
    axes = {f"energy_model.{name}": inputs for name, (inputs, _) in _element_axes(network).items()}
    axes |= {"energy_model.atomic_numbers": 1, "out_bias": 1, "out_std": 1, "observed": 1}
    return {
        name: tensors[name].view(_blocks(inputs, len(order), tensors[name]))[:, order].view_as(tensors[name])
        for name, inputs in axes.items()
        if name in tensors
    }


def _blocks(inputs: int, ntypes: int, value: torch.Tensor) -> tuple[int, int, int]:
    return (inputs, ntypes, value.numel() // (inputs * ntypes))


def _element_axes(network: MaceEnergy) -> dict[str, tuple[int, bool]]:
    """Name → (values before the axis of elements, whether e3nn normalises by the number of elements)."""
    axes = {"node_embedding.linear.weight": (1, True)}
    for name, module in network.named_modules():
        if isinstance(module, Linear) and module.ntypes > 0:
            # Blocks of shape (inputs, elements, outputs) one after the other, all with the same inputs.
            axes[f"{name}.weight"] = (sum(path[4] for path in module.paths), True)
    agnostic = any(product.agnostic for product in network.products)
    for name, _ in network.named_parameters():
        if name.endswith(("source_embedding.weight", "target_embedding.weight")):
            axes[name] = (1, True)
        elif ".symmetric_contractions." in name and not agnostic:
            axes[name] = (1, False)
    return axes
