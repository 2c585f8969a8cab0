"""The interaction blocks of MACE: what an atom sends, how messages are summed, and the skip connection.

Native blocks run every operation on every node. Here only what travels along edges exists on ghosts: :meth:`outgoing`
runs on owned atoms, the exchange between the ranks follows, and :meth:`messages` sums what owned atoms receive.
All blocks have the same three methods; they differ in what is sent and in how a message is normalised.
"""

from typing import Final

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_sums import (
    rows_of_nodes,
    rows_of_receivers,
    rows_of_senders,
    rows_of_types,
    sum_at_receivers,
)
from deepmd_gnn.nn.convolution import Convolution
from deepmd_gnn.nn.gates import Gate, NormedNetwork
from deepmd_gnn.nn.linear import Linear, RadialNetwork
from deepmd_gnn.nn.stages import Stages


class AverageNormalisation(torch.nn.Module):
    """Division by the average number of neighbours."""

    def forward(self, message: torch.Tensor, avg_num_neighbors: torch.Tensor) -> torch.Tensor:
        """Divide, shape (nnode, components, channels) → the same."""
        return message / avg_num_neighbors


class ReceivedDensity(torch.nn.Module):
    """Learned number of neighbours. Kernels that have it of tables replace this."""

    def forward(self, outputs: torch.Tensor, cutoff: torch.Tensor | None, graph: AtomGraph) -> torch.Tensor:
        """Sum over the edges of each receiver.

        Parameters
        ----------
        outputs : torch.Tensor
            Outputs of the density network, shape (nedge, 1).
        cutoff : torch.Tensor, optional
            Envelope, shape (nedge, 1).
        graph : AtomGraph
            Senders and receivers.

        Returns
        -------
        torch.Tensor
            Shape (nnode, 1, 1).
        """
        return sum_at_receivers(edge_density(outputs, cutoff), graph).unsqueeze(2)


def edge_density(outputs: torch.Tensor, cutoff: torch.Tensor | None) -> torch.Tensor:
    """What edges add to a learned number of neighbours, from outputs of its network and an envelope; all of shape (nedge, 1)."""
    density = torch.tanh(outputs**2)
    if cutoff is not None:
        density = density * cutoff
    return density


