"""The MACE energy of every atom as a function of a graph: the one function that all paths evaluate."""

from typing import Final, NamedTuple

import torch

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.graph.atom_graph import Arrangement, AtomGraph
from deepmd_gnn.graph.edge_sums import rows_of_nodes, rows_of_types
from deepmd_gnn.nn.activations import activate
from deepmd_gnn.nn.inputs import EdgeVectors, Elements, NodeEmbedding
from deepmd_gnn.nn.interactions import InteractionBlock
from deepmd_gnn.nn.linear import Linear, Weight
from deepmd_gnn.nn.modules import ModuleList
from deepmd_gnn.nn.readouts import BiasReadout, Readout
from deepmd_gnn.nn.staged_network import StagedNetwork
from deepmd_gnn.nn.stages import Stages, sent_by_kinds
from deepmd_gnn.nn.symmetric_contraction import Product


class Blocks(NamedTuple):
    """What a network is made of; layers one after the other."""

    node_embedding: Weight
    radial_embedding: torch.nn.Module
    spherical_harmonics: torch.nn.Module
    repulsion: torch.nn.Module
    """Identity without ZBL."""
    interactions: list[InteractionBlock]
    products: list[Product]
    readouts: list[Readout | BiasReadout]
    irrep_dims: list[list[int]]
    """Components of the irreps of each layer's features, for their native order."""
    joint_embedding: torch.nn.Module
    """Identity without quantities of frames."""
    embedding_readout: torch.nn.Module
    """Identity without ``use_embedding_readout``."""
    partial_charges: torch.nn.Module
    """Identity without ``use_coulomb_term``."""


