"""The graph the energy is a function of: types and edge vectors. Cells, images and ghosts end here."""

from typing import NamedTuple

import torch

from deepmd_gnn.graph.edge_sums import rows_between, rows_of_edges, sum_over_edges


class AtomGraph(NamedTuple):
    """Compact graph: every pair within the cutoff once per direction, no padding.

    Node 0 is a guard: a lone atom with one edge to itself beyond the cutoff. It contributes to nothing and
    keeps every tensor non-empty, so that a rank without atoms or an atom without neighbours runs the same code.
    """

    node_types: torch.Tensor
    """Type of each node (the guard, then the owned atoms of all frames), int64, shape (nnode,)."""
    sender_types: torch.Tensor
    """Type of each row that can send a message: the nodes, then on several ranks the ghosts; (nsender,)."""
    edge_index: torch.Tensor
    """Row of the sender (neighbour) and of the receiver (centre), int64, shape (2, nedge)."""
    edge_vec: torch.Tensor
    """Position of the neighbour minus position of the centre, Å, float64, shape (nedge, 3)."""
    edge_atoms: torch.Tensor
    """Like `edge_index`, but rows of the output arrays, to which forces are added; shape (2, nedge)."""
    incoming: torch.Tensor | None = None
    """Edges that arrive at each node, padded with −1, shape (·, nnode); see :func:`~deepmd_gnn.graph.edge_sums.edge_lists`."""
    outgoing: torch.Tensor | None = None
    """Edges that leave each sender; then senders and output rows are the same."""
    order: torch.Tensor | None = None
    """Edges grouped by receiver, int64, for generated kernels."""
    begin: torch.Tensor | None = None
    """Where each receiver's edges begin in `order`, and where the last one's end, int64, shape (nnode + 1,)."""
    node_place: torch.Tensor | None = None
    """If the receivers were sorted: place of each node among them, shape (nnode,)."""
    chunk_nodes: list[int] | None = None
    """If the edges are in chunks (:mod:`~deepmd_gnn.graph.arrangement`, :mod:`~deepmd_gnn.graph.padding`): receivers of each chunk."""
    chunk_widths: list[int] | None = None
    """Edges of each receiver of a chunk."""
    chunk_table: torch.Tensor | None = None
    """The chunks of a compiled training graph, as a tensor; see :func:`~deepmd_gnn.graph.arrangement.arrange_in_chunks`."""
    packed: torch.Tensor | None = None
    """For Triton kernels, in the order of `order`: B-splines of the distance and harmonics, shape (nedge, ·)."""
    rows: torch.Tensor | None = None
    """With `packed`: row of each edge in the radial tables, int32, shape (nedge,)."""
    sources: torch.Tensor | None = None
    """With `packed`: sender of each edge, int32, shape (nedge,)."""


class Arrangement(torch.nn.Module):
    """What a network does with a graph before it reads it: nothing. Kernels put what they need here."""

    def forward(self, graph: AtomGraph) -> AtomGraph:
        """Return the graph."""
        return graph


def guard_distance(r_max: float) -> float:
    """Components of the guard's edge in Å: beyond the cutoff and beyond any two covalent radii (ZBL)."""
    return 2.0 * r_max + 5.0


def without_direction(edge_vec: torch.Tensor) -> torch.Tensor:
    """Tell which atoms are at the same place, closer than 1e-6 Å, shape (nedge, 3) → (nedge,)."""
    return edge_vec.detach().square().sum(dim=1) < 1e-12


def refuse_coincident(edge_vec: torch.Tensor, edge_atoms: torch.Tensor) -> None:
    """Refuse atoms at the same place.

    Parameters
    ----------
    edge_vec : torch.Tensor
        Å, shape (nedge, 3).
    edge_atoms : torch.Tensor
        The neighbour and the centre that a message shall name, shape (2, nedge).

    Raises
    ------
    ValueError
        If two atoms coincide.
    """
    coincident = torch.nonzero(without_direction(edge_vec)).view(-1)
    if coincident.numel() > 0:
        first = edge_atoms[:, coincident[0]]
        raise ValueError(
            "mace model: two atoms are at the same place (closer than 1e-6 Å), so the force between them is undefined: "
            f"atoms {int(first[1])} and {int(first[0])}, counted from 0 over the frames of the batch or the atoms of the rank."
        )


def trains_compiled(graph: AtomGraph) -> bool:
    """Whether this is the graph of a training step that is being compiled."""
    return graph.chunk_table is not None


