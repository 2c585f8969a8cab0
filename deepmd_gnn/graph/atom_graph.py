"""The graph the energy is a function of: types and edge vectors. Cells, images and ghosts end here."""

from typing import NamedTuple

import torch

# How a graph is evaluated, and which of the optional fields it has then. The function that arranges a graph sets its mode;
# whoever reads a graph asks for the mode, not for fields. Plain strings, because TorchScript compiles most readers.
FIELDS: dict[str, frozenset[str]] = {
    # Edges in any order, each for itself: small graphs, and the host's padded list.
    "plain": frozenset(),
    # Eager and scripted: sums over neighbours are matrix products, see `graph.arrangement.in_chunks`.
    "chunks": frozenset({"node_place", "chunk_nodes", "chunk_widths"}),
    # Generated kernels in Python, edges grouped by receiver. The kernels themselves add what follows `begin`.
    "kernels": frozenset({"order", "begin", "packed", "rows", "sources", "densities"}),
    # A graph that is exported, torch code: see `graph.padding.in_slots`.
    "exported": frozenset({"incoming", "outgoing", "chunk_nodes", "chunk_widths"}),
    # A graph that is exported, with generated kernels.
    "exported kernels": frozenset(
        {"incoming", "outgoing", "order", "begin", "packed", "rows", "sources", "densities"}
    ),
    # A training step that is compiled: see `graph.arrangement.for_compiled_training`.
    "compiled training": frozenset({"node_place", "chunk_table"}),
    # A training step with generated kernels, eager or compiled; all edges are in `order`, the guard's as well.
    "training kernels": frozenset({"order", "begin"}),
    "compiled training kernels": frozenset({"order", "begin"}),
}
# A mode's kernels may need none of them.
_MAY_LACK = frozenset({"packed", "rows", "sources", "densities"})
# Of every mode.
_OF_FRAMES = frozenset({"values", "frames", "far_index", "far_vec", "far_atoms", "present"})


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
    mode: str = "plain"
    """How it is evaluated: a key of :data:`FIELDS`, which says which of the following fields are set."""
    incoming: torch.Tensor | None = None
    """Edges that arrive at each node, see :func:`~deepmd_gnn.graph.edge_sums.edge_groups`; padded with −1, shape (·, nnode), or compressed."""
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
    densities: torch.Tensor | None = None
    """For kernels that read them of tables: learned numbers of neighbours of the layers that have them, shape (nnode, 1, ·)."""
    values: torch.Tensor | None = None
    """Quantities that a whole frame has (charge, spin), if the network reads them: float64, shape (nframe, nquantity)."""
    frames: torch.Tensor | None = None
    """With `values`: frame of each row of `sender_types`, int64, shape (nsender,)."""
    far_index: torch.Tensor | None = None
    """If the network reads charges: sender and receiver of every pair within their cutoff, int64, shape (2, npair)."""
    far_vec: torch.Tensor | None = None
    """With `far_index`: as `edge_vec`, shape (npair, 3)."""
    far_atoms: torch.Tensor | None = None
    """With `far_index`: as `edge_atoms`, shape (2, npair)."""
    present: torch.Tensor | None = None
    """With `far_index`: 1 for atoms, 0 for the guard and virtual atoms; float64, shape (nnode,)."""


class Arrangement(torch.nn.Module):
    """What a network does with a graph before it reads it: nothing. Kernels put what they need here."""

    def forward(self, graph: AtomGraph) -> AtomGraph:
        """Return the graph."""
        return graph


def check_fields(graph: AtomGraph) -> None:
    """Compare the fields of a graph with its mode.

    Parameters
    ----------
    graph : AtomGraph
        Of any builder.

    Raises
    ------
    ValueError
        If the mode is unknown, or a field is set that does not belong to it, or missing.
    """
    if graph.mode not in FIELDS:
        raise ValueError(f"mace model: a graph has mode {graph.mode!r}; the modes are {', '.join(FIELDS)}.")
    optional = set(AtomGraph._fields[6:]) - _OF_FRAMES
    found = {name for name in optional if getattr(graph, name) is not None}
    wrong = (found - FIELDS[graph.mode]) | (FIELDS[graph.mode] - found - _MAY_LACK)
    if wrong:
        raise ValueError(
            f"mace model: a graph of mode {graph.mode!r} has {sorted(found)}; fields that are missing or do not belong to it: "
            f"{sorted(wrong)}."
        )


def trains_compiled(graph: AtomGraph) -> bool:
    """Whether this is the graph of a training step that is being compiled."""
    return graph.mode == "compiled training" or graph.mode == "compiled training kernels"


