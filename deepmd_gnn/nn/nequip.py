r"""The energy of NequIP [1]_ of every atom as a function of a graph; parameters shaped as in the package ``nequip`` 0.6.

Features are stored as in :mod:`~deepmd_gnn.nn.linear`, (node, component, channel), and the messages are those of
:class:`~deepmd_gnn.nn.convolution.Convolution`.

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
from deepmd_gnn.nn.network import EnergyNetwork
from deepmd_gnn.nn.nequip_parts import AtomwiseLinear, Nonlinearity, PathNetwork, RadialBasis, ScalarReadout


class Parts(NamedTuple):
    """What a network is made of; layers one after the other."""

    chemical_embedding: AtomwiseLinear
    radial_basis: RadialBasis
    spherical_harmonics: torch.nn.Module
    layers: "list[ConvNetLayer]"
    readouts: ScalarReadout


class InteractionBlock(torch.nn.Module):
    """What a layer does before its non-linearity: messages, and the self-connection.

    Parameters
    ----------
    linear_1, linear_2 : Linear
        Maps of the features before and after the convolution.
    tp : Convolution
        Messages along edges.
    fc : PathNetwork
        Radial weights.
    sc : Linear, optional
        Self-connection, with weights per element.
    """

    use_sc: Final[bool]

    def __init__(
        self, linear_1: Linear, tp: Convolution, fc: PathNetwork, linear_2: Linear, sc: Linear | None
    ) -> None:
        super().__init__()
        self.use_sc = sc is not None
        self.linear_1 = linear_1
        self.tp = tp
        self.fc = fc
        self.linear_2 = linear_2
        # TorchScript wants the attribute in every block; without self-connection it has no parameters.
        self.sc = torch.nn.Identity() if sc is None else sc

    def outgoing(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """What nodes send, shape (nnode, components, channels) → (nnode, ·)."""
        return self.linear_1(features, one_hot).flatten(1)

    def messages(
        self,
        sent: torch.Tensor,
        graph: AtomGraph,
        edge_attrs: torch.Tensor,
        edge_feats: torch.Tensor,
        one_hot: torch.Tensor,
        avg_num_neighbors: torch.Tensor,
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

        Returns
        -------
        torch.Tensor
            Shape (nnode, components with gates, channels).
        """
        features = sent.view(sent.shape[0], -1, self.linear_1.channels)
        message = self.tp(features, graph, edge_attrs, self.fc(edge_feats))
        return self.linear_2(message, one_hot) / avg_num_neighbors.sqrt().to(message.dtype)


class ConvNetLayer(torch.nn.Module):
    """A layer: interaction block and non-linearity.

    Parameters
    ----------
    conv : InteractionBlock
        Messages.
    equivariant_nonlin : Nonlinearity
        Its components and those that the block makes are the same.
    """

    def __init__(self, conv: InteractionBlock, equivariant_nonlin: Nonlinearity) -> None:
        super().__init__()
        self.conv = conv
        self.equivariant_nonlin = equivariant_nonlin

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
        if self.conv.use_sc:
            message = message + self.conv.sc(features, one_hot)
        return self.equivariant_nonlin(message)

    def alone(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """New features of atoms without neighbours, which receive nothing."""
        size = self.equivariant_nonlin.components
        nothing = features.new_zeros(features.shape[0], size, self.equivariant_nonlin.channels)
        return self.update(features, nothing, one_hot)


class NequipEnergy(EnergyNetwork):
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
        self.nlayers = len(parts.layers)
        self.r_max = float(config.r_max)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.arrangement = Arrangement()
        self.chemical_embedding = parts.chemical_embedding
        self.radial_basis = parts.radial_basis
        self.spherical_harmonics = parts.spherical_harmonics
        self.layers = ModuleList(parts.layers)
        self.readouts = parts.readouts
        self.exchange = exchange
        # The bases of the geometry stay in float64; the learned part has the set precision.
        for part in (self.chemical_embedding, self.layers, self.readouts):
            part.to(self.dtype)
        self.register_buffer("atomic_numbers", atomic_numbers)
        for name, value in (
            ("avg_num_neighbors", config.avg_num_neighbors),
            ("scale", config.scale),
        ):
            given = 1.0 if value == "auto" else float(value)
            self.register_buffer(name, torch.tensor(given, dtype=torch.float64))

    def forward(
        self, graph: AtomGraph, comm_dict: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.forward`."""
        graph = self.arrangement(graph)
        types, nsender = graph.node_types, graph.sender_types.shape[0]
        lengths = torch.linalg.norm(graph.edge_vec, dim=1, keepdim=True)
        edge_attrs = self.spherical_harmonics(graph.edge_vec).to(self.dtype)
        edge_feats = self.radial_basis(lengths).to(self.dtype)
        one_hot = torch.nn.functional.one_hot(types, self.ntypes).to(self.dtype)
        # Before the first message the features depend on the element only: computed per type, known for ghosts.
        alone, of_types = self.embedding()
        sent = rows_of_types(self.sent_first(alone, of_types), graph.sender_types, graph)
        features = rows_of_types(alone, types, graph)
        all_features: list[torch.Tensor] = []
        for index, layer in enumerate(self.layers):
            if index > 0:
                sent = self.exchange(layer.conv.outgoing(features, one_hot), nsender, comm_dict)
            message = layer.conv.messages(
                sent, graph, edge_attrs, edge_feats, one_hot, self.avg_num_neighbors
            )
            features = layer.update(features, message, one_hot)
            alone = layer.alone(alone, of_types)
            all_features.append(features)
        energy = self.readouts(features).to(torch.float64)
        lone = self.readouts(alone).to(torch.float64)
        return self.scale * (energy - rows_of_types(lone, types, graph)), all_features

    def embedding(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and one-hot elements of one atom per type, shapes (ntypes, 1, ·) and (ntypes, ntypes)."""
        weight = self.chemical_embedding.linear.weight
        features = (weight * self.ntypes**-0.5).view(self.ntypes, 1, -1)
        return features, torch.eye(self.ntypes, dtype=self.dtype, device=weight.device)

    def sent_first(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """What atoms of each type send in the first layer, shape (ntypes, ·)."""
        for index, layer in enumerate(self.layers):
            if index == 0:
                features = layer.conv.outgoing(features, one_hot)
        return features

    @torch.jit.unused
    def lone_energies(self) -> torch.Tensor:
        """What the package ``nequip`` gives atoms without neighbours, without shift; eV, float64, shape (ntypes,)."""
        features, one_hot = self.embedding()
        for layer in self.layers:
            features = layer.alone(features, one_hot)
        return self.scale * self.readouts(features).to(torch.float64)

    @torch.jit.unused
    def element_axes(self) -> "dict[str, tuple[int | list[tuple[int, int]], bool]]":
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.element_axes`; e3nn's maps are divided by the root."""
        axes: dict[str, tuple[int | list[tuple[int, int]], bool]] = {
            "chemical_embedding.linear.weight": (1, True)
        }
        for index, layer in enumerate(self.layers):
            if layer.conv.use_sc:
                axes[f"layers.{index}.conv.sc.weight"] = (layer.conv.sc.blocks, True)
        return axes
