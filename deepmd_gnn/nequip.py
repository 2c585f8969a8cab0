"""``"type": "nequip"``: NequIP as a model of DeePMD-kit. What is NequIP's own; the rest is :class:`~deepmd_gnn.host.model.GraphModel`."""

from typing import TYPE_CHECKING, Any

import torch

from deepmd_gnn.config.described import options_of
from deepmd_gnn.config.nequip import NequipConfig, check_only_mm
from deepmd_gnn.config.options import config_from_options
from deepmd_gnn.host.model import GraphModel
from deepmd_gnn.host.registry import register
from deepmd_gnn.nequip_network import build_energy
from deepmd_gnn.nn.nequip import NequipEnergy
from deepmd_gnn.nn.nequip_names import take_weights
from deepmd_gnn.nn.trainable import freeze_parts


@register("nequip")
class NequipModel(GraphModel):
    """NequIP for DeePMD-kit's PyTorch backends.

    Parameters
    ----------
    type_map : list[str]
        Chemical symbols and MM types (:mod:`~deepmd_gnn.config.mm_types`).
    **options : Any
        Fields of :class:`~deepmd_gnn.config.nequip.NequipConfig` (or their aliases), and parameters and generic keys of
        :class:`~deepmd_gnn.host.model.GraphModel`.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """

    title = "NequIP"

    if TYPE_CHECKING:
        config: NequipConfig
        energy_model: NequipEnergy

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> NequipConfig:
        """Pick the configuration out of a model section, see :func:`~deepmd_gnn.config.options.config_from_options`."""
        return config_from_options(options, NequipConfig)

    def new_network(self, atomic_numbers: list[int]) -> NequipEnergy:
        """Build the network for these atomic numbers; parts the user froze are not trained."""
        network = build_energy(self.config, atomic_numbers)
        freeze_parts(network, self.config.freeze)
        return network

    def described_options(self) -> dict[str, dict[str, Any]]:
        """The options that belong to features and to readouts."""
        return options_of(self.config, self.type_map, self.pair_exclude_types, self.atom_exclude_types)

    def atomic_numbers_of(self, type_map: list[str]) -> list[int]:
        """Atomic numbers of the types; a lone atom has no energy but E0, so that MM types need nothing."""
        numbers = super().atomic_numbers_of(type_map)
        check_only_mm(type_map)
        return numbers

    @torch.jit.unused
    def take_package_weights(self, state: dict[str, torch.Tensor]) -> None:
        """Take over weights, scale and shifts of the package ``nequip`` 0.6; energies are its own then, lone atoms included.

        Parameters
        ----------
        state : dict[str, torch.Tensor]
            ``state_dict()`` of its energy model with the same options and the same elements in the same order.

        Raises
        ------
        ValueError
            If something is missing or of another shape.
        """
        self.set_out_bias(take_weights(self.energy_model, state))
