"""Energies whose derivatives are not autograd's alone: sums over neighbours chunk by chunk, with radial weights from tables.

Autograd would keep rows of every edge until it goes back through them: memory that the system maps and clears at every call,
which takes longer than computing. Here the sums of a layer are leaves of the graph that autograd keeps, which then has rows
of atoms only; :meth:`~deepmd_gnn.nn.staged_network.StagedNetwork.staged_gradient` puts the derivatives together, last layer first.
"""

from typing import NamedTuple

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_sums import rows_of_types
from deepmd_gnn.nn.linear import Constant
from deepmd_gnn.nn.radial_reader import EdgeGradients, RadialReader


class Stages(NamedTuple):
    """What the derivatives of an evaluation need; lists that are filled on the way."""

    harmonics: list[torch.Tensor]
    """One tensor: spherical harmonics of all edges, shape (nedge, ·)."""
    sent: list[torch.Tensor]
    """Of each layer the features of the senders, shape (nsender, components, channels)."""
    sums: list[torch.Tensor]
    """Of each layer the sums over neighbours, leaves, shape (nnode, ·, channels)."""
    messages: list[torch.Tensor]
    """Of each layer what the product basis is made of, shape (nnode, ·, channels); of networks without one nothing."""
    contracted: list[torch.Tensor]
    """Of each layer the product basis, leaves, shape (nnode, ·, channels)."""
    kinds: list[torch.Tensor]
    """If the first layer is sent few different features: these, shape (nkind, channels), and which each sender has, (nsender,)."""


def new_stages() -> Stages:
    """Empty lists."""
    harmonics: list[torch.Tensor] = []
    sent: list[torch.Tensor] = []
    sums: list[torch.Tensor] = []
    messages: list[torch.Tensor] = []
    contracted: list[torch.Tensor] = []
    kinds: list[torch.Tensor] = []
    return Stages(harmonics, sent, sums, messages, contracted, kinds)


def sent_by_kinds(
    features: torch.Tensor, kinds: torch.Tensor, graph: AtomGraph, stages: Stages | None
) -> torch.Tensor:
    """What senders send in the first layer; stages take note of it, if there are few different features.

    Parameters
    ----------
    features : torch.Tensor
        Of all kinds of senders, shape (·, channels).
    kinds : torch.Tensor
        Of the senders, int64, shape (nsender,).
    graph : AtomGraph
        Its mode is read.
    stages : Stages, optional
        Without kinds.

    Returns
    -------
    torch.Tensor
        Shape (nsender, channels).
    """
    if stages is not None:
        there = torch.bincount(kinds, minlength=features.shape[0]) > 0
        present = there.nonzero().flatten()
        # Each kind has harmonics of its own, most of them zeros.
        if present.shape[0] <= 4:
            stages.kinds.append(features.detach().index_select(0, present))
            stages.kinds.append((torch.cumsum(there, dim=0) - 1).index_select(0, kinds))
    return rows_of_types(features, kinds, graph)


def keep_memory() -> None:
    """Let the C library keep the memory of a chunk for the next one, instead of returning it to the system.

    glibc takes larger pieces than it has freed so far from the system, page by page, and returns its own end at twice that
    size; 32 MB is where it stops to learn. Untouched, the piece itself costs nothing. Elsewhere this does nothing.
    """
    piece = torch.empty(31 * 1024 * 1024, dtype=torch.uint8, device="cpu")
    # Read, or TorchScript would leave it out.
    assert piece.numel() > 0


def in_pieces(vectors: torch.Tensor) -> list[torch.Tensor]:
    """Split vectors, Å, shape (nedge, 3), so that what is computed of a piece stays in the cache."""
    return list(torch.split(vectors, 2048))


