"""The tests are where one looks for them: each module of the package has a test in its own room that imports it."""

import ast
import re

import pytest
from documented import ROOT

ROOMS = sorted(path.name for path in (ROOT / "deepmd_gnn").iterdir() if (path / "__init__.py").exists())
# Modules of no room, and the room of their tests.
BESIDE = {
    "mace": "host",
    "mace_network": "nn",
    "mace_construction": "nn",
    "mace_cuequivariance": "nn",
    "deepmd_ops": "host",
    "backend": "host",
    "pt": "host",
    "pt_expt": "host",
    "cli": "commands",
}


def imported(path):
    """Modules, and what is imported from them, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def modules():
    """Module of the package → room of its tests."""
    package = ROOT / "deepmd_gnn"
    for path in sorted(package.rglob("*.py")):
        name = ".".join(path.relative_to(package).with_suffix("").parts)
        if not path.name.startswith("__"):
            yield name, BESIDE[name] if "." not in name else name.split(".")[0]


@pytest.mark.parametrize("path", sorted((ROOT / "tests").glob("*/test_*.py")), ids=lambda path: path.stem)
def test_no_test_imports_another(path):
    assert not [name for name in imported(path) if re.match(r"test_\w+$", name)]


@pytest.mark.parametrize(("module", "room"), modules())
def test_a_test_of_its_room_imports_it(module, room):
    tests = (ROOT / "tests" / room).glob("test_*.py")
    assert any(f"deepmd_gnn.{module}" in imported(path) for path in tests), (
        f"no test of tests/{room} imports deepmd_gnn.{module}; import what it defines in the test of it"
    )
