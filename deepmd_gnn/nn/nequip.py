r"""The energy of NequIP [1]_ of every atom as a function of a graph, with weights shaped as in the package ``nequip`` 0.6.

Features are stored as in :mod:`~deepmd_gnn.nn.linear`, (node, component, channel), and parts that MACE has as well have MACE's
names, by which kernels find them; :mod:`~deepmd_gnn.nn.nequip_names` knows the package's.

References
----------
.. [1] S. Batzner et al., Nat. Commun. 13, 2453 (2022), arXiv:2101.03164.
"""

from typing import Final, NamedTuple

import torch

from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.graph.atom_graph import Arrangement, AtomGraph
from deepmd_gnn.graph.edge_sums import rows_of_types
from deepmd_gnn.nn.convolution import Convolution
from deepmd_gnn.nn.linear import Linear
from deepmd_gnn.nn.modules import ModuleList
from deepmd_gnn.nn.nequip_parts import AtomwiseLinear, Nonlinearity, PathNetwork, RadialBasis, ScalarReadout
from deepmd_gnn.nn.staged_network import StagedNetwork
from deepmd_gnn.nn.stages import Stages


class Parts(NamedTuple):
    """What a network is made of; layers one after the other."""

    node_embedding: AtomwiseLinear
    radial_embedding: RadialBasis
    spherical_harmonics: torch.nn.Module
    interactions: "list[ConvNetLayer]"
    readouts: ScalarReadout


