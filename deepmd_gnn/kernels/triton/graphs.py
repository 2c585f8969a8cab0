"""The whole graph of frames that are on a GPU."""

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.builders import guard_distance
from deepmd_gnn.kernels.triton.neighbors import DeviceEdges, find_edges


def graph_on_device(
    coord: torch.Tensor,
    atype: torch.Tensor,
    box: torch.Tensor | None,
    r_max: float,
    ntypes: int,
    allowed: torch.Tensor | None = None,
) -> AtomGraph | None:
    """Build the graph, edges sorted by receiver, with a single wait of the host.

    Parameters
    ----------
    coord : torch.Tensor
        Å, float64, shape (nf, nloc, 3).
    atype : torch.Tensor
        int64, shape (nf, nloc); < 0 for virtual atoms.
    box : torch.Tensor, optional
        Cells, Å, float64, shape (nf, 3, 3); None for free boundaries.
    r_max : float
        Cutoff in Å.
    ntypes : int
        Number of types.
    allowed : torch.Tensor, optional
        Which types see each other, bool, shape (ntypes, ntypes); None: all of them.

    Returns
    -------
    AtomGraph or None
        With `order` and `begin`; its edge vectors are differentiable in `coord` and `box` if these require gradients.
        None if there is something wrong with the input.
    """
    differentiable = torch.is_grad_enabled() and (
        coord.requires_grad or (box is not None and box.requires_grad)
    )
    edges = find_edges(
        coord.detach().contiguous(),
        atype.contiguous(),
        None if box is None else box.detach().contiguous(),
        r_max,
        ntypes,
        allowed,
        shifts=differentiable and box is not None,
    )
    if edges is None:
        return None
    return AtomGraph(
        edges.node_types,
        edges.node_types,
        edges.edge_index,
        _edge_vectors(coord, box, edges, r_max) if differentiable else edges.edge_vec,
        edges.edge_index,  # every atom is a node
        "kernels",
        order=edges.order,
        begin=edges.begin,
    )


def _edge_vectors(
    coord: torch.Tensor, box: torch.Tensor | None, edges: DeviceEdges, r_max: float
) -> torch.Tensor:
    """Form the edge vectors once more, as functions of the coordinates and cells."""
    neighbor, center = edges.edge_index[:, 1:] - 1
    position = coord.reshape(-1, 3)
    vectors = position[neighbor] - position[center]
    if box is not None:
        assert edges.shift is not None
        frame = torch.div(center, coord.shape[1], rounding_mode="floor")
        vectors = vectors + torch.matmul(edges.shift[1:].unsqueeze(1), box[frame]).squeeze(1)
    return torch.cat([vectors.new_full((1, 3), guard_distance(r_max)), vectors])
