"""Edges of a compiled graph without kernels: every receiver has as many places, some of which stay empty."""

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_sums import spaced


def in_slots(graph: AtomGraph) -> AtomGraph:
    """Arrange the edges by receiver, all receivers with the largest number of edges of one.

    This is :func:`~deepmd_gnn.graph.arrangement.in_chunks` with a single chunk: the number of chunks would depend on the data, and
    could not be traced. An empty place holds the guard's edge, which brings nothing to any atom.

    Parameters
    ----------
    graph : AtomGraph
        With `incoming`, `outgoing`, `order` and `begin`; the guard's edge first.

    Returns
    -------
    AtomGraph
        The same graph, whose edge k arrives at node k // width; with `incoming`, `outgoing`, `chunk_nodes` and
        `chunk_widths`.
    """
    incoming, outgoing = graph.incoming, graph.outgoing
    assert incoming is not None
    assert outgoing is not None
    width, nnode = incoming.shape
    edge = incoming.transpose(0, 1).reshape(-1).clamp(min=0)
    index = graph.edge_index.index_select(1, edge)
    here = torch.arange(nnode * width, device=edge.device).view(nnode, width).transpose(0, 1)
    there = _places(graph)[outgoing.clamp(min=0)]
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        index,
        graph.edge_vec.index_select(0, edge),
        index,
        "exported",
        spaced(torch.where(incoming >= 0, here, -1)),
        spaced(torch.where(outgoing >= 0, there, -1)),
        chunk_nodes=[nnode],
        chunk_widths=[width],
    )


def _places(graph: AtomGraph) -> torch.Tensor:
    """Place of each edge, −1 for edges that arrive at no atom, int64, shape (nedge,)."""
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
    return places[:nedge]
