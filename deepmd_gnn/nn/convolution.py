"""Messages along edges, summed at the receivers."""

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph, trains_compiled
from deepmd_gnn.graph.edge_operators import read_rows
from deepmd_gnn.graph.edge_sums import rows_of_senders, sum_at_receivers
from deepmd_gnn.nn.linear import Constant, matmul
from deepmd_gnn.nn.neighbor_gradients import neighbor_sums
from deepmd_gnn.nn.neighbor_sums import shape_of_paths, sums_of_chunk
from deepmd_gnn.nn.radial_reader import EdgeGradients
from deepmd_gnn.nn.staged_kinds import KindSums
from deepmd_gnn.nn.stages import Stages, TabulatedSums


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
        self.irreps = [irrep for irrep, _ in paths]
        self.widths = [input_dims[irrep] * dim_out for irrep, dim_out in paths]
        self.degrees = [_harmonics(part) for part in coupling.split(self.widths, dim=1)]
        blocks = [
            part[begin:end].reshape(-1, dim_out)
            for part, (begin, end), (_, dim_out) in zip(
                coupling.split(self.widths, dim=1), self.degrees, paths, strict=True
            )
        ]
        self.mixing = Constant(torch.block_diag(*blocks).t().contiguous())
        self.tabulated = TabulatedSums(input_dims, self.irreps, self.degrees, self.mixing.value)
        # For a first layer.
        self.of_kinds = KindSums(self.tabulated.degrees, self.tabulated.heights)

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
        if trains_compiled(graph) and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.in_operator(sent, graph, harmonics, radial)
        inputs = rows_of_senders(sent, graph)
        if graph.mode != "chunks" and graph.mode != "exported":
            return self.edge_by_edge(inputs, graph, harmonics, radial)
        chunk_nodes, chunk_widths, node_place = graph.chunk_nodes, graph.chunk_widths, graph.node_place
        assert chunk_nodes is not None
        assert chunk_widths is not None
        # The guard and the padding have no harmonics.
        sums = self.in_chunks(inputs, without_guard(harmonics, graph), radial, chunk_nodes, chunk_widths)
        # An exported graph has its receivers in order.
        return sums if node_place is None else sums.index_select(0, node_place)

    def in_stages(self, sent: torch.Tensor, graph: AtomGraph, stages: Stages) -> torch.Tensor:
        """:meth:`forward` with radial weights from a table, and without a graph of the edges.

        Parameters
        ----------
        sent, graph :
            As there; in chunks.
        stages : Stages
            What its derivatives need is appended.

        Returns
        -------
        torch.Tensor
            Shape (nnode, Σ_p d3, channels).
        """
        with torch.no_grad():
            if self.reads_kinds(len(stages.sums), stages):
                sums = self.of_kinds(stages.kinds[0], stages.kinds[1], graph, stages.harmonics[0])
            else:
                sums = self.tabulated(sent, graph, stages.harmonics[0])
        sums.requires_grad_(True)
        stages.sent.append(sent)
        stages.sums.append(sums)
        node_place = graph.node_place
        assert node_place is not None
        return self.tabulated.mixed(sums).index_select(0, node_place)

    def gradient_in_stages(
        self, layer: int, graph: AtomGraph, stages: Stages, gradient: torch.Tensor, of_edges: EdgeGradients
    ) -> torch.Tensor:
        """Differentiate :meth:`in_stages`.

        Parameters
        ----------
        layer : int
            Which.
        graph, stages :
            As there.
        gradient : torch.Tensor
            With respect to the sums, `stages.sums` of the layer.
        of_edges : EdgeGradients
            Derivatives with respect to harmonics and distances are added here.

        Returns
        -------
        torch.Tensor
            With respect to what is sent, zero in the first layer, whose features are no functions of positions.
        """
        sent, harmonics = stages.sent[layer], stages.harmonics[0]
        by_sent = torch.zeros_like(sent)
        with torch.no_grad():
            if self.reads_kinds(layer, stages):
                self.of_kinds.backward(stages.kinds[0], stages.kinds[1], graph, harmonics, gradient, of_edges)
            else:
                by_sent = self.tabulated.backward(sent, graph, harmonics, gradient, of_edges, layer > 0)
        return by_sent

    def reads_kinds(self, layer: int, stages: Stages) -> bool:
        """Whether a layer sums for each kind of senders."""
        return layer == 0 and len(stages.kinds) > 0 and self.of_kinds.ready()

    def in_chunks(
        self,
        inputs: torch.Tensor,
        harmonics: torch.Tensor,
        radial: torch.Tensor,
        chunk_nodes: list[int],
        chunk_widths: list[int],
    ) -> torch.Tensor:
        """Convolve edges that are grouped by receiver and padded, those of a chunk to the same number.

        Parameters
        ----------
        inputs : torch.Tensor
            Features of the sender of every edge, shape (nedge, components, channels).
        harmonics, radial : torch.Tensor
            As in :meth:`forward`; the harmonics of the padding are zero.
        chunk_nodes, chunk_widths : list[int]
            Receivers of each chunk, and edges of each of its receivers.

        Returns
        -------
        torch.Tensor
            Shape (nnode, Σ_p d3, channels), in the order of the receivers.
        """
        channels = inputs.shape[2]
        sizes: list[int] = []
        for chunk, nodes in enumerate(chunk_nodes):
            sizes.append(nodes * chunk_widths[chunk])
        # Splitting once, not slicing: the gradients then meet in one concatenation.
        all_harmonics = torch.split(harmonics, sizes)
        all_radial = torch.split(radial, sizes)
        all_inputs = torch.split(inputs, sizes)
        sums: list[torch.Tensor] = []
        for chunk, nodes in enumerate(chunk_nodes):
            weights = list(torch.split(all_radial[chunk], channels, dim=1))
            width = chunk_widths[chunk]
            sums.append(self.in_chunk(all_inputs[chunk], all_harmonics[chunk], weights, nodes, width))
        return self.mixed(torch.cat(sums))

    def in_chunk(
        self,
        inputs: torch.Tensor,
        harmonics: torch.Tensor,
        weights: list[torch.Tensor],
        nodes: int,
        width: int,
    ) -> torch.Tensor:
        """Sum over the edges of one chunk, see :func:`~deepmd_gnn.nn.neighbor_sums.sums_of_chunk`."""
        return sums_of_chunk(
            inputs, harmonics, weights, nodes, width, self.input_dims, self.irreps, self.degrees
        )

    def mixed(self, totals: torch.Tensor) -> torch.Tensor:
        """Apply the coefficients, shape (nnode, ·, channels) → (nnode, Σ_p d3, channels)."""
        # In double precision inside LAMMPS only batches of products are fast, see `matmul`.
        return torch.bmm(self.mixing.value.expand(totals.shape[0], -1, -1), totals)

    @torch.jit.unused
    def in_operator(
        self, sent: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor, radial: torch.Tensor
    ) -> torch.Tensor:
        """Convolve in chunks of receivers that the compiler does not see, see :mod:`~deepmd_gnn.nn.neighbor_sums`."""
        assert graph.chunk_table is not None
        assert graph.node_place is not None
        shape = shape_of_paths(self.input_dims, self.irreps, self.degrees)
        harmonics = without_guard(harmonics, graph)
        by_path = radial.view(radial.shape[0], -1, sent.shape[2]).transpose(0, 1).contiguous()
        totals = neighbor_sums(sent, harmonics, by_path, graph.edge_index[0], graph.chunk_table, shape)
        return read_rows(self.mixed(totals), graph.node_place)

    def edge_by_edge(
        self, rows: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor, radial: torch.Tensor
    ) -> torch.Tensor:
        """Convolve where no size may depend on the data: over the host's padded list.

        Parameters
        ----------
        rows : torch.Tensor
            Features of the sender of every edge, shape (nedge, components, channels).
        graph, harmonics, radial :
            As in :meth:`forward`.

        Returns
        -------
        torch.Tensor
            Shape (nnode, Σ_p d3, channels).
        """
        channels = rows.shape[2]
        nedge = radial.shape[0]
        weights = torch.split(radial, channels, dim=1)
        couplings = torch.split(matmul(harmonics, self.coupling.value), self.widths, dim=1)
        inputs = torch.split(rows, self.input_dims, dim=1)
        sums: list[torch.Tensor] = []
        for path, weight, coupling in zip(self.paths, weights, couplings):  # noqa: B905 - TorchScript
            irrep, dim_out = path
            feature = inputs[irrep]
            coupling = coupling.view(nedge, -1, dim_out).transpose(1, 2)
            if feature.shape[1] <= dim_out:
                message = torch.bmm(coupling, feature * weight.unsqueeze(1))
            else:
                message = torch.bmm(coupling, feature) * weight.unsqueeze(1)
            sums.append(sum_at_receivers(message, graph))
        return torch.cat(sums, dim=1)


def without_guard(harmonics: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Set the harmonics of the guard's edge and its copies to zero, shape (nedge, ·) → the same."""
    return harmonics * (graph.edge_index[1] > 0).to(harmonics.dtype).unsqueeze(1)


def _harmonics(coupling: torch.Tensor) -> tuple[int, int]:
    """First and one after the last harmonic that a path couples, from its coefficients, shape (harmonics, ·)."""
    used = coupling.abs().amax(dim=1).nonzero().flatten().tolist()
    return (used[0], used[-1] + 1) if used else (0, 1)