class TabulatedSums(RadialReader):
    """Sums over neighbours of harmonics, tabulated radial weights and features, and their derivatives.

    Without a table until somebody gives it one (:mod:`~deepmd_gnn.kernels.tables.scripted`).

    Parameters
    ----------
    dims : list[int]
        Components of each irrep of the features.
    irreps : list[int]
        Irrep of the features of each path.
    degrees : list[tuple[int, int]]
        First and one after the last harmonic of each path.
    mixing : torch.Tensor
        What follows the sums of all paths one after the other, shape (·, Σ_p m * d).
    """

    def __init__(
        self, dims: list[int], irreps: list[int], degrees: list[tuple[int, int]], mixing: torch.Tensor
    ) -> None:
        super().__init__()
        # Paths of one degree side by side, one product per degree; among these the paths of one irrep.
        self.order = sorted(range(len(irreps)), key=lambda path: (degrees[path], irreps[path]))
        self.degrees = sorted(set(degrees))
        begins = [sum(dims[:irrep]) for irrep in range(len(dims))]
        pairs = [(degrees[path], irreps[path]) for path in self.order]
        self.runs = [
            [
                (begins[irrep], dims[irrep], pairs.count((degree, irrep)))
                for irrep in range(len(dims))
                if (degree, irrep) in pairs
            ]
            for degree in self.degrees
        ]
        """For each degree the first component, the components and the paths of each irrep."""
        sizes = [dims[irreps[path]] for path in range(len(irreps))]
        self.heights = [
            sum(size for size, path_degree in zip(sizes, degrees, strict=True) if path_degree == degree)
            for degree in self.degrees
        ]
        self.height = sum(self.heights)
        columns = _columns(sizes, degrees, self.order, self.degrees)
        self.mixing = Constant(mixing[:, columns].contiguous())

    def forward(self, sent: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor) -> torch.Tensor:
        """Sum.

        Parameters
        ----------
        sent : torch.Tensor
            Features of the senders, shape (nsender, components, channels).
        graph : AtomGraph
            In chunks.
        harmonics : torch.Tensor
            Spherical harmonics, shape (nedge, ·).

        Returns
        -------
        torch.Tensor
            Shape (nnode, ·, channels), receivers in the order of the chunks.
        """
        channels = sent.shape[2]
        rows = 0
        for degree, height in zip(self.degrees, self.heights):  # noqa: B905 - TorchScript
            rows += (degree[1] - degree[0]) * height
        sums = sent.new_empty(graph.node_types.shape[0], rows, channels)
        node = 0
        edge = 0
        for nodes, width in self.chunks(graph):
            end = edge + nodes * width
            features = sent.index_select(0, graph.edge_index[0, edge:end])
            first, place = self.places(graph, edge, end)
            weights = self.weights(first, place)
            factors = harmonics[edge:end].view(nodes, width, -1).transpose(1, 2)
            part = sums.narrow(0, node, nodes)
            row = 0
            path = 0
            for degree, height, runs in zip(self.degrees, self.heights, self.runs):  # noqa: B905 - TorchScript
                low, high = degree
                products = multiplied(features, weights, runs, path, height).view(nodes, width, -1)
                total = torch.bmm(factors[:, low:high], products)
                size = (high - low) * height
                part.narrow(1, row, size).copy_(total.view(nodes, size, channels))
                row += size
                for run in runs:
                    path += run[2]
            node += nodes
            edge = end
        return sums

    def backward(
        self,
        sent: torch.Tensor,
        graph: AtomGraph,
        harmonics: torch.Tensor,
        gradient: torch.Tensor,
        of_edges: EdgeGradients,
        moving: bool,
    ) -> torch.Tensor:
        """Differentiate :meth:`forward`.

        Parameters
        ----------
        sent, graph, harmonics :
            As there.
        gradient : torch.Tensor
            With respect to the sums, of their shape.
        of_edges : EdgeGradients
            Derivatives with respect to harmonics and distances are added here.
        moving : bool
            Whether what is sent depends on positions.

        Returns
        -------
        torch.Tensor
            With respect to `sent`, of its shape; zero unless `moving`.
        """
        channels = sent.shape[2]
        result = torch.zeros_like(sent)
        node = 0
        edge = 0
        for nodes, width in self.chunks(graph):
            end = edge + nodes * width
            senders = graph.edge_index[0, edge:end]
            features = sent.index_select(0, senders)
            first, place = self.places(graph, edge, end)
            weights = self.weights(first, place)
            by_weights = torch.empty_like(weights)
            by_features = torch.zeros_like(features)
            factors = harmonics[edge:end].view(nodes, width, -1)
            of_harmonics = of_edges.harmonics[edge:end].view(nodes, width, -1)
            part = gradient.narrow(0, node, nodes)
            row = 0
            path = 0
            for degree, height, runs in zip(self.degrees, self.heights, self.runs):  # noqa: B905 - TorchScript
                low, high = degree
                size = (high - low) * height
                by_sums = part.narrow(1, row, size).view(nodes, high - low, height * channels)
                products = multiplied(features, weights, runs, path, height).view(nodes, width, -1)
                of_harmonics[:, :, low:high] += torch.bmm(products, by_sums.transpose(1, 2))
                # In the same memory, which is in the cache.
                torch.bmm(factors[:, :, low:high], by_sums, out=products)
                by_products = products.view(end - edge, height, channels)
                multiplied_by_weights(by_products, features, runs, path, by_weights)
                if moving:
                    multiplied_by_features(by_products, weights, runs, path, by_features)
                row += size
                for run in runs:
                    path += run[2]
            of_edges.distance[edge:end] += by_weights.mul_(self.slopes(first, place)).sum(dim=1)
            if moving:
                result.index_add_(0, senders, by_features)
            node += nodes
            edge = end
        return result

    def mixed(self, sums: torch.Tensor) -> torch.Tensor:
        """Apply the coefficients, shape (nnode, ·, channels) → (nnode, Σ_p d3, channels)."""
        # In double precision inside LAMMPS only batches of products are fast, see `matmul`.
        return torch.bmm(self.mixing.value.expand(sums.shape[0], -1, -1), sums)