class Interaction(torch.nn.Module):
    """RealAgnostic[Density][Residual] interaction block.

    Parameters
    ----------
    linear_up, linear, skip_tp : Linear
        Maps of the features; `skip_tp` has weights per element.
    conv_tp : Convolution
        Messages along edges.
    conv_tp_weights : RadialNetwork
        Radial weights.
    density_fn : RadialNetwork, optional
        Learned normalisation; without it messages are divided by the average number of neighbours.
    residual : bool
        Whether the skip connection goes around the product (else it acts on the message).
    """

    residual: Final[bool]
    density: Final[bool]

    def __init__(
        self,
        linear_up: Linear,
        conv_tp: Convolution,
        conv_tp_weights: RadialNetwork,
        linear: Linear,
        skip_tp: Linear,
        density_fn: RadialNetwork | None,
        residual: bool,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.density = density_fn is not None
        self.linear_up = linear_up
        self.conv_tp = conv_tp
        self.conv_tp_weights = conv_tp_weights
        self.linear = linear
        self.skip_tp = skip_tp
        # TorchScript wants the attribute in every block; without density it has no parameters.
        self.density_fn = torch.nn.Identity() if density_fn is None else density_fn
        self.average = AverageNormalisation()
        self.received_density = ReceivedDensity()

    def outgoing(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """What nodes send.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, components, channels).
        one_hot : torch.Tensor
            Elements, shape (nnode, ntypes).

        Returns
        -------
        torch.Tensor
            Shape (nnode, ·).
        """
        return self.linear_up(features, one_hot).flatten(1)

    def skip(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """Skip connection, or with ``residual`` False the map that ends the message.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, components, channels).
        one_hot : torch.Tensor
            Elements, shape (nnode, ntypes).

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        return self.skip_tp(features, one_hot)

    def messages(
        self,
        sent: torch.Tensor,
        graph: AtomGraph,
        edge_attrs: torch.Tensor,
        edge_feats: torch.Tensor,
        cutoff: torch.Tensor | None,
        sender_types: torch.Tensor,  # noqa: ARG002 - the same for all blocks
        one_hot: torch.Tensor,
        avg_num_neighbors: torch.Tensor,
        stages: Stages | None,
    ) -> torch.Tensor:
        """Sum what each node receives.

        Parameters
        ----------
        sent : torch.Tensor
            :meth:`outgoing` of all senders, the receivers first, shape (nsender, ·).
        graph : AtomGraph
            Senders and receivers.
        edge_attrs, edge_feats : torch.Tensor
            Spherical harmonics and radial features, shape (nedge, ·).
        cutoff : torch.Tensor, optional
            Envelope that multiplies the output of the radial network (``apply_cutoff: false``), shape (nedge, 1).
        sender_types : torch.Tensor
            Elements of the senders, shape (nsender,).
        one_hot : torch.Tensor
            Elements of the receivers, shape (nnode, ntypes).
        avg_num_neighbors : torch.Tensor
            Normalisation, 0-dimensional; density blocks learn their own.
        stages : Stages, optional
            Where the sums are differentiated in stages, see :mod:`~deepmd_gnn.nn.stages`.

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        features = sent.view(sent.shape[0], -1, self.linear_up.channels)
        if stages is None:
            weights = self.conv_tp_weights(edge_feats)
            if cutoff is not None:
                weights = weights * cutoff
            sums = self.conv_tp(features, graph, edge_attrs, weights)
        else:
            sums = self.conv_tp.in_stages(features, graph, stages)
        message = self.linear(sums, one_hot)
        if not self.density:
            return self.average(message, avg_num_neighbors)
        return message / (self.received_density(self.density_fn(edge_feats), cutoff, graph) + 1)


class AttentiveInteraction(torch.nn.Module):
    """RealAgnosticAttResidual: the radial weights also see scalars of sender and receiver.

    Parameters
    ----------
    linear_up, linear_down, linear, skip_linear : Linear
        Maps of the features.
    conv_tp : Convolution
        Messages along edges.
    conv_tp_weights : RadialNetwork
        Weights from the radial features and the scalars of both ends.
    """

    residual: Final[bool]
    density: Final[bool]

    def __init__(
        self,
        linear_up: Linear,
        linear_down: Linear,
        conv_tp: Convolution,
        conv_tp_weights: RadialNetwork,
        linear: Linear,
        skip_linear: Linear,
    ) -> None:
        super().__init__()
        self.residual, self.density = True, False
        self.linear_up = linear_up
        self.linear_down = linear_down
        self.conv_tp = conv_tp
        self.conv_tp_weights = conv_tp_weights
        self.linear = linear
        self.skip_linear = skip_linear

    def outgoing(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """See :meth:`Interaction.outgoing`."""
        up = self.linear_up(features, one_hot).flatten(1)
        return torch.cat([up, self.linear_down(features, one_hot).flatten(1)], dim=1)

    def skip(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """Skip connection around the product, see :meth:`Interaction.skip`."""
        return self.skip_linear(features, one_hot)

    def messages(
        self,
        sent: torch.Tensor,
        graph: AtomGraph,
        edge_attrs: torch.Tensor,
        edge_feats: torch.Tensor,
        cutoff: torch.Tensor | None,
        sender_types: torch.Tensor,  # noqa: ARG002 - the same for all blocks
        one_hot: torch.Tensor,
        avg_num_neighbors: torch.Tensor,
        stages: Stages | None,  # noqa: ARG002 - these weights have no tables
    ) -> torch.Tensor:
        """See :meth:`Interaction.messages`."""
        ndown = self.linear_down.channels
        down = sent[:, sent.shape[1] - ndown :]
        up = sent[:, : sent.shape[1] - ndown].reshape(sent.shape[0], -1, self.linear_up.channels)
        inputs = torch.cat([edge_feats, rows_of_senders(down, graph), rows_of_receivers(down, graph)], dim=1)
        weights = self.conv_tp_weights(inputs)
        if cutoff is not None:
            weights = weights * cutoff
        message = self.conv_tp(up, graph, edge_attrs, weights)
        return self.linear(message, one_hot) / avg_num_neighbors


class NonLinearInteraction(torch.nn.Module):
    """RealAgnosticResidualNonLinear: embeddings of both elements, learned density, gate.

    Parameters
    ----------
    source_embedding, target_embedding : Linear
        Scalars of the element of sender and receiver.
    linear_up, linear_res, linear_1, linear_2, skip_tp : Linear
        Maps of the features.
    conv_tp : Convolution
        Messages along edges.
    conv_tp_weights, density_fn : NormedNetwork
        Radial weights and density.
    gate : Gate
        Non-linearity of the message.
    alpha, beta : torch.Tensor
        Normalisation α + β · density, 0-dimensional.
    """

    residual: Final[bool]
    density: Final[bool]

    def __init__(
        self,
        source_embedding: Linear,
        target_embedding: Linear,
        linear_up: Linear,
        conv_tp: Convolution,
        conv_tp_weights: NormedNetwork,
        skip_tp: Linear,
        linear_res: Linear,
        linear_1: Linear,
        linear_2: Linear,
        density_fn: NormedNetwork,
        gate: Gate,
        alpha: torch.Tensor,
        beta: torch.Tensor,
    ) -> None:
        super().__init__()
        self.residual, self.density = True, True
        self.source_embedding = source_embedding
        self.target_embedding = target_embedding
        self.linear_up = linear_up
        self.conv_tp = conv_tp
        self.conv_tp_weights = conv_tp_weights
        self.skip_tp = skip_tp
        self.linear_res = linear_res
        self.linear_1 = linear_1
        self.linear_2 = linear_2
        self.density_fn = density_fn
        self.received_density = ReceivedDensity()
        self.gate = gate
        self.alpha = torch.nn.Parameter(alpha.detach().clone())
        self.beta = torch.nn.Parameter(beta.detach().clone())

    def outgoing(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """See :meth:`Interaction.outgoing`."""
        return self.linear_up(features, one_hot).flatten(1)

    def skip(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """Skip connection around the product, see :meth:`Interaction.skip`."""
        return self.skip_tp(features, one_hot)

    def element_embeddings(
        self, one_hot: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the elements as senders and as receivers: further inputs of the networks of an edge.

        Parameters
        ----------
        one_hot : torch.Tensor
            Elements of the nodes, shape (nnode, ntypes); only the number of elements is read.
        dtype : torch.dtype
            Of the embeddings.

        Returns
        -------
        source, target : torch.Tensor
            One row per element, looked up for both ends of an edge; shape (ntypes, ·).
        """
        elements = torch.eye(one_hot.shape[1], dtype=dtype, device=one_hot.device).unsqueeze(1)
        source = self.source_embedding(elements, one_hot).flatten(1)
        return source, self.target_embedding(elements, one_hot).flatten(1)

    def messages(
        self,
        sent: torch.Tensor,
        graph: AtomGraph,
        edge_attrs: torch.Tensor,
        edge_feats: torch.Tensor,
        cutoff: torch.Tensor | None,
        sender_types: torch.Tensor,
        one_hot: torch.Tensor,
        avg_num_neighbors: torch.Tensor,  # noqa: ARG002 - the same for all blocks
        stages: Stages | None,
    ) -> torch.Tensor:
        """See :meth:`Interaction.messages`."""
        up = sent.view(sent.shape[0], -1, self.linear_up.channels)
        source, target = self.element_embeddings(one_hot, edge_feats.dtype)
        senders, receivers = sender_types[graph.edge_index[0]], sender_types[graph.edge_index[1]]
        ends = [rows_of_types(source, senders, graph), rows_of_types(target, receivers, graph)]
        inputs = torch.cat([edge_feats, ends[0], ends[1]], dim=1)
        if stages is None:
            weights = self.conv_tp_weights(inputs)
            if cutoff is not None:
                weights = weights * cutoff
            sums = self.conv_tp(up, graph, edge_attrs, weights)
        else:
            sums = self.conv_tp.in_stages(up, graph, stages)
        density = self.received_density(self.density_fn(inputs), cutoff, graph)
        message = self.linear_1(sums, one_hot)
        message = message / (density * self.beta + self.alpha) + self.linear_res(
            rows_of_nodes(up, graph), one_hot
        )
        return self.linear_2(self.gate(message, graph), one_hot)


# Every interaction block: the same methods, see Interaction.
InteractionBlock = Interaction | AttentiveInteraction | NonLinearInteraction
