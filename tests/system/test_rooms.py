"""The import rule of docs/architecture.md, over the syntax trees: rooms import only downwards, nothing in circles."""

import ast
import re

import pytest
from documented import ROOT

PACKAGE = ROOT / "deepmd_gnn"
# From above to below; rooms of a line do not import each other.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"backend", "pt", "pt_expt"},
    {"native", "networks"},
    {"mace", "nequip"},
    {"mace_descriptor"},
    {"host"},
    {"export"},
    {"mace_network", "nequip_network"},
    {"mace_modules", "mace_construction", "kernels"},
    {"nn", "deepmd_ops", "tools"},
    {"datasets"},
    {"files"},
    {"config", "graph", "stat_compat"},
    {"__init__"},
    {"moved"},
]
# Own modules that functions import, and why not at the top.
LATE = {
    "commands": "help and bad arguments need no torch, whose import takes seconds",
    "files": "a file is looked at without torch, which only some kinds of file need",
    "pt": "the host imports this entry point while it is being imported itself",
    "pt_expt": "as pt",
    "host.inputs": "not every build of torch has Triton",
    "host.device_inference": "as host.inputs",
    "mace": "as host.inputs",
    "kernels": "as host.inputs",
}
ONLY = {
    # Packages that only some modules may import.
    "mace": {"mace_network", "mace_modules", "native.catalogue"},
    "e3nn": {"mace_network", "mace_modules", "mace_construction", "nequip_network"},
}
# Where private names of the host and of torch are at home.
PRIVATE = {
    "deepmd": ("host", "export", "deepmd_ops", "stat_compat"),
    "torch": (
        "files.torch_fixes",
        "files.safe_pickle",
        "nn.linear",
        "kernels",
        "host.compiled_training",
        "host.freezing",
    ),
}


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module):
    return module.split(".")[0]


def imports(module):
    """(dotted name, imported name or None, where: "top", "function" or "typing") of every import of a module."""
    found = []

    def visit(node, where):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.extend((node.module, alias.name, where) for alias in node.names)
        elif isinstance(node, ast.Import):
            found.extend((alias.name, None, where) for alias in node.names)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            where = "function"
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            where = "typing"
        for child in ast.iter_child_nodes(node):
            visit(child, where)

    visit(ast.parse(MODULES[module].read_text()), "top")
    return found


def own_imports(module):
    """Modules of the package that a module imports, and where."""
    for source, name, where in imports(module):
        if source.split(".")[0] != "deepmd_gnn":
            continue
        parts = source.split(".")[1:]
        inner = ".".join([*parts, name or ""]).strip(".")
        yield (inner if inner in MODULES else ".".join(parts) or "__init__"), where


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_downwards(module):
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    for other, where in own_imports(module):
        if room_of(other) != room_of(module):
            assert floor[room_of(other)] > floor[room_of(module)], (
                f"{module} imports {other}, which is not below it"
            )
        if where == "function":
            allowed = any(module == key or module.startswith(f"{key}.") for key in LATE)
            assert allowed, (
                f"a function of {module} imports {other}: import it at the top, or mend the circle"
            )


def test_no_circles():
    """Imports for types count as well: who needs them knows the other module."""
    arrows = {module: {other for other, _ in own_imports(module)} & MODULES.keys() for module in MODULES}
    above: list[str] = []
    done = set()

    def visit(module):
        assert module not in above, f"circle: {' -> '.join([*above[above.index(module) :], module])}"
        if module in done:
            return
        above.append(module)
        for other in sorted(arrows[module] - {"__init__"}):
            visit(other)
        above.pop()
        done.add(module)

    for module in MODULES:
        visit(module)


@pytest.mark.parametrize("module", MODULES)
def test_packages_have_their_place(module):
    for source, name, _ in imports(module):
        package = source.split(".")[0]
        assert module in ONLY.get(package, {module}), f"{module} imports {package}"
        private = [part for part in [*source.split(".")[1:], name or ""] if re.match(r"_[a-z]", part)]
        if private and package in PRIVATE:
            homes = PRIVATE[package]
            assert any(module == home or module.startswith(f"{home}.") for home in homes), (
                f"{module} imports {source}.{name}: private names of {package} belong into {', '.join(homes)}"
            )