class MaceEnergy(StagedNetwork):
    r"""Interaction energy of ScaleShiftMACE [1]_ without E0.

    :math:`E_i = s \,( \sum_t R_t(h_i^{(t)}) + V_i^{ZBL} )` in float64, the learned part in `config.precision`. With
    ``embeddings`` :math:`h_i^{(0)}` depends on quantities of the frame, and ``use_embedding_readout`` adds
    :math:`R_0(h_i^{(0)})`.

    Parameters
    ----------
    config : MaceConfig
        Architecture and given statistics.
    atomic_numbers : torch.Tensor
        Elements in the order of the type map, int64, shape (ntypes,).
    blocks : Blocks
        With their weights in float64.
    exchange : torch.nn.Module
        Gives every sender its features, see :class:`~deepmd_gnn.deepmd_ops.Exchange`.

    References
    ----------
    .. [1] I. Batatia et al., NeurIPS 2022, arXiv:2206.07697.
    """

    repulsive: Final[bool]
    unbounded: Final[bool]
    conditioned: Final[bool]
    reads_embedding: Final[bool]
    activates_embedding: Final[bool]
    has_charges: Final[bool]
    reads_features: Final[bool]
    skips_embedding: Final[bool]

    def __init__(
        self, config: MaceConfig, atomic_numbers: torch.Tensor, blocks: Blocks, exchange: torch.nn.Module
    ) -> None:
        super().__init__()
        self.ntypes = atomic_numbers.shape[0]
        self.channels = config.channels
        self.nlayers = len(blocks.interactions)
        self.repulsive = config.pair_repulsion
        # Messages of these blocks do not vanish with the radial features: edges beyond r_max are cut off.
        self.unbounded = config.jumps_at_cutoff
        self.r_max = float(config.r_max)
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.arrangement = Arrangement()
        self.edge_vectors = EdgeVectors()
        self.elements = Elements(self.ntypes, self.dtype)
        self.node_embedding = NodeEmbedding(blocks.node_embedding)
        self.activates_embedding = config.use_total_charge_embedding
        self.embed_activation = config.embed_activation
        self.has_charges = config.use_coulomb_term
        self.conditioned = bool(config.features) or self.activates_embedding
        self.joint_embedding = blocks.joint_embedding
        self.reads_embedding = config.use_embedding_readout
        self.embedding_readout = blocks.embedding_readout
        self.partial_charges = blocks.partial_charges
        self.radial_embedding = blocks.radial_embedding
        self.spherical_harmonics = blocks.spherical_harmonics
        self.pair_repulsion_fn = blocks.repulsion
        self.interactions = ModuleList(blocks.interactions)
        # With radial weights from tables only learned densities read the radial features.
        self.reads_features = any(block.density for block in blocks.interactions)
        # Only then are the features before the first message those of nodes.
        self.skips_embedding = blocks.interactions[0].residual
        self.products = ModuleList(blocks.products)
        self.readouts = ModuleList(blocks.readouts)
        self.exchange = exchange
        self.irrep_dims = blocks.irrep_dims
        # Bases of the geometry (and the steep ZBL term) stay in float64; the learned part has the set precision.
        for part in (
            self.node_embedding,
            self.joint_embedding,
            self.embedding_readout,
            self.partial_charges,
            self.interactions,
            self.products,
            self.readouts,
        ):
            part.to(self.dtype)
        self.register_buffer("atomic_numbers", atomic_numbers)
        self.register_buffer(
            "avg_num_neighbors", torch.tensor(_given(config.avg_num_neighbors), dtype=torch.float64)
        )
        self.register_buffer("scale", torch.tensor(_given(config.scale), dtype=torch.float64))

    def forward(
        self,
        graph: AtomGraph,
        comm_dict: dict[str, torch.Tensor] | None,
        stages: Stages | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.forward`."""
        graph = self.arrangement(graph)
        types = graph.node_types
        nsender = graph.sender_types.shape[0]
        sender_one_hot = self.elements(graph.sender_types)
        one_hot = rows_of_nodes(sender_one_hot, graph)
        edge_attrs, edge_feats, cutoff, energies = self.of_edges(graph, sender_one_hot, stages)
        embedding, kinds = self.first_features(graph)
        first = self.first_of_nodes(embedding, kinds, graph)
        features = first
        all_features: list[torch.Tensor] = []
        for layer, (interaction, product) in enumerate(
            zip(self.interactions, self.products)  # noqa: B905 - TorchScript
        ):
            if layer == 0:
                sent = sent_by_kinds(interaction.outgoing(embedding, one_hot), kinds, graph, stages)
            else:
                sent = self.exchange(interaction.outgoing(features, one_hot), nsender, comm_dict)
            message = interaction.messages(
                sent,
                graph,
                edge_attrs,
                edge_feats,
                cutoff,
                graph.sender_types,
                one_hot,
                self.avg_num_neighbors,
                stages,
            )
            if interaction.residual:
                skipped = interaction.skip(features, one_hot)
                features = product(message, types, one_hot, graph, stages) + skipped
            else:
                message = interaction.skip(message, one_hot)  # in place of the other, which takes memory
                features = product(message, types, one_hot, graph, stages)
            all_features.append(features)
        return self.total_energy(energies, first, all_features, graph, comm_dict), all_features

    def of_edges(
        self, graph: AtomGraph, sender_one_hot: torch.Tensor, stages: Stages | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, list[torch.Tensor]]:
        """What does not depend on features; vectors and lengths end here, so that kernels, which do not need them, save their memory.

        Parameters
        ----------
        graph : AtomGraph
            Arranged.
        sender_one_hot : torch.Tensor
            Elements, shape (nsender, ntypes).
        stages : Stages, optional
            See :meth:`forward`.

        Returns
        -------
        edge_attrs, edge_feats : torch.Tensor
            Spherical harmonics and radial features, shape (nedge, ·).
        cutoff : torch.Tensor, optional
            Envelope of the messages, shape (nedge, 1).
        energies : list[torch.Tensor]
            Repulsion of the nodes before `scale`, if there is any, eV, float64, shape (nnode,).
        """
        vectors, lengths = self.edge_vectors(graph.edge_vec)
        edge_attrs = self.edge_harmonics(vectors, stages)
        edge_feats, cutoff = lengths, torch.jit.annotate(torch.Tensor | None, None)
        if stages is None or self.reads_features:
            edge_feats, cutoff = self.radial_embedding(
                lengths, sender_one_hot, graph.edge_index, self.atomic_numbers
            )
        edge_feats = edge_feats.to(self.dtype)
        if self.unbounded:
            cutoff = lengths < self.r_max
        if cutoff is not None:
            cutoff = cutoff.to(self.dtype)
        energies: list[torch.Tensor] = []
        if self.repulsive:
            numbers = self.atomic_numbers[graph.sender_types].to(torch.int64).unsqueeze(1)
            energies.append(self.pair_repulsion_fn(lengths, numbers, graph).squeeze(1))
        return edge_attrs, edge_feats, cutoff, energies

    def first_of_nodes(self, embedding: torch.Tensor, kinds: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """Give the nodes their :meth:`first_features`, if anything reads them, shape (nnode, 1, channels)."""
        if self.reads_embedding or self.skips_embedding:
            return rows_of_types(embedding, rows_of_nodes(kinds, graph), graph)
        return embedding

    def total_energy(
        self,
        parts: list[torch.Tensor],
        first: torch.Tensor,
        features: list[torch.Tensor],
        graph: AtomGraph,
        comm_dict: dict[str, torch.Tensor] | None,
    ) -> torch.Tensor:
        """Sum the energies of the nodes, eV, float64, shape (nnode,).

        Parameters
        ----------
        parts : list[torch.Tensor]
            Of :meth:`of_edges`; those of the readouts are added to the list.
        first : torch.Tensor
            :meth:`first_of_nodes`.
        features : list[torch.Tensor]
            Of all layers, shape (nnode, components, channels).
        graph, comm_dict :
            As of :meth:`forward`.
        """
        # With use_last_readout_only there is one readout, of the last layer; a descriptor has none.
        first_read = len(features) - len(self.readouts)
        for index, readout in enumerate(self.readouts):
            parts.append(readout(features[first_read + index]).to(torch.float64))
        if len(parts) == 0:
            nnode = graph.node_types.shape[0]
            parts.append(torch.zeros(nnode, dtype=torch.float64, device=graph.node_types.device))
        energy = parts[0]
        for part in parts[1:]:
            energy = energy + part
        energy = self.scale * energy
        if self.reads_embedding:
            energy = energy + self.embedding_readout(first).to(torch.float64)
        if self.has_charges:
            energy = energy + self.coulomb_energy(features, graph, comm_dict)
        return energy

    def contraction_gradient(
        self, layer: int, graph: AtomGraph, stages: Stages, gradient: torch.Tensor
    ) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.staged_network.StagedNetwork.contraction_gradient`; shape (nnode, ·, channels) → the same."""
        for index, product in enumerate(self.products):
            if index == layer:
                gradient = product.symmetric_contractions.gradient_in_stages(
                    stages.messages[layer], product.kinds(graph.node_types), graph, gradient
                )
        return gradient

    def coulomb_energy(
        self, features: list[torch.Tensor], graph: AtomGraph, comm_dict: dict[str, torch.Tensor] | None
    ) -> torch.Tensor:
        """Energy of the charges of the nodes, eV, float64, shape (nnode,); arguments as of :meth:`charges` and :meth:`forward`."""
        charge = self.charges(features, graph)
        sent = self.exchange(charge.unsqueeze(1), graph.sender_types.shape[0], comm_dict).squeeze(1)
        energy: torch.Tensor = self.partial_charges.energies(charge, sent, graph)  # type: ignore[operator]
        return energy

    def charges(self, features: list[torch.Tensor], graph: AtomGraph) -> torch.Tensor:
        """Charges of the nodes, e, float64, shape (nnode,), from the features of all layers and a graph with pairs of charges."""
        if self.has_charges:
            inputs: list[torch.Tensor] = []
            first_read = len(features) - len(self.readouts)
            for index, readout in enumerate(self.readouts):
                inputs.append(readout.last_inputs(features[first_read + index]))
            return self.partial_charges(inputs, graph)  # type: ignore[no-any-return]
        return torch.zeros(graph.node_types.shape[0], dtype=torch.float64, device=graph.edge_vec.device)

    def first_features(self, graph: AtomGraph) -> tuple[torch.Tensor, torch.Tensor]:
        """Features before the first message: they depend on the element, and perhaps on the frame, so that they are known for ghosts.

        Parameters
        ----------
        graph : AtomGraph
            Types, and quantities of frames if the energy depends on any.

        Returns
        -------
        features : torch.Tensor
            A row for each type, or for each type of each frame; shape (nkind, 1, channels).
        kinds : torch.Tensor
            Row of each sender, int64, shape (nsender,).
        """
        weight = self.node_embedding.linear.weight
        features = (weight * self.ntypes**-0.5).view(self.ntypes, 1, self.channels)
        kinds = graph.sender_types
        if self.conditioned:
            values, frames = graph.values, graph.frames
            assert values is not None
            assert frames is not None
            states = self.joint_embedding(values).view(-1, 1, 1, self.channels)
            features = (features.unsqueeze(0) + states).view(-1, 1, self.channels)
            if self.activates_embedding:
                features = activate(features, self.embed_activation)
            kinds = frames * self.ntypes + kinds
        return features, kinds

    @torch.jit.unused
    def sent_by_types(self) -> torch.Tensor | None:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.sent_by_types`."""
        if self.conditioned:
            return None
        weight = self.node_embedding.linear.weight
        features = (weight * self.ntypes**-0.5).view(self.ntypes, 1, self.channels)
        of_types = torch.eye(self.ntypes, dtype=self.dtype, device=weight.device)
        sent: torch.Tensor = self.interactions[0].outgoing(features, of_types)
        return sent

    def feature_columns(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Order node features as native MACE's ``node_feats``: layers, irreps, channels, components; shape (nnode, ·)."""
        columns: list[torch.Tensor] = []
        for layer, dims in zip(features, self.irrep_dims):  # noqa: B905 - TorchScript
            begin = 0
            for dim in dims:
                columns.append(layer[:, begin : begin + dim].transpose(1, 2).flatten(1))
                begin += dim
        return torch.cat(columns, dim=1)

    def last_inputs(self, features: list[torch.Tensor], graph: AtomGraph) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.last_inputs`: those of the readouts, one after the other."""
        columns: list[torch.Tensor] = []
        first_read = len(features) - len(self.readouts)
        for index, readout in enumerate(self.readouts):
            columns.append(self.scale * readout.last_inputs(features[first_read + index]).to(torch.float64))
        if self.reads_embedding:
            embedding, kinds = self.first_features(graph)
            rows = embedding[kinds[: graph.node_types.shape[0]]]
            columns.append(self.embedding_readout.last_inputs(rows).to(torch.float64))  # type: ignore[operator]
        return torch.cat(columns, dim=1)

    @torch.jit.unused
    def last_layer(self) -> "list[str]":
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.last_layer`; with charges the energy is no linear function of it."""
        if self.has_charges:
            return []
        names = [
            f"readouts.{index}.{name}"
            for index, readout in enumerate(self.readouts)
            for name in readout.last_layer()
        ]
        if self.reads_embedding:
            assert isinstance(self.embedding_readout, Readout | BiasReadout)
            names += [f"embedding_readout.{name}" for name in self.embedding_readout.last_layer()]
        return names

    @torch.jit.unused
    def element_axes(self) -> "dict[str, tuple[int | list[tuple[int, int]], bool]]":
        """See :meth:`~deepmd_gnn.nn.network.EnergyNetwork.element_axes`; e3nn's maps are divided by the root."""
        axes: dict[str, tuple[int | list[tuple[int, int]], bool]] = {
            "node_embedding.linear.weight": (1, True)
        }
        for name, module in self.named_modules():
            if isinstance(module, Linear) and module.ntypes > 0:
                # Blocks of shape (inputs, elements, outputs) one after the other, all with the same inputs.
                axes[f"{name}.weight"] = (sum(path[4] for path in module.paths), True)
        axes |= {
            f"products.{index}.gate.bias": (1, False) for index, one in enumerate(self.products) if one.gated
        }
        agnostic = any(product.agnostic for product in self.products)
        for name, _ in self.named_parameters():
            if name.endswith(("source_embedding.weight", "target_embedding.weight")):
                axes[name] = (1, True)
            elif ".symmetric_contractions." in name and not agnostic:
                axes[name] = (1, False)
        return axes


def _given(value: float | str) -> float:
    return 1.0 if value == "auto" else float(value)
