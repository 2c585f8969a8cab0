"""Edges in groups of receivers with about as many neighbours each, so that sums over neighbours are matrix products.

A sum over the edges of every atom is memory traffic if every edge is added to a row of its own. With the edges of an
atom side by side it is a matrix product, and with a few atoms at a time its terms stay in the cache of the processor.
"""

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph

# Bytes of one number per edge and channel in a chunk: a few such tensors share the cache. Half as many made a training step of
# 128 channels 9 % slower, with 6 % more memory, four times as many 10 %.
CHUNK_BYTES = 2**19
# In stages the radial weights of a chunk are in the cache as well; with few channels what an edge has besides counts more, so
# that there are never more edges than this.
STAGED_BYTES, STAGED_EDGES = 2**18, 1024
# A compiled graph has room for one empty place to so many edges, and one for each atom.
_PADDING = 32


def slots_per_chunk(channels: int, itemsize: int, staged: bool = False) -> int:
    """Choose how many edges go into a chunk on a CPU.

    Parameters
    ----------
    channels, itemsize : int
        Channels of the features and bytes of a number.
    staged : bool
        Whether the network is evaluated in stages (:mod:`~deepmd_gnn.nn.stages`).

    Returns
    -------
    int
        Number of edges.
    """
    if staged:
        return min(STAGED_EDGES, max(1, STAGED_BYTES // (channels * itemsize)))
    return max(1, CHUNK_BYTES // (channels * itemsize))


def slots_on(device: torch.device, slots: int) -> int:
    """Edges of a chunk on a device, from those on a CPU; on GPUs large operations are the fast ones.

    A frozen file may run on another device than the one it was frozen on: this is decided where it runs.
    """
    return slots if device.type == "cpu" else 1024 * slots


def in_chunks(graph: AtomGraph, slots: int) -> AtomGraph:
    """Arrange the edges by receiver, receivers by the number of their edges, and pad each chunk of receivers.

    Padding copies the guard's edge, which brings nothing to any atom.

    Parameters
    ----------
    graph : AtomGraph
        Edges in any order, the guard's edge first.
    slots : int
        Edges of a chunk on a CPU, roughly; see :func:`slots_on`.

    Returns
    -------
    AtomGraph
        The same graph with padded edges, and `node_place`, `chunk_nodes` and `chunk_widths`.
    """
    slots = slots_on(graph.edge_vec.device, slots)
    nnode = graph.node_types.shape[0]
    count = torch.bincount(graph.edge_index[1], minlength=nnode)
    node_order = torch.argsort(count, descending=True)
    counts: list[int] = count[node_order].tolist()
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
    edge = _padded(graph.edge_index[1], count, node_order, nodes, widths)
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        graph.edge_index[:, edge],
        graph.edge_vec[edge],
        graph.edge_atoms[:, edge],
        "chunks",
        node_place=torch.argsort(node_order),
        chunk_nodes=nodes,
        chunk_widths=widths,
    )


def _padded(
    receiver: torch.Tensor,
    count: torch.Tensor,
    node_order: torch.Tensor,
    nodes: list[int],
    widths: list[int],
) -> torch.Tensor:
    """Edges grouped by the sorted receivers, as many for each receiver of a chunk; the guard's where there are no more."""
    device = receiver.device
    nnode, nedge = count.shape[0], receiver.shape[0]
    sorted_count = count[node_order]
    # Sizes are given where the host knows them: on a GPU it would wait to learn them.
    numbers = torch.tensor([nodes, widths], dtype=torch.int64, device=device)
    width_of_node = torch.repeat_interleave(numbers[1], numbers[0], output_size=nnode)
    places = 0
    for number, width in zip(nodes, widths):  # noqa: B905 - TorchScript
        places += number * width
    row = torch.repeat_interleave(torch.arange(nnode, device=device), width_of_node, output_size=places)
    place = torch.arange(places, device=device) - (torch.cumsum(width_of_node, 0) - width_of_node)[row]
    by_receiver = torch.argsort(receiver, stable=True)
    begin = torch.cumsum(count, 0) - count
    edge = by_receiver[(begin[node_order][row] + place).clamp(max=nedge - 1)]
    return torch.where(place < sorted_count[row], edge, torch.zeros_like(edge))


def places_for(nedge: int, nnode: int) -> int:
    """Edges of a compiled graph, padding included: the size of its tensors may not depend on who has how many edges."""
    return nedge + nedge // _PADDING + nnode


def _plan_within(counts: list[int], slots: int) -> tuple[list[int], list[int]]:
    """Receivers and width of each chunk, with so little padding that :func:`places_for` has room for all."""
    nodes: list[int] = []
    widths: list[int] = []
    edges = padding = first = 0
    while first < len(counts):
        width = max(1, counts[first])
        number = held = 0
        for count in counts[first : first + max(1, slots // width)]:
            empty = (number + 1) * width - held - count
            room = (edges + held + count) // _PADDING + first + number + 1
            if number and padding + empty > room:
                break
            number, held = number + 1, held + count
        nodes.append(number)
        widths.append(width)
        edges, padding, first = edges + held, padding + number * width - held, first + number
    return nodes, widths


@torch.library.custom_op("deepmd_gnn::arrange_in_chunks", mutates_args=())
def arrange_in_chunks(
    receiver: torch.Tensor, nnode: int, slots: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Arrange edges as :func:`in_chunks` does, in tensors whose sizes a compiled graph knows.

    Parameters
    ----------
    receiver : torch.Tensor
        Receiver of each edge, int64, shape (nedge,); edge 0 is the guard's.
    nnode, slots : int
        Number of receivers, and edges of a chunk on a CPU, roughly.

    Returns
    -------
    edge : torch.Tensor
        Which edge is at each place, shape (places_for(nedge, nnode),); the guard's where there are no more.
    node_place : torch.Tensor
        Place of each receiver among the sorted ones, shape (nnode,).
    table : torch.Tensor
        For the first of the sorted receivers of each chunk how many places they have, else 0, on the CPU, (nnode,).
    """
    count = torch.bincount(receiver, minlength=nnode)
    node_order = torch.argsort(count, descending=True)
    nodes, widths = _plan_within(count[node_order].tolist(), slots_on(receiver.device, slots))
    edge = receiver.new_zeros(places_for(receiver.shape[0], nnode))
    padded = _padded(receiver, count, node_order, nodes, widths)
    edge[: padded.shape[0]] = padded
    numbers, places = torch.tensor([nodes, widths], device="cpu")
    table = torch.zeros(nnode, dtype=torch.int64, device="cpu")
    table[numbers.cumsum(0) - numbers] = places
    return edge, torch.argsort(node_order), table


@arrange_in_chunks.register_fake
def _(receiver: torch.Tensor, nnode: int, slots: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # noqa: ARG001
    edge = receiver.new_empty(places_for(receiver.shape[0], nnode))
    return edge, receiver.new_empty(nnode), torch.empty(nnode, dtype=torch.int64, device="cpu")


def chunks_of(table: torch.Tensor) -> tuple[list[int], list[int]]:
    """Read the table of :func:`arrange_in_chunks`.

    Parameters
    ----------
    table : torch.Tensor
        int64, shape (nnode,).

    Returns
    -------
    tuple[list[int], list[int]]
        Receivers of each chunk, and edges of each of its receivers.
    """
    first = table.nonzero().flatten()
    nodes = torch.diff(first, append=first.new_tensor([table.shape[0]]))
    return nodes.tolist(), table[first].tolist()


def for_compiled_training(graph: AtomGraph, slots: int) -> AtomGraph:
    """Arrange the edges of a graph that is being traced, see :func:`arrange_in_chunks`.

    Parameters
    ----------
    graph : AtomGraph
        Edges in any order, the guard's edge first; senders and output rows are the same.
    slots : int
        Edges of a chunk on a CPU, roughly.

    Returns
    -------
    AtomGraph
        The same graph with padded edges, `node_place` and `chunk_table`.
    """
    edge, node_place, table = arrange_in_chunks(graph.edge_index[1], graph.node_types.shape[0], slots)
    index = graph.edge_index.index_select(1, edge)
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        index,
        graph.edge_vec.index_select(0, edge),
        index,
        "compiled training",
        node_place=node_place,
        chunk_table=table,
    )


def for_training_kernels(graph: AtomGraph, compiled: bool) -> AtomGraph:
    """Group the edges by receiver for the kernels of training.

    Parameters
    ----------
    graph : AtomGraph
        Edges in any order, or grouped by receiver with all of them in `order`, as a GPU finds them.
    compiled : bool
        Whether the training step is being traced.

    Returns
    -------
    AtomGraph
        The same edges, with `order` and `begin`.
    """
    order, begin = graph.order, graph.begin
    if order is None or begin is None:
        receiver, nnode = graph.edge_index[1], graph.node_types.shape[0]
        order = torch.argsort(receiver, stable=True)
        nodes = torch.arange(nnode + 1, device=receiver.device)
        begin = torch.searchsorted(receiver.index_select(0, order), nodes)
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        graph.edge_index,
        graph.edge_vec,
        graph.edge_atoms,
        "compiled training kernels" if compiled else "training kernels",
        order=order,
        begin=begin,
    )
