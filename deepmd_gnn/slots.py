"""Edges of a compiled graph grouped by receiver: every receiver has as many places, some of which stay empty."""

from typing import Any, NamedTuple

import torch

from deepmd_gnn.graph import AtomGraph


class Slots(NamedTuple):
    """Where each edge goes, and where each place takes its edge from."""

    edge: torch.Tensor
    """Edge of each place, −1 where it stays empty, int64, shape (nnode * largest number of edges,)."""
    place: torch.Tensor
    """Place of each edge, −1 for edges that arrive at no atom, int64, shape (nedge,)."""


def edge_slots(graph: AtomGraph) -> Slots:
    """Find the places of the edges of a compiled graph.

    Parameters
    ----------
    graph : AtomGraph
        With `incoming`, `order` and `begin`.

    Returns
    -------
    Slots
    """
    incoming, order, begin = graph.incoming, graph.order, graph.begin
    assert incoming is not None
    assert order is not None
    assert begin is not None
    receiver = graph.edge_index[1]
    nedge = receiver.shape[0]
    position = torch.arange(order.shape[0], device=order.device)
    # Behind the last list the host may write anything. The guard, row 0, has no list; edges that arrive at atoms of
    # other ranks were given to it.
    listed = position < begin[-1]
    row = receiver[torch.where(listed, order, 0)]
    listed = listed & (row > 0)
    place = row * incoming.shape[0] + position - begin[row]
    places = torch.full_like(receiver, -1, memory_format=torch.contiguous_format)
    places = torch.cat([places, places[:1]]).scatter(0, torch.where(listed, order, nedge), place)
    return Slots(incoming.transpose(0, 1).reshape(-1), places[:nedge])


@torch.jit.unused
def in_slots(values: torch.Tensor, slots: Slots) -> torch.Tensor:
    """Put the values of the edges into their places, shape (nedge, …) → (nslot, …); zero where a place is empty."""
    return _Gather.apply(values, slots.edge, slots.place)


class _Gather(torch.autograd.Function):
    """Reads rows; so does its derivative, because every row is read at most once: no atomic additions."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index, inverse)
        listed = index.view(-1, *[1] * (values.dim() - 1)) >= 0
        return torch.where(listed, values[index.clamp(min=0)], 0.0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        index, inverse = ctx.saved_tensors
        return _Gather.apply(gradient, inverse, index), None, None
