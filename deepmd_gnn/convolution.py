"""Messages along edges, summed at the receivers."""

import torch

from deepmd_gnn.graph import AtomGraph, rows_of_senders, sum_at_receivers
from deepmd_gnn.mace_blocks import Constant, matmul


class Convolution(torch.nn.Module):
    r"""Messages along edges, summed at the receivers.

    Path p couples component m1 of the sender with the spherical harmonics of one degree to component m3:

    .. math:: A_{i,p,m_3} = \sum_{m_1 m_2} C^p_{m_1 m_2 m_3} \sum_j Y_{m_2}(\hat r_{ij}) R_p(r_{ij}) h_{j,m_1} .

    The sum over neighbours is done first, a product of the matrix of harmonics of an atom, which has no channels, with
    the matrix :math:`R_p h`; the coefficients C follow once per atom.

    Parameters
    ----------
    coupling : torch.Tensor
        :math:`C^p_{m_1 m_2 m_3}` of all paths side by side, shape (harmonics, Σ_p d1 * d3).
    input_dims : list[int]
        Components of each irrep of the sender's features.
    paths : list[tuple[int, int]]
        Irrep of the sender's features and number of components d3 of the result, for each path.
    """

    def __init__(self, coupling: torch.Tensor, input_dims: list[int], paths: list[tuple[int, int]]) -> None:
        super().__init__()
        self.coupling = Constant(coupling)
        self.input_dims = input_dims
        self.paths = paths
        self.widths = [input_dims[irrep] * dim_out for irrep, dim_out in paths]
        self.degrees = [_harmonics(part) for part in coupling.split(self.widths, dim=1)]
        blocks = [
            part[begin:end].reshape(-1, dim_out)
            for part, (begin, end), (_, dim_out) in zip(
                coupling.split(self.widths, dim=1), self.degrees, paths, strict=True
            )
        ]
        self.mixing = Constant(torch.block_diag(*blocks).t().contiguous())

    def forward(
        self,
        sent: torch.Tensor,
        graph: AtomGraph,
        harmonics: torch.Tensor,
        radial: torch.Tensor,
    ) -> torch.Tensor:
        """Convolve.

        Parameters
        ----------
        sent : torch.Tensor
            Features of the senders, shape (nsender, components, channels).
        graph : AtomGraph
            Senders and receivers.
        harmonics : torch.Tensor
            Spherical harmonics, shape (nedge, ·).
        radial : torch.Tensor
            Radial weights, shape (nedge, npath * channels).

        Returns
        -------
        torch.Tensor
            Shape (nnode, Σ_p d3, channels).
        """
        node_place, chunk_nodes, chunk_widths = graph.node_place, graph.chunk_nodes, graph.chunk_widths
        if node_place is None or chunk_nodes is None or chunk_widths is None:
            return self.edge_by_edge(sent, graph, harmonics, radial)
        channels = sent.shape[2]
        sizes: list[int] = []
        for chunk, nodes in enumerate(chunk_nodes):
            sizes.append(nodes * chunk_widths[chunk])
        # The guard and the padding have no harmonics.
        real = (graph.edge_index[1] > 0).to(harmonics.dtype).unsqueeze(1)
        # Splitting once, not slicing: the gradients then meet in one concatenation.
        all_harmonics = torch.split(harmonics * real, sizes)
        all_radial = torch.split(radial, sizes)
        all_inputs = torch.split(rows_of_senders(sent, graph), sizes)
        sums: list[torch.Tensor] = []
        for chunk, nodes in enumerate(chunk_nodes):
            width = chunk_widths[chunk]
            factors = all_harmonics[chunk].view(nodes, width, -1).transpose(1, 2)
            weights = torch.split(all_radial[chunk], channels, dim=1)
            inputs = torch.split(all_inputs[chunk], self.input_dims, dim=1)
            parts: list[torch.Tensor] = []
            for path, weight, degree in zip(self.paths, weights, self.degrees):  # noqa: B905 - TorchScript
                feature = inputs[path[0]]
                product = (feature * weight.unsqueeze(1)).view(nodes, width, -1)
                total = torch.bmm(factors[:, degree[0] : degree[1]], product)
                parts.append(total.view(nodes, -1, channels))
            sums.append(torch.cat(parts, dim=1))
        # In double precision inside LAMMPS only batches of products are fast, see `matmul`.
        mixing = self.mixing.value.expand(node_place.shape[0], -1, -1)
        return torch.bmm(mixing, torch.cat(sums)).index_select(0, node_place)

    def edge_by_edge(
        self, sent: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor, radial: torch.Tensor
    ) -> torch.Tensor:
        """Convolve without chunks, whose number depends on the data and so cannot be traced."""
        channels = sent.shape[2]
        nedge = radial.shape[0]
        weights = torch.split(radial, channels, dim=1)
        couplings = torch.split(matmul(harmonics, self.coupling.value), self.widths, dim=1)
        inputs = torch.split(rows_of_senders(sent, graph), self.input_dims, dim=1)
        sums: list[torch.Tensor] = []
        for path, weight, coupling in zip(self.paths, weights, couplings):  # noqa: B905 - TorchScript
            irrep, dim_out = path
            feature = inputs[irrep]
            coupling = coupling.view(nedge, -1, dim_out).transpose(1, 2)
            if graph.incoming is not None:
                message = _short_product(coupling, feature) * weight.unsqueeze(1)
            elif feature.shape[1] <= dim_out:
                message = torch.bmm(coupling, feature * weight.unsqueeze(1))
            else:
                message = torch.bmm(coupling, feature) * weight.unsqueeze(1)
            sums.append(sum_at_receivers(message, graph))
        return torch.cat(sums, dim=1)


def _harmonics(coupling: torch.Tensor) -> tuple[int, int]:
    """First and one after the last harmonic that a path couples, from its coefficients, shape (harmonics, ·)."""
    used = coupling.abs().amax(dim=1).nonzero().flatten().tolist()
    return (used[0], used[-1] + 1) if used else (0, 1)


def _short_product(coupling: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """Multiply small matrices as a sum of outer products.

    A compiled graph computes them where the messages are summed, without ever storing a message; ``bmm`` would be a
    call of its own.
    """
    product = coupling[:, :, :1] * feature[:, :1]
    for index in range(1, feature.shape[1]):
        product = product + coupling[:, :, index : index + 1] * feature[:, index : index + 1]
    return product
