"""The tests are where one looks for them: each module of the package has a test in its own room that imports it."""

import ast
import re

import pytest
from documented import ROOT

ROOMS = sorted(path.name for path in (ROOT / "deepmd_gnn").iterdir() if (path / "__init__.py").exists())
# Modules of no room whose tests are elsewhere than those of the model, in host.
BESIDE = {
    "mace_network": "nn",
    "nequip_network": "nn",
    "mace_construction": "nn",
    "mace_modules": "nn",
    "cli": "commands",
    "moved": "system",
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
            yield name, name.split(".")[0] if "." in name else BESIDE.get(name, "host")


def test_no_test_imports_another():
    for path in (ROOT / "tests").glob("*/test_*.py"):
        assert not [name for name in imported(path) if re.match(r"test_\w+$", name)], path


def test_no_two_files_have_one_name():
    """pytest takes the second for the first, once both are collected."""
    names = [path.name for path in (ROOT / "tests").glob("*/test_*.py")]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("room", sorted({*ROOMS, *BESIDE.values()}))
def test_modules_of_a_room_are_imported_by_its_tests(room):
    tests = [imported(path) for path in (ROOT / "tests" / room).glob("test_*.py")]
    ours = [module for module, of in modules() if of == room]
    lacking = {module for module in ours if not any(f"deepmd_gnn.{module}" in names for names in tests)}
    assert not lacking, f"tests/{room} has no test of these modules"
