"""``"descriptor": {"type": "mace"}``: MACE's node features below DeePMD-kit's own fitting networks. What is MACE's own."""

from typing import TYPE_CHECKING, Any

from deepmd_gnn.config.descriptor import (
    architecture,
    check_elements,
    descriptor_config,
    place_of_vectors,
    plain_options,
)
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.host.descriptor import GraphDescriptor
from deepmd_gnn.host.registry import register_descriptor
from deepmd_gnn.mace_network import build_energy
from deepmd_gnn.nn.energy import MaceEnergy
from deepmd_gnn.nn.modules import ModuleList
from deepmd_gnn.nn.trainable import freeze_parts


@register_descriptor("mace")
class MaceDescriptor(GraphDescriptor):
    """Scalars and vectors of MACE's nodes, see :class:`~deepmd_gnn.host.descriptor.GraphDescriptor`."""

    if TYPE_CHECKING:
        config: MaceConfig
        network: MaceEnergy

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> MaceConfig:
        """See :func:`~deepmd_gnn.config.descriptor.descriptor_config`."""
        return descriptor_config(options)

    def new_network(self, atomic_numbers: list[int]) -> MaceEnergy:
        """Build the network without readouts; parts the user froze are not trained."""
        network = build_energy(self.config, atomic_numbers)
        network.readouts = ModuleList([])
        freeze_parts(network, self.config.freeze)
        return network

    def places_of_vectors(self) -> list[int]:
        """See :func:`~deepmd_gnn.config.descriptor.place_of_vectors`."""
        return place_of_vectors(self.config)

    def described_options(self) -> dict[str, Any]:
        """Architecture and elements."""
        return {
            **architecture(self.config),
            "type_map": list(self.type_map),
            "exclude_types": self.exclude_types,
        }

    def section(self) -> dict[str, Any]:
        """Keys of the section, as plain values."""
        return plain_options(self.config)

    def atomic_numbers_of(self, type_map: list[str]) -> list[int]:
        """Atomic numbers of the types; MM types are refused."""
        check_elements(type_map)
        return super().atomic_numbers_of(type_map)
