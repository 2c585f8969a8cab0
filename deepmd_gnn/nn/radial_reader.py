"""Radial weights of edges, read from a table where an evaluation in stages needs them."""

from typing import NamedTuple

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.linear import Constant, matmul


class EdgeGradients(NamedTuple):
    """Derivatives of the energy with respect to what belongs to edges; layers add theirs."""

    harmonics: torch.Tensor
    """Shape (nedge, ·)."""
    distance: torch.Tensor
    """float64, shape (nedge,)."""


class RadialReader(torch.nn.Module):
    """A table of functions of the distance, empty until somebody fills it, and what is read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Constant(torch.zeros(0))
        """Shape (kinds, nodes, 4, weights)."""
        self.polynomials = Constant(torch.zeros(0))
        """Factors of what is read from the table, and their slopes, by powers of the place between two nodes; float64."""
        self.grid = Constant(torch.zeros(2))
        """Nodes per Å at 0, and bend per Å (:mod:`~deepmd_gnn.kernels.tables.radial`), float64."""

    def chunks(self, graph: AtomGraph) -> list[tuple[int, int]]:
        """Receivers of each chunk of a graph in chunks, and edges of each of them."""
        chunk_nodes, chunk_widths = graph.chunk_nodes, graph.chunk_widths
        assert chunk_nodes is not None
        assert chunk_widths is not None
        return list(zip(chunk_nodes, chunk_widths))  # noqa: B905 - TorchScript

    def places(self, graph: AtomGraph, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """First row of the table for some edges, and powers of the place between two nodes, then nodes per Å there; shapes (n,) and (n, 7)."""
        distance = torch.linalg.norm(graph.edge_vec.detach()[begin:end], dim=1)
        kinds, nodes = self.table.value.shape[0], self.table.value.shape[1]
        scale, bend = self.grid.value[0], self.grid.value[1]
        nearness = 1.0 / (1.0 + bend * distance)
        at = scale * distance * nearness
        # A distance that is not a number has some row, and weights that are not numbers.
        bins = at.to(torch.int64).clamp(0, nodes - 2)
        t = at - bins
        t2 = t * t
        t3 = t2 * t
        per_angstrom = scale * nearness * nearness
        powers = torch.stack([torch.ones_like(t), t, t2, t3, t2 * t2, t2 * t3, per_angstrom], dim=1)
        # Beyond the cutoff, where the guard and the padding are, too, all weights vanish.
        cutoff = (nodes - 1) / (scale - bend * (nodes - 1))
        powers = powers.masked_fill_((distance >= cutoff).unsqueeze(1), 0.0)
        if kinds > 1:
            sender, receiver = graph.edge_index[0, begin:end], graph.edge_index[1, begin:end]
            ntypes = 1
            while ntypes * ntypes < kinds:
                ntypes += 1
            pair = graph.sender_types[sender] * ntypes + graph.sender_types[receiver]
            bins = bins + pair * nodes
        return bins * 4, powers

    def weights(self, first: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Radial weights at :meth:`places`, shape (n, weights)."""
        return self.read(first, matmul(place[:, :6], self.polynomials.value[:, :6]))

    def slopes(self, first: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Derivatives of :meth:`weights` per Å."""
        return self.read(first, matmul(place[:, :6], self.polynomials.value[:, 6:]) * place[:, 6:])

    def read(self, first: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Add up rows of the table, shapes (n,) and (n, 6) → (n, weights)."""
        # A node has its value, slope, curvature and difference to the next value; the next one's value is not read.
        rows = torch.tensor([0, 1, 2, 3, 5, 6], device=first.device)
        table = self.table.value
        return torch.nn.functional.embedding_bag(
            first.unsqueeze(1) + rows,
            table.view(-1, table.shape[3]),
            mode="sum",
            per_sample_weights=factors.to(table.dtype),
        )
