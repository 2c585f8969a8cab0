"""``"type": "nequip"``: NequIP as a model of DeePMD-kit. What is NequIP's own; the rest is :class:`~deepmd_gnn.host.model.GraphModel`."""

from typing import TYPE_CHECKING, Any

from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.host.model import GraphModel
from deepmd_gnn.host.registry import register
from deepmd_gnn.nequip_network import build_energy
from deepmd_gnn.nn.nequip import NequipEnergy
from deepmd_gnn.nn.trainable import freeze_parts


@register("nequip")
class NequipModel(GraphModel):
    """NequIP for DeePMD-kit's PyTorch backends."""

    if TYPE_CHECKING:
        config: NequipConfig
        energy_model: NequipEnergy

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> NequipConfig:
        """Pick the configuration out of a model section."""
        import dataclasses

        names = {f.name for f in dataclasses.fields(NequipConfig)}
        return NequipConfig(**{k: v for k, v in options.items() if k in names})

    def new_network(self, atomic_numbers: list[int]) -> NequipEnergy:
        """Build the network for these atomic numbers; parts the user froze are not trained."""
        network = build_energy(self.config, atomic_numbers)
        freeze_parts(network, self.config.freeze)
        return network
