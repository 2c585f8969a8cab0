"""Options: their names, types, defaults, checks and texts, each defined once. No torch."""

from deepmd_gnn.config.mace import MaceConfig

__all__ = ["MaceConfig"]
