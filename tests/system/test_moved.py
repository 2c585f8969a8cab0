"""Paths of before the package had rooms."""

import importlib

import pytest

from deepmd_gnn.moved import MOVED


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_old_path_is_the_same_module(old, new):
    assert importlib.import_module(old) is importlib.import_module(new)
    assert importlib.import_module(new).__name__ == new


def test_promised_names():
    """What docs/api.md names, under both paths."""
    from deepmd_gnn.checks import PhysicsChecks, compare_ranks  # noqa: F401
    from deepmd_gnn.freeze_command import freeze  # noqa: F401
    from deepmd_gnn.model_summary import summarise  # noqa: F401
    from deepmd_gnn.native_import import load_mace  # noqa: F401
    from deepmd_gnn.structures import Structure  # noqa: F401

    from deepmd_gnn.config import MaceConfig  # noqa: F401
