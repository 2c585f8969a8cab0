"""Energies whose derivatives are not autograd's alone: sums over neighbours chunk by chunk, with radial weights from tables.

Autograd would keep rows of every edge until it goes back through them: memory that the system maps and clears at every call,
which takes longer than computing. Here the sums of a layer are leaves of the graph that autograd keeps, which then has rows
of atoms only; :meth:`~deepmd_gnn.nn.staged_network.StagedNetwork.staged_gradient` puts the derivatives together, last layer first.
"""

from typing import NamedTuple

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.linear import Constant, matmul


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


def new_stages() -> Stages:
    """Empty lists."""
    harmonics: list[torch.Tensor] = []
    sent: list[torch.Tensor] = []
    sums: list[torch.Tensor] = []
    messages: list[torch.Tensor] = []
    contracted: list[torch.Tensor] = []
    return Stages(harmonics, sent, sums, messages, contracted)


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


class EdgeGradients(NamedTuple):
    """Derivatives of the energy with respect to what belongs to edges; layers add theirs."""

    harmonics: torch.Tensor
    """Shape (nedge, ·)."""
    distance: torch.Tensor
    """float64, shape (nedge,)."""


class TabulatedSums(torch.nn.Module):
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
        # Paths of one degree side by side: one product per degree.
        self.order = sorted(range(len(irreps)), key=lambda path: degrees[path])
        self.degrees = sorted(set(degrees))
        begins = [sum(dims[:irrep]) for irrep in range(len(dims))]
        self.sources = [(begins[irreps[path]], dims[irreps[path]]) for path in self.order]
        sizes = [dims[irreps[path]] for path in range(len(irreps))]
        self.heights = [
            sum(size for size, path_degree in zip(sizes, degrees, strict=True) if path_degree == degree)
            for degree in self.degrees
        ]
        self.height = sum(self.heights)
        columns = _columns(sizes, degrees, self.order, self.degrees)
        self.mixing = Constant(mixing[:, columns].contiguous())
        self.table = Constant(torch.zeros(0))
        """Shape (kinds, nodes, 4, npath * channels), the paths in the order of `order`."""
        self.polynomials = Constant(torch.zeros(0))
        """Factors of what is read from the table, and their slopes per Å, by powers of the place between two nodes; float64."""
        self.per_angstrom = Constant(torch.zeros(()))
        """Nodes per Å, float64."""

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
        chunk_nodes, chunk_widths = graph.chunk_nodes, graph.chunk_widths
        assert chunk_nodes is not None
        assert chunk_widths is not None
        channels = sent.shape[2]
        rows = 0
        for degree, height in zip(self.degrees, self.heights):  # noqa: B905 - TorchScript
            rows += (degree[1] - degree[0]) * height
        sums = sent.new_empty(graph.node_types.shape[0], rows, channels)
        node = 0
        edge = 0
        for nodes, width in zip(chunk_nodes, chunk_widths):  # noqa: B905 - TorchScript
            end = edge + nodes * width
            features = sent.index_select(0, graph.edge_index[0, edge:end])
            first, place = self.places(graph, edge, end)
            weights = self.weights(first, place)
            products = self.products(features, weights).view(nodes, width, -1)
            factors = harmonics[edge:end].view(nodes, width, -1).transpose(1, 2)
            row = 0
            column = 0
            for degree, height in zip(self.degrees, self.heights):  # noqa: B905 - TorchScript
                columns = height * channels
                total = torch.bmm(
                    factors[:, degree[0] : degree[1]], products[:, :, column : column + columns]
                )
                size = (degree[1] - degree[0]) * height
                sums[node : node + nodes, row : row + size] = total.view(nodes, size, channels)
                row += size
                column += columns
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
        chunk_nodes, chunk_widths = graph.chunk_nodes, graph.chunk_widths
        assert chunk_nodes is not None
        assert chunk_widths is not None
        channels = sent.shape[2]
        result = torch.zeros_like(sent)
        node = 0
        edge = 0
        for nodes, width in zip(chunk_nodes, chunk_widths):  # noqa: B905 - TorchScript
            end = edge + nodes * width
            senders = graph.edge_index[0, edge:end]
            features = sent.index_select(0, senders)
            first, place = self.places(graph, edge, end)
            weights = self.weights(first, place)
            products = self.products(features, weights).view(nodes, width, -1)
            factors = harmonics[edge:end].view(nodes, width, -1)
            by_products = torch.empty_like(products)
            of_harmonics = of_edges.harmonics[edge:end].view(nodes, width, -1)
            row = 0
            column = 0
            for degree, height in zip(self.degrees, self.heights):  # noqa: B905 - TorchScript
                columns = height * channels
                low, high = degree
                size = (high - low) * height
                part = gradient[node : node + nodes, row : row + size].view(nodes, high - low, columns)
                those = products[:, :, column : column + columns]
                of_harmonics[:, :, low:high] += torch.bmm(those, part.transpose(1, 2))
                by_products[:, :, column : column + columns] = torch.bmm(factors[:, :, low:high], part)
                row += size
                column += columns
            by_products = by_products.view(end - edge, self.height, channels)
            by_weights = self.products_by_weights(by_products, features)
            slopes = self.slopes(first, place)
            of_edges.distance[edge:end] += (by_weights * slopes).sum(dim=1)
            if moving:
                by_features = self.products_by_features(by_products, weights, features.shape[1])
                result.index_add_(0, senders, by_features)
            node += nodes
            edge = end
        return result

    def mixed(self, sums: torch.Tensor) -> torch.Tensor:
        """Apply the coefficients, shape (nnode, ·, channels) → (nnode, Σ_p d3, channels)."""
        # In double precision inside LAMMPS only batches of products are fast, see `matmul`.
        return torch.bmm(self.mixing.value.expand(sums.shape[0], -1, -1), sums)

    def places(self, graph: AtomGraph, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """First row of the table for some edges, and powers of the place between two nodes; shapes (n,) and (n, 6)."""
        distance = torch.linalg.norm(graph.edge_vec.detach()[begin:end], dim=1)
        kinds, nodes = self.table.value.shape[0], self.table.value.shape[1]
        at = distance * self.per_angstrom.value
        # A distance that is not a number has some row, and weights that are not numbers.
        bins = at.to(torch.int64).clamp(0, nodes - 2)
        t = at - bins
        t2 = t * t
        t3 = t2 * t
        powers = torch.stack([torch.ones_like(t), t, t2, t3, t2 * t2, t2 * t3], dim=1)
        # Beyond the cutoff, where the guard and the padding are, too, all weights vanish.
        powers = powers.masked_fill_((at >= nodes - 1).unsqueeze(1), 0.0)
        if kinds > 1:
            sender, receiver = graph.edge_index[0, begin:end], graph.edge_index[1, begin:end]
            ntypes = 1
            while ntypes * ntypes < kinds:
                ntypes += 1
            pair = graph.sender_types[sender] * ntypes + graph.sender_types[receiver]
            bins = bins + pair * nodes
        return bins * 4, powers

    def weights(self, first: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Radial weights at :meth:`places`, shape (n, npath * channels)."""
        return self.read(first, matmul(place, self.polynomials.value[:, :6]))

    def slopes(self, first: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Derivatives of :meth:`weights` per Å."""
        return self.read(first, matmul(place, self.polynomials.value[:, 6:]))

    def read(self, first: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """Add up rows of the table, shapes (n,) and (n, 6) → (n, npath * channels)."""
        # A node has its value, slope, curvature and difference to the next value; the next one's value is not read.
        rows = torch.tensor([0, 1, 2, 3, 5, 6], device=first.device)
        table = self.table.value
        return torch.nn.functional.embedding_bag(
            first.unsqueeze(1) + rows,
            table.view(-1, table.shape[3]),
            mode="sum",
            per_sample_weights=factors.to(table.dtype),
        )

    def products(self, features: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Features times weights, path by path, shapes (n, components, channels) and (n, ·) → (n, ·, channels)."""
        channels = features.shape[2]
        products = features.new_empty(features.shape[0], self.height, channels)
        column = 0
        for path, source in enumerate(self.sources):
            begin, size = source
            weight = weights[:, path * channels : (path + 1) * channels].unsqueeze(1)
            torch.mul(features[:, begin : begin + size], weight, out=products[:, column : column + size])
            column += size
        return products

    def products_by_weights(self, gradient: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Derivative of :meth:`products` with respect to the weights, shape (n, ·)."""
        channels = features.shape[2]
        result = features.new_empty(features.shape[0], len(self.sources) * channels)
        column = 0
        for path, source in enumerate(self.sources):
            begin, size = source
            weight = result[:, path * channels : (path + 1) * channels]
            torch.mul(gradient[:, column], features[:, begin], out=weight)
            for component in range(1, size):
                weight.addcmul_(gradient[:, column + component], features[:, begin + component])
            column += size
        return result

    def products_by_features(
        self, gradient: torch.Tensor, weights: torch.Tensor, components: int
    ) -> torch.Tensor:
        """Derivative of :meth:`products` with respect to the features, shape (n, components, channels)."""
        channels = gradient.shape[2]
        result = gradient.new_zeros(gradient.shape[0], components, channels)
        column = 0
        for path, source in enumerate(self.sources):
            begin, size = source
            weight = weights[:, path * channels : (path + 1) * channels].unsqueeze(1)
            result[:, begin : begin + size].addcmul_(gradient[:, column : column + size], weight)
            column += size
        return result


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
