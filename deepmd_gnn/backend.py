"""Entry point ``deepmd.backend``: makes every ``dp`` process know the input keys of ``"type": "mace"``.

Loaded before any backend is chosen, so nothing here may import torch.
"""

from deepmd_gnn import argcheck as argcheck


def load() -> None:
    """Do nothing: the registration happens when DeePMD-kit imports this module."""