def trains_with_kernels(graph: AtomGraph) -> bool:
    """Whether this is the graph of a training step with generated kernels."""
    return graph.mode == "training kernels" or graph.mode == "compiled training kernels"


def is_exported(graph: AtomGraph) -> bool:
    """Whether this graph is being exported: numbers of atoms and edges are data, sums read lists of edges."""
    return graph.mode == "exported" or graph.mode == "exported kernels"


def is_compiled(graph: AtomGraph) -> bool:
    """Whether a program is being made of this graph, for export or training: no atomic additions then."""
    return is_exported(graph) or trains_compiled(graph)


def with_edge_vec(graph: AtomGraph, edge_vec: torch.Tensor, far_vec: torch.Tensor | None = None) -> AtomGraph:
    """Replace the edge vectors; ``_replace`` does not exist in TorchScript.

    Parameters
    ----------
    graph : AtomGraph
        The graph, before kernels have put anything into it.
    edge_vec : torch.Tensor
        Å, shape (nedge, 3).
    far_vec : torch.Tensor, optional
        Those of pairs of charges, if the graph has any, Å, shape (npair, 3).

    Returns
    -------
    AtomGraph
    """
    return _replaced(
        graph, edge_vec, graph.values, graph.frames, graph.far_index, far_vec, graph.far_atoms, graph.present
    )


def with_values(graph: AtomGraph, values: torch.Tensor, frames: torch.Tensor) -> AtomGraph:
    """Add the quantities of frames to a graph that is arranged.

    Parameters
    ----------
    graph : AtomGraph
        The graph, before kernels have put anything into it.
    values : torch.Tensor
        float64, shape (nframe, nquantity).
    frames : torch.Tensor
        Frame of each sender without the guard, int64, shape (nsender - 1,).

    Returns
    -------
    AtomGraph
    """
    guarded = torch.cat([torch.zeros(1, dtype=torch.int64, device=frames.device), frames])
    return _replaced(
        graph, graph.edge_vec, values, guarded, graph.far_index, graph.far_vec, graph.far_atoms, graph.present
    )


def with_charged_pairs(
    graph: AtomGraph, index: torch.Tensor, vectors: torch.Tensor, atoms: torch.Tensor, present: torch.Tensor
) -> AtomGraph:
    """Add the pairs of charges to a graph that is arranged.

    Parameters
    ----------
    graph : AtomGraph
        The graph, before kernels have put anything into it.
    index : torch.Tensor
        Sender and receiver of each pair without the guard, int64, shape (2, npair).
    vectors : torch.Tensor
        Å, float64, shape (npair, 3).
    atoms : torch.Tensor
        Output rows of neighbour and centre, shape (2, npair).
    present : torch.Tensor
        Which nodes without the guard are atoms, bool, shape (nnode - 1,).

    Returns
    -------
    AtomGraph
    """
    guarded = torch.cat([present.new_zeros(1), present]).to(torch.float64)
    return _replaced(
        graph, graph.edge_vec, graph.values, graph.frames, index + 1, vectors, atoms + 1, guarded
    )


def _replaced(
    graph: AtomGraph,
    edge_vec: torch.Tensor,
    values: torch.Tensor | None,
    frames: torch.Tensor | None,
    far_index: torch.Tensor | None,
    far_vec: torch.Tensor | None,
    far_atoms: torch.Tensor | None,
    present: torch.Tensor | None,
) -> AtomGraph:
    """The graph with other vectors, quantities of frames and pairs of charges; TorchScript has no ``_replace``."""
    return AtomGraph(
        graph.node_types,
        graph.sender_types,
        graph.edge_index,
        edge_vec,
        graph.edge_atoms,
        graph.mode,
        graph.incoming,
        graph.outgoing,
        graph.order,
        graph.begin,
        graph.node_place,
        graph.chunk_nodes,
        graph.chunk_widths,
        graph.chunk_table,
        values=values,
        frames=frames,
        far_index=far_index,
        far_vec=far_vec,
        far_atoms=far_atoms,
        present=present,
    )


def frames_of_senders(graph: AtomGraph, nframe: int) -> torch.Tensor:
    """Frame of each sender without the guard, where all frames have the same number of rows; int64, shape (nsender - 1,)."""
    nsender = graph.sender_types.shape[0] - 1
    rows = max(nsender // max(nframe, 1), 1)
    index = torch.arange(nsender, device=graph.sender_types.device)
    return torch.div(index, rows, rounding_mode="floor")
