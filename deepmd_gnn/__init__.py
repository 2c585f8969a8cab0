"""MACE as a first-class DeePMD-kit model.

Importing this package imports neither torch nor DeePMD-kit, which finds the model through the entry points
``deepmd.backend`` (input schema), ``deepmd.pt`` and ``deepmd.pt_expt`` (the model). The functions for native MACE files,
for committees and uncertainties, for LAMMPS in Python and for TorchSim are loaded when they are first used.
"""

from typing import Any

from deepmd_gnn.moved import keep_old_paths

__version__ = "1.0.0"
__all__ = [
    "TorchSimModel",
    "committee",
    "convert",
    "export_native",
    "lammps_library",
    "load_mace",
    "mace_mp",
    "mace_off",
    "uncertainty",
]

_HOMES = {
    "TorchSimModel": "deepmd_gnn.tools.torchsim",
    "committee": "deepmd_gnn.native.committees",
    "convert": "deepmd_gnn.native.conversion",
    "export_native": "deepmd_gnn.native.writer",
    "lammps_library": "deepmd_gnn.tools.lammps_library",
    "load_mace": "deepmd_gnn.native.reader",
    "mace_mp": "deepmd_gnn.native.calculators",
    "mace_off": "deepmd_gnn.native.calculators",
    "uncertainty": "deepmd_gnn.tools.uncertainty",
}

keep_old_paths()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
