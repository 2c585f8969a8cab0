"""Other elements for a trained network: drop, add and reorder what depends on the type."""

from typing import cast

import torch

from deepmd_gnn.nn.network import EnergyNetwork


def copy_elements(old: EnergyNetwork, new: EnergyNetwork, kept: list[tuple[int, int]]) -> None:
    """Copy a network into one with another type map.

    Weights and constants that every element shares are copied; of those that belong to an element, the elements in
    both maps are.
    e3nn divides by the square root of the number of elements, so these weights are rescaled: the numbers a model
    gives for atoms of the kept elements do not change.

    Parameters
    ----------
    old, new : EnergyNetwork
        Networks of the same architecture.
    kept : list[tuple[int, int]]
        Index in the old and in the new type map of each element in both.
    """
    source, target = torch.tensor(kept, dtype=torch.int64, device="cpu").reshape(-1, 2).unbind(dim=1)
    gain = (new.ntypes / old.ntypes) ** 0.5
    axes = new.element_axes()
    state = old.state_dict()
    with torch.no_grad():
        for name, value in new.state_dict().items():
            if name == "atomic_numbers":
                continue
            if name not in axes:
                value.copy_(state[name])
                continue
            inputs, rescaled = axes[name]
            pairs = zip(
                _blocks(inputs, old.ntypes, state[name]), _blocks(inputs, new.ntypes, value), strict=True
            )
            for theirs, ours in pairs:
                rows = theirs.index_select(1, source.to(theirs.device)).to(ours.device)
                ours.index_copy_(1, target.to(ours.device), rows * (gain if rescaled else 1.0))


def reorder_elements(
    tensors: dict[str, torch.Tensor], model: torch.nn.Module, order: list[int]
) -> dict[str, torch.Tensor]:
    """Put the tensors of a model with the same elements in another order into this order.

    Parameters
    ----------
    tensors : dict[str, torch.Tensor]
        Of any shape by name, as in :meth:`~deepmd_gnn.mace.MaceModel.state_dict` before its names are those of
        checkpoints.
    model : torch.nn.Module
        A model with the new order.
    order : list[int]
        Old place of each element.

    Returns
    -------
    dict[str, torch.Tensor]
        Those that have an axis of elements, reordered copies.
    """
    network = cast("EnergyNetwork", model.energy_model)
    axes: dict[str, int | list[tuple[int, int]]] = {
        f"energy_model.{name}": inputs for name, (inputs, _) in network.element_axes().items()
    }
    axes |= {"energy_model.atomic_numbers": 1, "out_bias": 1, "out_std": 1, "observed": 1}
    return {
        name: torch.cat(
            [block[:, order].flatten() for block in _blocks(inputs, len(order), tensors[name])]
        ).view_as(tensors[name])
        for name, inputs in axes.items()
        if name in tensors
    }


def _blocks(inputs: int | list[tuple[int, int]], ntypes: int, value: torch.Tensor) -> list[torch.Tensor]:
    """Views of the blocks of a weight, each of shape (·, ntypes, ·)."""
    if isinstance(inputs, int):
        return [value.view(inputs, ntypes, -1)]
    flat = value.view(-1)
    sizes = [before * ntypes * after for before, after in inputs]
    return [
        part.view(before, ntypes, after)
        for part, (before, after) in zip(flat.split(sizes), inputs, strict=True)
    ]