def rows_of_senders(rows: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Give every edge the row of its sender, shape (nsender, …) → (nedge, …)."""
    return rows_of_edges(rows, graph.edge_index[0], graph.outgoing, trains_compiled(graph))


def rows_of_receivers(rows: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Give every edge the row of its receiver, shape (nsender, …) → (nedge, …); the receivers come first."""
    nodes = rows_between(rows, 0, graph.node_types.shape[0], trains_compiled(graph))
    return rows_of_edges(nodes, graph.edge_index[1], graph.incoming, trains_compiled(graph))


def sum_at_receivers(values: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Sum over the edges of every receiver, shape (nedge, …) → (nnode, …)."""
    return sum_over_edges(
        values, graph.edge_index[1], graph.node_types.shape[0], graph.incoming, trains_compiled(graph)
    )


def make_graph(
    atype: torch.Tensor,
    sender_types: torch.Tensor,
    sender: torch.Tensor,
    center: torch.Tensor,
    edge_vec: torch.Tensor,
    edge_atoms: torch.Tensor,
    r_max: float,
) -> AtomGraph:
    """Put the guard in front and check the distances.

    Parameters
    ----------
    atype : torch.Tensor
        Types of the owned atoms, shape (natom,); < 0 for virtual atoms.
    sender_types : torch.Tensor
        Types of all senders, owned atoms first, shape (nsender,).
    sender, center : torch.Tensor
        Sender row and owned atom of each edge, shape (nedge,).
    edge_vec : torch.Tensor
        Å, shape (nedge, 3).
    edge_atoms : torch.Tensor
        Output rows of neighbour and centre, shape (2, nedge).
    r_max : float
        Cutoff in Å.

    Returns
    -------
    AtomGraph

    Raises
    ------
    ValueError
        If two atoms coincide.
    """
    refuse_coincident(edge_vec, edge_atoms)
    zero = torch.zeros(1, dtype=torch.int64, device=atype.device)
    guard_vec = torch.full((1, 3), guard_distance(r_max), dtype=edge_vec.dtype, device=edge_vec.device)
    guard_pair = torch.zeros(2, 1, dtype=torch.int64, device=atype.device)
    return AtomGraph(
        torch.cat([zero, atype.clamp(min=0)]),
        torch.cat([zero, sender_types.clamp(min=0)]),
        torch.cat([guard_pair, torch.stack([sender + 1, center + 1])], dim=1),
        torch.cat([guard_vec, edge_vec]),
        torch.cat([guard_pair, edge_atoms + 1], dim=1),
    )


def graph_from_list(
    coord: torch.Tensor,
    atype: torch.Tensor,
    nlist: torch.Tensor,
    mapping: torch.Tensor | None,
    r_max: float,
) -> AtomGraph:
    """Build the graph from a host's padded neighbour list over extended atoms.

    Pairs beyond the cutoff (the host's skin) are dropped, so that any width and order of `nlist` gives the same
    graph.

    Parameters
    ----------
    coord : torch.Tensor
        Extended coordinates, Å, float64, shape (nf, nall, 3).
    atype : torch.Tensor
        Extended types, int64, shape (nf, nall).
    nlist : torch.Tensor
        Neighbours of the owned atoms, −1 where empty, int64, shape (nf, nloc, nnei).
    mapping : torch.Tensor, optional
        Owner of each extended atom, shape (nf, nall): ghosts are folded onto their owners. None: ghosts are
        senders of their own.
    r_max : float
        Cutoff in Å.

    Returns
    -------
    AtomGraph
        `edge_atoms` counts extended atoms, frame * nall + atom.
    """
    nf, nloc, nnei = nlist.shape
    nall = atype.shape[1]
    slot = torch.nonzero(nlist.reshape(-1) >= 0).view(-1)
    center = torch.div(slot, max(nnei, 1), rounding_mode="floor")  # frame * nloc + atom
    frame = torch.div(center, max(nloc, 1), rounding_mode="floor")
    row = center + frame * (nall - nloc)  # output row of the centre
    other = nlist.reshape(-1)[slot] + frame * nall
    types = atype.reshape(-1)
    position = coord.reshape(-1, 3)
    edge_vec = position[other] - position[row]
    close = edge_vec.detach().square().sum(dim=1) <= r_max * r_max
    real = (types[other] >= 0) & (types[row] >= 0)
    keep = torch.nonzero(close & real).view(-1)
    center, row, other = center[keep], row[keep], other[keep]
    owned = atype[:, :nloc].reshape(-1)
    senders = types
    sender = other
    if mapping is not None:
        sender = mapping.reshape(-1)[other] + frame[keep] * nloc
        senders = owned
    edge_atoms = torch.stack([other, row])
    return make_graph(owned, senders, sender, center, edge_vec[keep], edge_atoms, r_max)


def sorted_by_receiver(graph: AtomGraph) -> AtomGraph:
    """Fill `order` and `begin` of a graph whose edges are grouped by receiver in ascending order, guard first."""
    if graph.begin is not None:
        return graph
    receiver = graph.edge_index[1]
    nodes = torch.arange(graph.node_types.shape[0] + 1, device=receiver.device)
    # The guard's edge brings nothing and belongs to no receiver.
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        graph.edge_index,
        graph.edge_vec,
        graph.edge_atoms,
        order=torch.arange(1, receiver.shape[0], device=receiver.device),
        begin=torch.searchsorted(receiver[1:].contiguous(), nodes),
    )


def drop_pairs(graph: AtomGraph, allowed: torch.Tensor) -> AtomGraph:
    """Remove the edges between types that shall not see each other.

    Parameters
    ----------
    graph : AtomGraph
        Any graph.
    allowed : torch.Tensor
        Symmetric bool matrix over types, shape (ntypes, ntypes).

    Returns
    -------
    AtomGraph
    """
    sender, receiver = graph.edge_index[0], graph.edge_index[1]
    keep = allowed[graph.sender_types[sender], graph.node_types[receiver]]
    keep = torch.nonzero(keep | (receiver == 0)).view(-1)  # the guard stays
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        graph.edge_index[:, keep],
        graph.edge_vec[keep],
        graph.edge_atoms[:, keep],
    )
