"""Import order: let e3nn 0.4.4 be imported under torch 2.11, and the host import us while we import it."""

import builtins
import importlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

import torch

from deepmd_gnn.config.networks import CONFIGS


def allow_e3nn_constants() -> None:
    """Allow ``slice`` in weights-only files.

    e3nn 0.4.4 keeps its Wigner matrices in a file that holds Python slices; torch >= 2.6 refuses to read it and
    with it every ``import deepmd.pt.model.model`` fails, because DeePMD-kit imports e3nn for its own models.
    A slice carries no code, so admitting it is safe. Must run before e3nn is first imported.
    """
    torch.serialization.add_safe_globals([slice])


def import_mace() -> None:
    """Import the package ``mace`` without its change of the environment.

    It sets ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``, which turns off torch's protection against code in files for the whole
    process. Undoing that afterwards leaves a moment, and with threads the variable itself; so what the package takes for
    ``os`` has a copy of the environment.
    """
    if "mace" in sys.modules:
        return
    spec = importlib.util.find_spec("mace")
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(
            "mace model: the package mace-torch is missing; install it with pip install mace-torch."
        )
    system = ModuleType("os")
    system.__dict__.update({**os.__dict__, "environ": dict(os.environ)})

    def import_name(name: str, *details: Any) -> Any:
        return system if name == "os" else __import__(name, *details)

    module = importlib.util.module_from_spec(spec)
    module.__dict__["__builtins__"] = {**builtins.__dict__, "__import__": import_name}
    sys.modules["mace"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules["mace"]
        raise
    _import_tables()


def _import_tables() -> None:
    """Import the module that prints, into whatever is being written, that cuEquivariance is missing."""
    said = io.StringIO()
    with redirect_stdout(said):
        importlib.import_module("mace.tools.cg")
    others = [line for line in said.getvalue().splitlines() if "cuequivariance" not in line.lower()]
    sys.stdout.writelines(f"{line}\n" for line in others)


def is_importing_model() -> bool:
    """Tell whether the module of a network is on the import stack, half initialised.

    DeePMD-kit's model package loads our entry points while it is being imported, and the model needs that package.
    """
    modules = [(sys.modules.get(f"deepmd_gnn.{kind}"), f"{kind.capitalize()}Model") for kind in CONFIGS]
    return any(module is not None and not hasattr(module, name) for module, name in modules)


_waiting: list[Callable[[], None]] = []


def once_imported(action: Callable[[], None]) -> None:
    """Do something that needs all networks: at once, or if one of them is being imported when it has been registered.

    Parameters
    ----------
    action : Callable
        Without arguments; may import networks.
    """
    if is_importing_model():
        _waiting.append(action)
    else:
        action()


def run_waiting() -> None:
    """A network has been registered, whose module was imported first: what :func:`once_imported` has put off follows."""
    while _waiting:
        _waiting.pop(0)()
