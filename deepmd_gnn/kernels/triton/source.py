"""Generated Triton source as importable modules: Triton reads the text of a kernel from its file."""

import functools
import hashlib
import importlib.util
import os
from pathlib import Path
from types import ModuleType

from torch._inductor.runtime.cache_dir_utils import cache_dir

HEADER = '"""Generated."""\n\nimport triton\nimport triton.language as tl\n\n\n'
# What a program calls numbers of a precision.
TRITON_TYPES = {"float32": "tl.float32", "float64": "tl.float64"}


def kept_source(code: str) -> str:
    """Write a generated module where it is found again.

    Parameters
    ----------
    code : str
        Its functions, without the imports.

    Returns
    -------
    str
        Name for :func:`generated_module`; the same text has the same name.
    """
    text = HEADER + code
    name = f"mace_{hashlib.sha256(text.encode()).hexdigest()[:24]}"
    path = _path(name)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    return name


@functools.cache
def generated_module(name: str) -> ModuleType:
    """Import a module that :func:`kept_source` has written.

    Raises
    ------
    FileNotFoundError
        If it is not there any more.
    """
    spec = importlib.util.spec_from_file_location(name, _path(name))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _path(name: str) -> Path:
    return Path(cache_dir()) / "deepmd_gnn" / "triton" / f"{name}.py"


def packed(sizes: list[tuple[int, int]], most: int) -> list[list[int]]:
    """Split numbered parts of a kernel into sets, in their order; a part that is too large has a set of its own.

    Parameters
    ----------
    sizes : list[tuple[int, int]]
        Number and size of each part.
    most : int
        Size of a set.

    Returns
    -------
    list[list[int]]
        Numbers; at least one set.
    """
    groups: list[list[int]] = [[]]
    size = 0
    for number, need in sizes:
        if groups[-1] and size + need > most:
            groups.append([])
            size = 0
        groups[-1].append(number)
        size += need
    return groups


def combination(terms: list[tuple[str, float]]) -> str:
    """Write a linear combination: factors of one are left out, and signs are joined.

    Parameters
    ----------
    terms : list[tuple[str, float]]
        Expression and its coefficient.

    Returns
    -------
    str
        Source; ``"0.0"`` without terms.
    """
    return " + ".join(name if c == 1.0 else f"{name} * {c!r}" for name, c in terms) or "0.0"