def multiplied(
    features: torch.Tensor, weights: torch.Tensor, runs: list[tuple[int, int, int]], path: int, height: int
) -> torch.Tensor:
    """Features times weights for the paths of a degree.

    Parameters
    ----------
    features : torch.Tensor
        Shape (n, components, channels).
    weights : torch.Tensor
        Shape (n, npath * channels).
    runs : list[tuple[int, int, int]]
        First component, components and paths of each irrep.
    path, height : int
        First path, and rows of the result.

    Returns
    -------
    torch.Tensor
        Shape (n, height, channels): irreps, their paths, components.
    """
    nedge, _, channels = features.shape
    products = features.new_empty(nedge, height, channels)
    row = 0
    for begin, size, paths in runs:
        feature = features.narrow(1, begin, size).unsqueeze(1)
        weight = weights.narrow(1, path * channels, paths * channels).view(nedge, paths, 1, channels)
        rows = products.narrow(1, row, paths * size).view(nedge, paths, size, channels)
        torch.mul(feature, weight, out=rows)
        row += paths * size
        path += paths
    return products


def multiplied_by_weights(
    gradient: torch.Tensor,
    features: torch.Tensor,
    runs: list[tuple[int, int, int]],
    path: int,
    result: torch.Tensor,
) -> None:
    """Derivative of :func:`multiplied` with respect to its weights, written to `result`, shape (n, npath * channels)."""
    nedge, _, channels = features.shape
    row = 0
    for begin, size, paths in runs:
        rows = gradient.narrow(1, row, paths * size).view(nedge, paths, size, channels)
        weight = result.narrow(1, path * channels, paths * channels).view(nedge, paths, channels)
        torch.mul(rows.select(2, 0), features.narrow(1, begin, 1), out=weight)
        for component in range(1, size):
            weight.addcmul_(rows.select(2, component), features.narrow(1, begin + component, 1))
        row += paths * size
        path += paths


def multiplied_by_features(
    gradient: torch.Tensor,
    weights: torch.Tensor,
    runs: list[tuple[int, int, int]],
    path: int,
    result: torch.Tensor,
) -> None:
    """Derivative of :func:`multiplied` with respect to its features, added to `result`, shape (n, components, channels)."""
    channels = result.shape[2]
    row = 0
    for begin, size, paths in runs:
        feature = result.narrow(1, begin, size)
        for _ in range(paths):
            weight = weights.narrow(1, path * channels, channels).unsqueeze(1)
            feature.addcmul_(gradient.narrow(1, row, size), weight)
            row += size
            path += 1


def _columns(
    sizes: list[int], degrees: list[tuple[int, int]], order: list[int], groups: list[tuple[int, int]]
) -> list[int]:
    """For each row of the sums by degree the same row of the sums path by path."""
    begins = [0]
    for size, (low, high) in zip(sizes, degrees, strict=True):
        begins.append(begins[-1] + size * (high - low))
    return [
        begins[path] + harmonic * sizes[path] + component
        for group in groups
        for harmonic in range(group[1] - group[0])
        for path in order
        if degrees[path] == group
        for component in range(sizes[path])
    ]
