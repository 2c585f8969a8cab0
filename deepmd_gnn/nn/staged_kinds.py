"""Sums over neighbours of the first layer, where what is sent depends on the element of the sender alone.

Radial weights are combinations of some tens of functions of the distance. Sums of these functions times harmonics, for each element
among the neighbours, have no channels; the channels come once per atom.
"""

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.linear import Constant, matmul
from deepmd_gnn.nn.radial_reader import EdgeGradients, RadialReader


class KindSums(RadialReader):
    """What :class:`~deepmd_gnn.nn.stages.TabulatedSums` gives for scalars of few kinds of senders.

    Without a table until somebody gives it one (:mod:`~deepmd_gnn.kernels.tables.scripted`), of the functions of the distance.

    Parameters
    ----------
    degrees : list[tuple[int, int]]
        First and one after the last harmonic of each degree.
    heights : list[int]
        Paths of each degree.
    """

    def __init__(self, degrees: list[tuple[int, int]], heights: list[int]) -> None:
        super().__init__()
        self.degrees = degrees
        self.heights = heights
        self.weights_of_functions = Constant(torch.zeros(0))
        """Radial weights as combinations of the functions, shape (nfunction, npath * channels), paths by degree."""

    def ready(self) -> bool:
        """Whether there is a table."""
        return self.table.value.numel() > 0

    def forward(
        self, features: torch.Tensor, kinds: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor
    ) -> torch.Tensor:
        """Sum.

        Parameters
        ----------
        features : torch.Tensor
            Scalars of each kind of senders, shape (nkind, channels).
        kinds : torch.Tensor
            Of the senders, int64, shape (nsender,).
        graph : AtomGraph
            In chunks.
        harmonics : torch.Tensor
            Spherical harmonics, shape (nedge, ·).

        Returns
        -------
        torch.Tensor
            Shape (nnode, ·, channels), receivers in the order of the chunks.
        """
        nkind, channels = features.shape
        parts: list[torch.Tensor] = []
        edge = 0
        for nodes, width in self.chunks(graph):
            end = edge + nodes * width
            first, place = self.places(graph, edge, end)
            functions = self.weights(first, place).view(nodes, width, -1)
            of_kinds = by_kind(harmonics[edge:end], kinds[graph.edge_index[0, edge:end]], nkind)
            parts.append(torch.bmm(of_kinds.view(nodes, width, -1).transpose(1, 2), functions))
            edge = end
        totals = torch.cat(parts)
        totals = totals.view(totals.shape[0], nkind, harmonics.shape[1], -1)
        sums: list[torch.Tensor] = []
        column = 0
        for degree, height in zip(self.degrees, self.heights):  # noqa: B905 - TorchScript
            low, high = degree
            # Kinds and functions side by side.
            rows = totals[:, :, low:high].transpose(1, 2).reshape(totals.shape[0] * (high - low), -1)
            total = matmul(rows, self.matrix(features, column, height))
            sums.append(total.view(totals.shape[0], (high - low) * height, channels))
            column += height * channels
        return torch.cat(sums, dim=1)

    def backward(
        self,
        features: torch.Tensor,
        kinds: torch.Tensor,
        graph: AtomGraph,
        harmonics: torch.Tensor,
        gradient: torch.Tensor,
        of_edges: EdgeGradients,
    ) -> None:
        """Differentiate :meth:`forward`.

        Parameters
        ----------
        features, kinds, graph, harmonics :
            As there.
        gradient : torch.Tensor
            With respect to the sums, of their shape.
        of_edges : EdgeGradients
            Derivatives with respect to harmonics and distances are added here.
        """
        nkind = features.shape[0]
        by_totals = self.by_totals(features, gradient, harmonics.shape[1])
        node = 0
        edge = 0
        for nodes, width in self.chunks(graph):
            end = edge + nodes * width
            first, place = self.places(graph, edge, end)
            functions = self.weights(first, place).view(nodes, width, -1)
            sender_kinds = kinds[graph.edge_index[0, edge:end]]
            of_kinds = by_kind(harmonics[edge:end], sender_kinds, nkind).view(nodes, width, -1)
            part = by_totals[node : node + nodes]
            by_functions = torch.bmm(of_kinds, part).view(end - edge, -1)
            of_edges.distance[edge:end] += (by_functions * self.slopes(first, place)).sum(dim=1)
            by_harmonics = torch.bmm(functions, part.transpose(1, 2)).view(end - edge, nkind, -1)
            of_edges.harmonics[edge:end] += of_own_kind(by_harmonics, sender_kinds)
            node += nodes
            edge = end

    def by_totals(self, features: torch.Tensor, gradient: torch.Tensor, nharmonic: int) -> torch.Tensor:
        """From the sums to the sums without channels, shape (nnode, ·, channels) → (nnode, nkind * nharmonic, nfunction)."""
        nkind, channels = features.shape
        nfunction = self.weights_of_functions.value.shape[0]
        result = gradient.new_zeros(gradient.shape[0], nkind, nharmonic, nfunction)
        row = 0
        column = 0
        for degree, height in zip(self.degrees, self.heights):  # noqa: B905 - TorchScript
            low, high = degree
            size = (high - low) * height
            rows = gradient[:, row : row + size].reshape(-1, height * channels)
            part = matmul(rows, self.matrix(features, column, height).t())
            result[:, :, low:high] = part.view(-1, high - low, nkind, nfunction).transpose(1, 2)
            row += size
            column += height * channels
        return result.view(gradient.shape[0], nkind * nharmonic, nfunction)

    def matrix(self, features: torch.Tensor, column: int, height: int) -> torch.Tensor:
        """Radial weights of a degree times features, a row for each kind and function: shape (nkind * nfunction, height * channels)."""
        nkind, channels = features.shape
        weights = self.weights_of_functions.value[:, column : column + height * channels]
        weights = weights.reshape(1, -1, height, channels)
        return (weights * features.view(nkind, 1, 1, channels)).reshape(-1, height * channels)


def by_kind(harmonics: torch.Tensor, kinds: torch.Tensor, nkind: int) -> torch.Tensor:
    """Harmonics of edges in the columns of their kind, zeros elsewhere: shape (n, ·) → (n, nkind, ·)."""
    if nkind == 1:
        return harmonics.unsqueeze(1)
    own = torch.nn.functional.one_hot(kinds, nkind).to(harmonics.dtype)
    return own.unsqueeze(2) * harmonics.unsqueeze(1)


def of_own_kind(rows: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Columns of the kind of each edge, shape (n, nkind, ·) → (n, ·)."""
    if rows.shape[1] == 1:
        return rows.squeeze(1)
    places = torch.arange(rows.shape[0], device=rows.device) * rows.shape[1] + kinds
    return rows.flatten(0, 1).index_select(0, places)
