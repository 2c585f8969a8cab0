"""Networks whose layers sum over neighbours with :class:`~deepmd_gnn.nn.convolution.Convolution`, evaluated in stages."""

from typing import TYPE_CHECKING, Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.modules import ModuleList
from deepmd_gnn.nn.network import EnergyNetwork
from deepmd_gnn.nn.radial_reader import EdgeGradients
from deepmd_gnn.nn.stages import Stages, in_pieces


class StagedNetwork(EnergyNetwork):
    """A network with `spherical_harmonics`, and with `interactions` that have a convolution `conv_tp`."""

    if TYPE_CHECKING:
        spherical_harmonics: torch.nn.Module
        interactions: ModuleList[Any]

    def __init__(self) -> None:
        super().__init__()
        # Set with the tables, see kernels/tables/scripted.py.
        self.has_tables = False

    def forward(
        self,
        graph: AtomGraph,
        comm_dict: dict[str, torch.Tensor] | None,
        stages: Stages | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.forward`.

        With stages, which are empty, radial weights are read from tables, and :meth:`staged_gradient` differentiates the energy.
        """
        raise NotImplementedError

    def energies(
        self, graph: AtomGraph, comm_dict: dict[str, torch.Tensor] | None, stages: Stages | None
    ) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.energies`."""
        return self.forward(graph, comm_dict, stages)[0]

    def tabulated(self) -> bool:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.tabulated`."""
        return self.has_tables

    def edge_harmonics(self, vectors: torch.Tensor, stages: Stages | None) -> torch.Tensor:
        """Spherical harmonics of edges, Å, shape (nedge, 3) → (nedge, ·); in stages without a graph."""
        if stages is None:
            harmonics = self.spherical_harmonics(vectors).to(self.dtype)
        else:
            pieces: list[torch.Tensor] = []
            with torch.no_grad():
                for piece in in_pieces(vectors):
                    pieces.append(self.spherical_harmonics(piece).to(self.dtype))
            harmonics = torch.cat(pieces)
            stages.harmonics.append(harmonics)
        return harmonics

    def contraction_gradient(
        self,
        layer: int,  # noqa: ARG002 - of a subclass
        graph: AtomGraph,  # noqa: ARG002
        stages: Stages,  # noqa: ARG002
        gradient: torch.Tensor,
    ) -> torch.Tensor:
        """Differentiate the product basis of a layer, if it was evaluated in stages.

        Parameters
        ----------
        layer, graph, stages :
            Which, and as of :meth:`staged_gradient`.
        gradient : torch.Tensor
            With respect to the product basis, shape (nnode, ·, channels).

        Returns
        -------
        torch.Tensor
            With respect to `stages.messages` of the layer, of its shape.
        """
        return gradient

    def staged_gradient(self, energy: torch.Tensor, graph: AtomGraph, stages: Stages) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.staged_gradient`."""
        harmonics = stages.harmonics[0]
        edge_vec = graph.edge_vec
        of_edges = EdgeGradients(torch.zeros_like(harmonics), torch.zeros_like(edge_vec[:, 0]))
        total = energy.sum()
        outputs: list[torch.Tensor] = [total]
        gradients: list[torch.Tensor | None] = [torch.ones_like(total)]
        nlayer = len(stages.sums)
        for done in range(nlayer):
            layer = nlayer - 1 - done
            if len(stages.contracted) > 0:
                contracted = stages.contracted[layer]
                by_contracted = torch.autograd.grad(outputs, [contracted], gradients, retain_graph=True)[0]
                assert by_contracted is not None
                outputs.append(stages.messages[layer])
                gradients.append(self.contraction_gradient(layer, graph, stages, by_contracted))
            # What is sent later depends on these sums as well, and on the sums in between through the skip connections.
            by_sums = torch.autograd.grad(outputs, [stages.sums[layer]], gradients, retain_graph=True)[0]
            assert by_sums is not None
            by_sent = stages.sent[layer]
            for index, interaction in enumerate(self.interactions):
                if index == layer:
                    by_sent = interaction.conv_tp.gradient_in_stages(layer, graph, stages, by_sums, of_edges)
            if layer > 0:
                outputs.append(stages.sent[layer])
                gradients.append(by_sent)
        # Repulsion and learned densities.
        rest = torch.autograd.grad(outputs, [edge_vec], gradients, allow_unused=True)[0]
        with torch.no_grad():
            distance = torch.linalg.norm(edge_vec, dim=1)
            gradient = edge_vec * (of_edges.distance / distance).unsqueeze(1)
            if rest is not None:
                gradient += rest
        first = 0
        for piece in in_pieces(edge_vec.detach()):
            vectors = (-piece).requires_grad_(True)
            last = first + piece.shape[0]
            given: list[torch.Tensor | None] = [of_edges.harmonics[first:last].to(vectors.dtype)]
            by_vectors = torch.autograd.grad([self.spherical_harmonics(vectors)], [vectors], given)[0]
            assert by_vectors is not None
            with torch.no_grad():
                gradient[first:last] -= by_vectors
            first = last
        return gradient
