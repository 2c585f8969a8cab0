"""A second network, to see that host/ knows nothing of MACE: an invariant message-passing sum."""

import dataclasses

import torch

from deepmd_gnn.deepmd_ops import Exchange
from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_sums import rows_of_senders, rows_of_types, sum_at_receivers
from deepmd_gnn.host.model import GraphModel
from deepmd_gnn.host.registry import register
from deepmd_gnn.nn.network import EnergyNetwork


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    r_max: float = 4.0
    sel: int | str = 50
    layers: int = 2
    seed: int = 1
    avg_num_neighbors: float | str = "auto"
    scale: float | str = "auto"
    atomic_energies: object = "auto"

    def to_dict(self):
        return dataclasses.asdict(self)


class ToyNetwork(EnergyNetwork):
    r"""Features :math:`h_i' = \tanh(h_i W + n^{-1} \sum_j (1 - r^2 / r_c^2)^3 e^{-k r} h_j)` of `channels` numbers."""

    def __init__(self, config, atomic_numbers):
        super().__init__()
        self.ntypes, self.channels, self.nlayers = len(atomic_numbers), 4, config.layers
        self.dtype, self.r_max = torch.float64, config.r_max
        random = torch.Generator().manual_seed(config.seed)
        shapes = {"elements": (self.ntypes, 4), "mixing": (config.layers, 4, 4), "readouts": (4, 1)}
        for name, shape in shapes.items():
            values = torch.randn(shape, generator=random, dtype=torch.float64, device="cpu")
            setattr(self, name, torch.nn.Parameter(values))
        self.exchange = Exchange()
        self.register_buffer("atomic_numbers", torch.tensor(atomic_numbers))
        for name in ("avg_num_neighbors", "scale"):
            value = getattr(config, name)
            self.register_buffer(name, torch.tensor(1.0 if value == "auto" else value, dtype=torch.float64))

    def forward(
        self, graph: AtomGraph, comm_dict: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        distance = torch.linalg.norm(graph.edge_vec, dim=1, keepdim=True)
        envelope = (1.0 - (distance / self.r_max).square()).clamp(min=0.0) ** 3
        radial = envelope * torch.exp(-0.3 * torch.arange(4, device=distance.device) * distance)
        sent = rows_of_types(self.elements, graph.sender_types, graph)
        features = rows_of_types(self.elements, graph.node_types, graph)
        # A lone atom shall have no energy but E0.
        alone = features
        layers: list[torch.Tensor] = []
        for layer in range(self.nlayers):
            if layer > 0:
                sent = self.exchange(features, graph.sender_types.shape[0], comm_dict)
            message = sum_at_receivers(radial * rows_of_senders(sent, graph), graph) / self.avg_num_neighbors
            features = torch.tanh((features @ self.mixing[layer]) + message)
            alone = torch.tanh(alone @ self.mixing[layer])
            layers.append(features.unsqueeze(1))
        energy = ((features - alone) @ self.readouts).squeeze(1)
        return self.scale * energy, layers

    @torch.jit.unused
    def element_axes(self) -> dict[str, tuple[int, bool]]:
        return {"elements": (1, False)}


@register("toy")
class ToyModel(GraphModel):
    @classmethod
    def config_from_options(cls, options):
        names = {field.name for field in dataclasses.fields(ToyConfig)}
        return ToyConfig(**{key: value for key, value in options.items() if key in names})

    def new_network(self, atomic_numbers):
        return ToyNetwork(self.config, atomic_numbers)
