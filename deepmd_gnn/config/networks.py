"""The networks of the package by the type of their model section: what a user can set about each. No torch here."""

from typing import Any

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.nequip import NequipConfig

Config = MaceConfig | NequipConfig
CONFIGS: dict[str, type[Config]] = {config.kind: config for config in (MaceConfig, NequipConfig)}


def config_class(kind: Any) -> type[Config]:
    """Options of a network; MACE's for other types."""
    return CONFIGS.get(str(kind), MaceConfig)
