"""Docstrings say what a caller has to know of tensors and lengths, over the syntax trees."""

import ast
import re

import pytest
from documented import ROOT

# "shape (nf, 3)", or a tuple of sizes behind a name: (nf, nloc, 3).
SHAPE = re.compile(r"[Ss]hape|\((?:n\w*|·|…)[^()]*,[^()]*\)")
ARRAYS = re.compile(r"Tensor|Array|ndarray")
REFERENCE = re.compile(r":(?:func|meth|class|mod|attr):`~?[\w.]*?(\w+)`")
# Lengths by the names that they have everywhere.
LENGTHS = {"coord", "extended_coord", "box", "edge_vec", "r_max", "vectors", "distances", "positions"}


def functions():
    """Public functions and methods of public classes: where they are, and their nodes."""

    def visit(node, prefix):
        for child in node.body:
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                yield from visit(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef) and (child.name == "__call__" or child.name[0] != "_"):
                yield f"{prefix}{child.name}", child

    for path in sorted((ROOT / "deepmd_gnn").rglob("*.py")):
        if re.search(r"_kernels?$", path.stem):  # Triton's functions take pointers
            continue
        for name, node in visit(ast.parse(path.read_text()), ""):
            yield f"{path.relative_to(ROOT)}:{name}", node


FUNCTIONS = dict(functions())


def documentation():
    """Docstrings of functions, classes and modules, by name; several may have one name."""
    found = {}
    for path in (ROOT / "deepmd_gnn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                name = getattr(node, "name", path.stem)
                found[name] = found.get(name, "") + (ast.get_docstring(node) or "")
    return found


DOCUMENTATION = documentation()


def says(text, pattern):
    """Whether a docstring says something itself or refers to one that does."""
    return any(re.search(pattern, DOCUMENTATION.get(name, "")) for name in REFERENCE.findall(text)) or bool(
        re.search(pattern, text)
    )


def arguments(node):
    return [arg for arg in (*node.args.args, *node.args.kwonlyargs, node.args.vararg) if arg is not None]


def annotations(node):
    given = [arg.annotation for arg in arguments(node)] + [node.returns]
    return [ast.unparse(annotation) for annotation in given if annotation is not None]


@pytest.mark.parametrize("folder", sorted({where.split(":")[0].split("/")[1] for where in FUNCTIONS}))
def test_shapes(folder):
    """Whoever takes or gives arrays says their shapes."""
    lacking = [
        where
        for where, node in FUNCTIONS.items()
        if where.split(":")[0].split("/")[1] == folder
        and any(map(ARRAYS.search, annotations(node)))
        and not says(ast.get_docstring(node) or "", SHAPE)
    ]
    assert lacking == []


def test_units_of_lengths():
    """Where a length comes in, its unit is said."""
    lacking = [
        where
        for where, node in FUNCTIONS.items()
        if {arg.arg for arg in arguments(node)} & LENGTHS and not says(ast.get_docstring(node) or "", "Å")
    ]
    assert lacking == []
    assert sum(bool({arg.arg for arg in arguments(node)} & LENGTHS) for node in FUNCTIONS.values()) > 40
