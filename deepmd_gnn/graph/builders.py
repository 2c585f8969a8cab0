"""Builders: from positions, neighbour lists and edge lists to graphs, the guard in front."""

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_sums import edge_groups, edge_lists, rows_between


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
    receiver = graph.edge_index[1]
    nodes = torch.arange(graph.node_types.shape[0] + 1, device=receiver.device)
    # The guard's edge brings nothing and belongs to no receiver.
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        graph.edge_index,
        graph.edge_vec,
        graph.edge_atoms,
        "kernels",
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


def graph_of_slots(
    coord: torch.Tensor,
    atype: torch.Tensor,
    nlist: torch.Tensor,
    mapping: torch.Tensor,
    r_max: float,
    allowed: torch.Tensor | None,
) -> AtomGraph:
    """Build a graph with one edge for every slot of a padded list; its shape does not depend on which are filled.

    Parameters
    ----------
    coord : torch.Tensor
        Å, float64, shape (nf, nall, 3).
    atype, mapping : torch.Tensor
        Types and owners, shape (nf, nall).
    nlist : torch.Tensor
        Neighbours of the owned atoms, −1 where empty, shape (nf, nloc, nnei).
    r_max : float
        Cutoff in Å.
    allowed : torch.Tensor, optional
        Which types see each other, bool, shape (ntypes, ntypes); None: all of them.

    Returns
    -------
    AtomGraph
        Empty slots and pairs that do not count are edges beyond the cutoff.
    """
    nf, nloc, _ = nlist.shape
    nall = atype.shape[1]
    frame = torch.arange(nf, device=nlist.device).view(-1, 1, 1)
    atom = torch.arange(nloc, device=nlist.device).view(1, -1, 1).expand_as(nlist)
    other = (nlist.clamp(min=0) + frame * nall).flatten()
    row = (atom + frame * nall).flatten()
    center = (atom + frame * nloc).flatten()
    kinds, position = atype.flatten(), coord.view(-1, 3)
    vectors = position[other] - position[row]
    mask = (nlist.flatten() >= 0) & (kinds[other] >= 0) & (kinds[row] >= 0)
    mask = mask & (vectors.detach().square().sum(dim=1) <= r_max**2)
    if allowed is not None:
        mask = mask & allowed[kinds[other].clamp(min=0), kinds[row].clamp(min=0)]
    far = torch.full_like(vectors, guard_distance(r_max))
    guard = center.new_zeros(2, 1)
    sender = mapping.flatten()[other] + torch.div(other, nall, rounding_mode="floor") * nloc
    types = torch.cat([kinds.new_zeros(1), atype[:, :nloc].flatten().clamp(min=0)])
    guard_vec = far.new_full((1, 3), guard_distance(r_max))
    return AtomGraph(
        types,
        types,
        torch.cat([guard, torch.stack([sender + 1, center + 1])], dim=1),
        torch.cat([guard_vec, torch.where(mask.unsqueeze(1), vectors, far)]),
        torch.cat([guard, torch.stack([other + 1, row + 1])], dim=1),
    )


def graph_of_edges(
    kinds: torch.Tensor,
    nowned: int,
    edge_index: torch.Tensor,
    edge_vec: torch.Tensor,
    edge_mask: torch.Tensor,
    r_max: float,
    allowed: torch.Tensor | None,
) -> AtomGraph:
    """Build a graph from a host's edge list while a program is made: no size depends on the mask.

    Parameters
    ----------
    kinds : torch.Tensor
        Types of the atoms of all frames, on a rank the owned ones first, shape (N,).
    nowned : int
        Owned atoms; in a program a number that only the data tell.
    edge_index : torch.Tensor
        Neighbour and centre, shape (2, E).
    edge_vec : torch.Tensor
        Å, float64, shape (E, 3).
    edge_mask : torch.Tensor
        Which edges count, shape (E,).
    r_max : float
        Cutoff in Å.
    allowed : torch.Tensor, optional
        Which types see each other, bool, shape (ntypes, ntypes); None: all of them.

    Returns
    -------
    AtomGraph
        Masked edges, and those that arrive at atoms of other ranks, are edges beyond the cutoff, where everything vanishes.
    """
    sender, center = edge_index[0], edge_index[1]
    mask = edge_mask & (center < nowned)
    if allowed is not None:
        mask = mask & allowed[kinds[sender], kinds[center]]
    far = torch.full_like(edge_vec, guard_distance(r_max))
    # A program cannot refuse atoms at the same place; it must not give them a finite energy either.
    undefined = torch.where(without_direction(edge_vec), torch.nan, 0.0).unsqueeze(1)
    vectors = torch.where(mask.unsqueeze(1), edge_vec + undefined, far)
    vectors = torch.cat([far[:1], vectors])
    receiver = torch.where(center < nowned, center + 1, 0)
    index = torch.cat([edge_index.new_zeros(2, 1), torch.stack([sender + 1, receiver])], dim=1)
    types = torch.cat([kinds.new_zeros(1), kinds])
    return AtomGraph(rows_between(types, 0, nowned + 1), types, index, vectors, index)


def with_lists(
    graph: AtomGraph, lists: tuple[torch.Tensor, ...], nowned: int, in_rectangles: bool
) -> AtomGraph:
    """Add the host's groups of edges to a graph of :func:`graph_of_edges` that is exported.

    Parameters
    ----------
    graph : AtomGraph
        The graph.
    lists : tuple[torch.Tensor, ...]
        Edges grouped by centre, shape (nedge,), where each centre's begin, shape (natom + 1,), and the same by
        neighbour; int64.
    nowned : int
        Owned atoms.
    in_rectangles : bool
        Whether `incoming` and `outgoing` are padded lists in any case, as :func:`~deepmd_gnn.graph.padding.in_slots` reads them.

    Returns
    -------
    AtomGraph
        As generated kernels read it.
    """
    owned = rows_between(lists[1], 0, nowned + 1)
    # The guard's edge in front belongs to no list, because it brings nothing.
    order, begin = lists[0] + 1, torch.cat([owned.new_zeros(1), owned])
    leaving = torch.cat([owned.new_zeros(1), lists[3]])
    listed = edge_lists if in_rectangles else edge_groups
    return AtomGraph(
        *graph[:5],
        mode="exported kernels",
        incoming=listed(order, begin),
        outgoing=listed(lists[2] + 1, leaving),
        order=order,
        begin=begin,
    )
