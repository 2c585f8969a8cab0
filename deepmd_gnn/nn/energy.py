"""The MACE energy of every atom as a function of a graph: the one function that all paths evaluate."""

from typing import Final

import torch

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.deepmd_ops import exchange
from deepmd_gnn.graph.atom_graph import Arrangement, AtomGraph, sum_at_receivers, trains_compiled
from deepmd_gnn.graph.edge_sums import rows_between, rows_of_types
from deepmd_gnn.mace_network import (
    build_native,
    interaction_from,
    product_from,
    readout_from,
    spherical_harmonics_up_to,
)
from deepmd_gnn.nn.linear import Weight
from deepmd_gnn.nn.repulsion import Repulsion
from deepmd_gnn.nn.soft_transform import OldSoftTransform


class MaceEnergy(torch.nn.Module):
    r"""Interaction energy of ScaleShiftMACE [1]_ without E0.

    :math:`E_i = s \,( \sum_t R_t(h_i^{(t)}) + V_i^{ZBL} )` in float64, the learned part in `config.precision`.

    Parameters
    ----------
    config : MaceConfig
        Architecture and given statistics.
    atomic_numbers : list[int]
        Elements in the order of the type map.

    References
    ----------
    .. [1] I. Batatia et al., NeurIPS 2022, arXiv:2206.07697.
    """

    repulsive: Final[bool]
    unbounded: Final[bool]
    avg_num_neighbors: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: MaceConfig, atomic_numbers: list[int]) -> None:
        super().__init__()
        native = build_native(config, atomic_numbers, to_run=False)
        self.ntypes = len(atomic_numbers)
        self.channels = config.channels
        self.repulsive = config.pair_repulsion
        # Messages of these blocks do not vanish with the radial features: edges beyond r_max are cut off.
        self.unbounded = config.jumps_at_cutoff
        self.r_max = float(config.r_max)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.arrangement = Arrangement()
        self.node_embedding = torch.nn.Module()
        self.node_embedding.linear = Weight(native.node_embedding.linear.weight)
        self.radial_embedding = native.radial_embedding
        if config.distance_transform == "OldSoft":
            radii = native.radial_embedding.distance_transform.covalent_radii
            self.radial_embedding.distance_transform = OldSoftTransform(radii)
        self.spherical_harmonics = spherical_harmonics_up_to(config.max_ell)
        self.pair_repulsion_fn = (
            Repulsion(native.pair_repulsion_fn) if self.repulsive else torch.nn.Identity()
        )
        self.interactions = torch.nn.ModuleList(
            [interaction_from(block, self.ntypes) for block in native.interactions]
        )
        self.products = torch.nn.ModuleList([product_from(block) for block in native.products])
        self.readouts = torch.nn.ModuleList(
            [readout_from(block, config.gate, config.channels) for block in native.readouts]
        )
        # Components of the irreps of each layer's features, for their native order.
        self.irrep_dims = [[ir.dim for _, ir in block.linear.irreps_out] for block in native.products]
        # Bases of the geometry (and the steep ZBL term) stay in float64; the learned part has the set precision.
        for part in (self.node_embedding, self.interactions, self.products, self.readouts):
            part.to(self.dtype)
        self.register_buffer("atomic_numbers", native.atomic_numbers)
        self.register_buffer(
            "avg_num_neighbors", torch.tensor(_given(config.avg_num_neighbors), dtype=torch.float64)
        )
        self.register_buffer("scale", torch.tensor(_given(config.scale), dtype=torch.float64))

    def forward(
        self, graph: AtomGraph, comm_dict: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Evaluate the network.

        Parameters
        ----------
        graph : AtomGraph
            Types and edge vectors.
        comm_dict : dict[str, torch.Tensor], optional
            Communication tensors if ghosts are senders of their own; layers 2… then exchange features.

        Returns
        -------
        energy : torch.Tensor
            eV, float64, shape (nnode,).
        features : list[torch.Tensor]
            Node features of each layer, shape (nnode, components, channels).
        """
        graph = self.arrangement(graph)
        types = graph.node_types
        opaque = trains_compiled(graph)
        compiled = opaque or graph.incoming is not None
        nnode, nsender = types.shape[0], graph.sender_types.shape[0]
        vectors = -graph.edge_vec  # MACE: receiver minus sender
        lengths = torch.linalg.norm(vectors, dim=1, keepdim=True)
        sender_one_hot = torch.nn.functional.one_hot(graph.sender_types, self.ntypes).to(self.dtype)
        one_hot = rows_between(sender_one_hot, 0, nnode, opaque)
        edge_attrs = self.spherical_harmonics(vectors).to(self.dtype)
        edge_feats, cutoff = self.radial_embedding(
            lengths, sender_one_hot, graph.edge_index, self.atomic_numbers
        )
        edge_feats = edge_feats.to(self.dtype)
        if self.unbounded:
            cutoff = lengths < self.r_max
        if cutoff is not None:
            cutoff = cutoff.to(self.dtype)
        # Before the first message the features depend on the element only: computed per type, known for ghosts.
        weight = self.node_embedding.linear.weight
        embedding = (weight * self.ntypes**-0.5).view(self.ntypes, 1, self.channels)
        features = rows_of_types(embedding, types, opaque)
        energy = torch.zeros(nnode, dtype=torch.float64, device=vectors.device)
        if self.repulsive:
            numbers = self.atomic_numbers[graph.sender_types].to(torch.int64).unsqueeze(1)
            repulsion = self.pair_repulsion_fn(
                lengths, numbers[graph.edge_index[0]], numbers[graph.edge_index[1]]
            )
            energy = energy + sum_at_receivers(repulsion, graph).squeeze(1)
        all_features: list[torch.Tensor] = []
        for layer, (interaction, product) in enumerate(
            zip(self.interactions, self.products)  # noqa: B905 - TorchScript
        ):
            if layer == 0:
                sent = rows_of_types(interaction.outgoing(embedding, one_hot), graph.sender_types, opaque)
            else:
                sent = exchange(interaction.outgoing(features, one_hot), nsender, comm_dict)
            message = interaction.messages(
                sent,
                graph,
                edge_attrs,
                edge_feats,
                cutoff,
                graph.sender_types,
                one_hot,
                self.avg_num_neighbors,
            )
            if interaction.residual:
                features = product(message, types, one_hot, compiled) + interaction.skip(features, one_hot)
            else:
                features = product(interaction.skip(message, one_hot), types, one_hot, compiled)
            all_features.append(features)
        # With use_last_readout_only there is one readout, of the last layer.
        first_read = len(all_features) - len(self.readouts)
        for index, readout in enumerate(self.readouts):
            energy = energy + readout(all_features[first_read + index]).to(torch.float64)
        return self.scale * energy, all_features

    def native_features(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Order node features as native MACE's ``node_feats``: layers, irreps, channels, components.

        Parameters
        ----------
        features : list[torch.Tensor]
            Second result of :meth:`forward`.

        Returns
        -------
        torch.Tensor
            Shape (nnode, ·).
        """
        columns: list[torch.Tensor] = []
        for layer, dims in zip(features, self.irrep_dims):  # noqa: B905 - TorchScript
            begin = 0
            for dim in dims:
                columns.append(layer[:, begin : begin + dim].transpose(1, 2).flatten(1))
                begin += dim
        return torch.cat(columns, dim=1)


def _given(value: float | str) -> float:
    return 1.0 if value == "auto" else float(value)
