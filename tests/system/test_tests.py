"""The tests are where one looks for them: each module of the package has a test in its own room that imports it."""

import ast
import re

import pytest
from documented import ROOT

ROOMS = sorted(path.name for path in (ROOT / "deepmd_gnn").iterdir() if (path / "__init__.py").exists())
# Modules of no room whose tests are elsewhere than those of the model, in host.
BESIDE = {
    "mace_network": "nn",
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


# Tested through other modules only, so far. A change of one of these adds a test of it and takes it from this list.
MISSING = {
    "host": "backend deepmd_ops export host.bias host.classes host.data_types host.device_inference host.edge_lower host.embedding host.evaluation host.freeze host.hessian host.inference_graphs host.inputs host.interface host.lowers host.model host.padded_lower host.protocol host.registry host.results host.sharing host.statistics host.storage host.stored_names pt pt_expt stat_compat",
    "commands": "commands.bench commands.check commands.convert commands.freeze commands.info commands.parsers commands.plot",
    "files": "files.fitting_weights files.import_order files.model_files files.native_file files.opening files.programs files.progress files.torch_fixes",
    "graph": "graph.edge_operators graph.list_checks",
    "kernels": "kernels.cpu.library kernels.cpu.memory kernels.cpu.mixing_code kernels.cpu.vectors kernels.triton.contraction_code kernels.triton.geometry_code kernels.triton.probe_kernel kernels.triton.replay",
    "nn": "mace_modules nn.convolution nn.modules nn.network",
    "native": "native.committees native.couplings native.description native.reader native.weights native.writer",
    "tools": "tools.evaluation tools.lammps tools.timing",
}


def test_no_test_imports_another():
    for path in (ROOT / "tests").glob("*/test_*.py"):
        assert not [name for name in imported(path) if re.match(r"test_\w+$", name)], path


@pytest.mark.parametrize("room", sorted({*ROOMS, *BESIDE.values()}))
def test_modules_of_a_room_are_imported_by_its_tests(room):
    tests = [imported(path) for path in (ROOT / "tests" / room).glob("test_*.py")]
    ours = [module for module, of in modules() if of == room]
    lacking = {module for module in ours if not any(f"deepmd_gnn.{module}" in names for names in tests)}
    assert lacking == set(MISSING.get(room, "").split()), f"tests/{room}: say in MISSING what changed"
