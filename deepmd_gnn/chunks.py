"""Edges in groups of receivers with about as many neighbours each, so that sums over neighbours are matrix products.

A sum over the edges of every atom is memory traffic if every edge is added to a row of its own. With the edges of an
atom side by side it is a matrix product, and with a few atoms at a time its terms stay in the cache of the processor.
"""

import torch

from deepmd_gnn.graph import AtomGraph

# Bytes of one number per edge and channel in a chunk: a few such tensors share the cache.
CHUNK_BYTES = 2**19


def slots_per_chunk(channels: int, itemsize: int, cuda: bool) -> int:
    """Choose how many edges go into a chunk.

    Parameters
    ----------
    channels, itemsize : int
        Channels of the features and bytes of a number.
    cuda : bool
        Whether the edges are on a GPU, where large operations are the fast ones.

    Returns
    -------
    int
        Number of edges.
    """
    return (1024 if cuda else 1) * max(1, CHUNK_BYTES // (channels * itemsize))


def in_chunks(graph: AtomGraph, slots: int) -> AtomGraph:
    """Arrange the edges by receiver, receivers by the number of their edges, and pad each chunk of receivers.

    Padding copies the guard's edge, which brings nothing to any atom.

    Parameters
    ----------
    graph : AtomGraph
        Edges in any order, the guard's edge first.
    slots : int
        Edges of a chunk, roughly.

    Returns
    -------
    AtomGraph
        The same graph with padded edges, and `node_place`, `chunk_nodes` and `chunk_widths`.
    """
    receiver = graph.edge_index[1]
    nnode, nedge = graph.node_types.shape[0], receiver.shape[0]
    device = receiver.device
    count = torch.bincount(receiver, minlength=nnode)
    node_order = torch.argsort(count, descending=True)
    sorted_count = count[node_order]
    counts: list[int] = sorted_count.tolist()
    nodes: list[int] = []
    widths: list[int] = []
    first = 0
    while first < nnode:
        width = max(1, counts[first])
        # Two or more: products of single matrices are slow in LAMMPS, see `matmul`.
        number = min(max(2, slots // width), nnode - first)
        nodes.append(number)
        widths.append(width)
        first += number
    width_of_node = torch.repeat_interleave(
        torch.tensor(widths, device=device), torch.tensor(nodes, device=device)
    )
    row = torch.repeat_interleave(torch.arange(nnode, device=device), width_of_node)
    place = torch.arange(row.shape[0], device=device) - (torch.cumsum(width_of_node, 0) - width_of_node)[row]
    by_receiver = torch.argsort(receiver, stable=True)
    begin = torch.cumsum(count, 0) - count
    edge = by_receiver[(begin[node_order][row] + place).clamp(max=nedge - 1)]
    edge = torch.where(place < sorted_count[row], edge, torch.zeros_like(edge))
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        graph.edge_index[:, edge],
        graph.edge_vec[edge],
        graph.edge_atoms[:, edge],
        node_place=torch.argsort(node_order),
        chunk_nodes=nodes,
        chunk_widths=widths,
    )