class ConvNetLayer(torch.nn.Module):
    """A layer: messages, self-connection and non-linearity.

    Parameters
    ----------
    linear_up, linear : Linear
        Maps of the features before and after the convolution.
    conv_tp : Convolution
        Messages along edges.
    conv_tp_weights : PathNetwork
        Radial weights.
    skip_tp : Linear, optional
        Self-connection, with weights per element.
    equivariant_nonlin : Nonlinearity
        Its components and those that the maps make are the same.
    """

    use_sc: Final[bool]

    def __init__(
        self,
        linear_up: Linear,
        conv_tp: Convolution,
        conv_tp_weights: PathNetwork,
        linear: Linear,
        skip_tp: Linear | None,
        equivariant_nonlin: Nonlinearity,
    ) -> None:
        super().__init__()
        self.use_sc = skip_tp is not None
        self.linear_up = linear_up
        self.conv_tp = conv_tp
        self.conv_tp_weights = conv_tp_weights
        self.linear = linear
        # TorchScript wants the attribute in every block; without self-connection it has no parameters.
        self.skip_tp = torch.nn.Identity() if skip_tp is None else skip_tp
        self.equivariant_nonlin = equivariant_nonlin

    def outgoing(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """What nodes send, shape (nnode, components, channels) → (nnode, ·)."""
        return self.linear_up(features, one_hot).flatten(1)

    def messages(
        self,
        sent: torch.Tensor,
        graph: AtomGraph,
        edge_attrs: torch.Tensor,
        edge_feats: torch.Tensor,
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
            Spherical harmonics and radial basis, shape (nedge, ·).
        one_hot : torch.Tensor
            Elements of the receivers, shape (nnode, ntypes).
        avg_num_neighbors : torch.Tensor
            The sum is divided by its square root; 0-dimensional.
        stages : Stages, optional
            Where the sums are differentiated in stages, see :mod:`~deepmd_gnn.nn.stages`.

        Returns
        -------
        torch.Tensor
            Shape (nnode, components with gates, channels).
        """
        features = sent.view(sent.shape[0], -1, self.linear_up.channels)
        if stages is None:
            sums = self.conv_tp(features, graph, edge_attrs, self.conv_tp_weights(edge_feats))
        else:
            sums = self.conv_tp.in_stages(features, graph, stages)
        message = self.linear(sums, one_hot)
        return message / avg_num_neighbors.sqrt().to(message.dtype)

    def update(self, features: torch.Tensor, message: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """New features of nodes.

        Parameters
        ----------
        features, message : torch.Tensor
            Shape (nnode, ·, channels).
        one_hot : torch.Tensor
            Elements, shape (nnode, ntypes).

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        if self.use_sc:
            message = message + self.skip_tp(features, one_hot)
        return self.equivariant_nonlin(message)

    def alone(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """New features of atoms without neighbours, which receive nothing; shapes (n, components, channels) and (n, ntypes) → the first."""
        size = self.equivariant_nonlin.components
        nothing = features.new_zeros(features.shape[0], size, self.equivariant_nonlin.channels)
        return self.update(features, nothing, one_hot)


class NequipEnergy(StagedNetwork):
    r"""Energy without E0: :math:`E_i = s \,( R(h_i) - R(h^0_{z_i}) )`, in float64, the learned part in `config.precision`.

    :math:`h^0_z` are the features of an atom of element z without neighbours. The package ``nequip`` has no such term: there
    a lone atom has an energy that only training decides, here it has its E0. Forces are the same, and energies with
    E0 = shift + :meth:`lone_energies`.

    Parameters
    ----------
    config : NequipConfig
        Architecture and given statistics.
    atomic_numbers : torch.Tensor
        Elements in the order of the type map, int64, shape (ntypes,).
    parts : Parts
        With their weights in float64.
    exchange : torch.nn.Module
        Gives every sender its features, see :class:`~deepmd_gnn.deepmd_ops.Exchange`.
    """

    def __init__(
        self, config: NequipConfig, atomic_numbers: torch.Tensor, parts: Parts, exchange: torch.nn.Module
    ) -> None:
        super().__init__()
        self.ntypes = atomic_numbers.shape[0]
        self.channels = config.channels
        self.nlayers = len(parts.interactions)
        self.r_max = float(config.r_max)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.arrangement = Arrangement()
        self.node_embedding = parts.node_embedding
        self.radial_embedding = parts.radial_embedding
        self.spherical_harmonics = parts.spherical_harmonics
        self.interactions = ModuleList(parts.interactions)
        self.readouts = parts.readouts
        self.exchange = exchange
        # The bases of the geometry stay in float64; the learned part has the set precision.
        for part in (self.node_embedding, self.interactions, self.readouts):
            part.to(self.dtype)
        self.register_buffer("atomic_numbers", atomic_numbers)
        for name, value in (("avg_num_neighbors", config.avg_num_neighbors), ("scale", config.scale)):
            given = 1.0 if value == "auto" else float(value)
            self.register_buffer(name, torch.tensor(given, dtype=torch.float64))

    def forward(
        self,
        graph: AtomGraph,
        comm_dict: dict[str, torch.Tensor] | None,
        stages: Stages | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.forward`."""
        graph = self.arrangement(graph)
        types, nsender = graph.node_types, graph.sender_types.shape[0]
        vectors = -graph.edge_vec  # as MACE's; the couplings have the sign that NequIP's harmonics have
        lengths = torch.linalg.norm(vectors, dim=1, keepdim=True)
        one_hot = torch.nn.functional.one_hot(types, self.ntypes).to(self.dtype)
        edge_attrs = self.edge_harmonics(vectors, stages)
        edge_feats = lengths
        if stages is None:
            edge_feats, _ = self.radial_embedding(lengths, one_hot, graph.edge_index, self.atomic_numbers)
        edge_feats = edge_feats.to(self.dtype)
        # Before the first message the features depend on the element only: computed per type, known for ghosts.
        alone, of_types = self.embedding()
        features = rows_of_types(alone, types, graph)
        sent = features
        all_features: list[torch.Tensor] = []
        for index, layer in enumerate(self.interactions):
            if index == 0:
                sent = rows_of_types(layer.outgoing(alone, of_types), graph.sender_types, graph)
            else:
                sent = self.exchange(layer.outgoing(features, one_hot), nsender, comm_dict)
            message = layer.messages(
                sent, graph, edge_attrs, edge_feats, one_hot, self.avg_num_neighbors, stages
            )
            features = layer.update(features, message, one_hot)
            alone = layer.alone(alone, of_types)
            all_features.append(features)
        energy = self.readouts(features).to(torch.float64)
        lone = self.readouts(alone).to(torch.float64)
        return self.scale * (energy - rows_of_types(lone, types, graph)), all_features

    def embedding(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and one-hot elements of one atom per type, shapes (ntypes, 1, ·) and (ntypes, ntypes)."""
        weight = self.node_embedding.linear.weight
        features = (weight * self.ntypes**-0.5).view(self.ntypes, 1, -1)
        return features, torch.eye(self.ntypes, dtype=self.dtype, device=weight.device)

    @torch.jit.unused
    def sent_by_types(self) -> torch.Tensor | None:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.sent_by_types`."""
        sent: torch.Tensor = self.interactions[0].outgoing(*self.embedding())
        return sent

    @torch.jit.unused
    def lone_energies(self) -> torch.Tensor:
        """What the package ``nequip`` gives atoms without neighbours, without shift; eV, float64, shape (ntypes,)."""
        features, one_hot = self.embedding()
        for layer in self.interactions:
            features = layer.alone(features, one_hot)
        return self.scale * self.readouts(features).to(torch.float64)

    @torch.jit.unused
    def element_axes(self) -> "dict[str, tuple[int | list[tuple[int, int]], bool]]":
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.element_axes`; e3nn's maps are divided by the root."""
        axes: dict[str, tuple[int | list[tuple[int, int]], bool]] = {
            "node_embedding.linear.weight": (1, True)
        }
        for index, layer in enumerate(self.interactions):
            self_connection: Linear | torch.nn.Module = layer.skip_tp
            if isinstance(self_connection, Linear):
                axes[f"interactions.{index}.skip_tp.weight"] = (self_connection.blocks, True)
        return axes
