"""The MACE energy of every atom as a function of a graph: the one function that all paths evaluate."""

from typing import Final

import torch

from deepmd_gnn.config import MaceConfig
from deepmd_gnn.ghosts import exchange
from deepmd_gnn.graph import AtomGraph
from deepmd_gnn.mace_network import Interaction, Readout, build_native


class MaceEnergy(torch.nn.Module):
    r"""Interaction energy of ScaleShiftMACE [1]_ without E0.

    :math:`E_i = s \,( \sum_t R_t(h_i^{(t)}) + V_i^{ZBL} )` in float64, the learned
    part in `config.precision`.

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
    avg_num_neighbors: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: MaceConfig, atomic_numbers: list[int]) -> None:
        super().__init__()
        native = build_native(config, atomic_numbers)
        self.ntypes = len(atomic_numbers)
        self.r_max = float(config.r_max)
        self.repulsive = config.pair_repulsion
        self.dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.node_embedding = native.node_embedding
        self.radial_embedding = native.radial_embedding
        self.spherical_harmonics = native.spherical_harmonics
        self.pair_repulsion_fn = native.pair_repulsion_fn if self.repulsive else torch.nn.Identity()
        self.interactions = torch.nn.ModuleList([Interaction(block) for block in native.interactions])
        self.products = native.products
        self.readouts = torch.nn.ModuleList([Readout(block, config.gate) for block in native.readouts])
        _replace_frozen_zeros(self)
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
    ) -> tuple[torch.Tensor, torch.Tensor]:
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
        features : torch.Tensor
            Node features of all layers side by side, shape (nnode, ·).
        """
        nnode, nsender = graph.node_types.shape[0], graph.sender_types.shape[0]
        vectors = -graph.edge_vec  # MACE: receiver minus sender
        lengths = torch.linalg.norm(vectors, dim=1, keepdim=True)
        one_hot = torch.nn.functional.one_hot(graph.sender_types, self.ntypes).to(self.dtype)
        node_attrs = one_hot[:nnode]
        edge_attrs = self.spherical_harmonics(vectors).to(self.dtype)
        edge_feats, cutoff = self.radial_embedding(lengths, one_hot, graph.edge_index, self.atomic_numbers)
        edge_feats = edge_feats.to(self.dtype)
        if cutoff is not None:
            cutoff = cutoff.to(self.dtype)
        # Before the first message the features depend on the element only: computed per type, known for ghosts.
        embedding = self.node_embedding(torch.eye(self.ntypes, dtype=self.dtype, device=vectors.device))
        features = embedding[graph.node_types]
        energy = torch.zeros(nnode, dtype=torch.float64, device=vectors.device)
        if self.repulsive:
            repulsion = self.pair_repulsion_fn(lengths, one_hot, graph.edge_index, self.atomic_numbers)
            energy = energy + repulsion[:nnode]
        all_features: list[torch.Tensor] = []
        for layer, (interaction, product, readout) in enumerate(
            zip(self.interactions, self.products, self.readouts)  # noqa: B905 - TorchScript
        ):
            if layer == 0:
                sent = interaction.linear_up(embedding)[graph.sender_types]
            else:
                sent = exchange(interaction.linear_up(features), nsender, comm_dict)
            message = interaction.messages(
                sent, graph.edge_index, edge_attrs, edge_feats, cutoff, nnode, self.avg_num_neighbors
            )
            skip = None
            if interaction.residual:
                skip = interaction.skip_tp(features, node_attrs)
            else:
                message = interaction.skip_tp(message, node_attrs)
            features = product(interaction.reshape(message), skip, node_attrs)
            energy = energy + readout(features).to(torch.float64)
            all_features.append(features)
        return self.scale * energy, torch.cat(all_features, dim=1)


def _given(value: float | str) -> float:
    return 1.0 if value == "auto" else float(value)


def _replace_frozen_zeros(module: torch.nn.Module) -> None:
    """Turn MACE's placeholder parameters (couplings that vanish) into plain frozen ones, which can be copied."""
    for child in module.modules():
        for name, parameter in list(child.named_parameters(recurse=False)):
            if type(parameter) is not torch.nn.Parameter:
                setattr(child, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False))
