"""What is known about the compilation that is under way.

Torch calls modules and operators while it traces a graph, and nothing can be handed to them as an argument. They ask here.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple


class Compilation(NamedTuple):
    """What a freeze or a compiled training step has set; outside of both the defaults."""

    evaluation: str = "kernels"
    """How a frozen file shall evaluate the network, see :func:`~deepmd_gnn.host.freezing.evaluated_by`."""
    cpu: str | None = None
    """What a ``.pt2`` is compiled for, a name of :data:`~deepmd_gnn.kernels.cpu.targets.NAMES`; None: nobody has chosen."""
    progress: Any = None
    """:class:`~deepmd_gnn.files.progress.Progress`, whose stages are told in the log."""
    replacement: Any = None
    """Kernels or tables that replace modules of the network, see :mod:`~deepmd_gnn.kernels.install`."""
    library: Any = None
    """:class:`~deepmd_gnn.kernels.cpu.library.Library` that operators run in Python."""
    tabulates_scripted: bool = False
    """Whether models that are scripted get radial tables, see :mod:`~deepmd_gnn.kernels.tables.scripted`."""
    checks_input: bool = False
    """Whether the file contains the check of its input."""
    keeps_memory: bool = False
    """Whether the file keeps memory between evaluations."""
    file_operators: bool = False
    """Whether the file has operators for products of matrices and sums over groups of rows, :func:`~deepmd_gnn.nn.products.product` and
    :func:`~deepmd_gnn.graph.edge_operators.sum_groups`."""
    plain_products: bool = False
    """Whether the program never runs inside LAMMPS, see :func:`~deepmd_gnn.nn.linear.matmul`."""


# The only context variable of the package but one: what torch calls while it traces cannot be given arguments.
_NOTHING = Compilation()
_under_way: contextvars.ContextVar[Compilation] = contextvars.ContextVar("compilation", default=_NOTHING)


def compilation() -> Compilation:
    """What is under way in this thread."""
    return _under_way.get()


@contextlib.contextmanager
def compiling(**changes: Any) -> Iterator[None]:
    """Change fields of :class:`Compilation` inside a ``with`` block.

    Parameters
    ----------
    **changes : Any
        Fields.
    """
    token = _under_way.set(compilation()._replace(**changes))
    try:
        yield
    finally:
        _under_way.reset(token)
