"""Edges and their endpoints: read a row for every edge, and sum what the edges bring to every row.

Each of the two is the derivative of the other. Eager and scripted code sums with ``index_add``. A compiled graph
instead reads, for every row, the edges in a padded list: no atomic additions, which TorchInductor's vectorised code
for CPUs cannot always express (an assertion ``index.is_vec`` ends the compilation) and which cost more than the sum.
"""

import math
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from deepmd_gnn.graph.atom_graph import AtomGraph, is_compiled, trains_compiled
from deepmd_gnn.graph.compilation import compilation
from deepmd_gnn.graph.edge_operators import read_rows, sum_groups, sum_rows


def rows_between(rows: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    """Take some rows, ``rows[begin:end]``.

    Parameters
    ----------
    rows : torch.Tensor
        Shape (nrow, …).
    begin, end : int
        Range; in an exported graph `end` may be a number that only the data tell.

    Returns
    -------
    torch.Tensor
        Shape (end - begin, …).
    """
    if torch.jit.is_scripting() or isinstance(end, int):  # type: ignore[attr-defined]
        return rows[begin:end]
    if begin == 0 and statically_known_true(end == rows.shape[0]):
        return rows  # on one rank all atoms are owned
    # torch.export forgets how long a slice is whose end it does not know.
    return rows.index_select(0, torch.arange(begin, end, device=rows.device))


def edge_lists(order: torch.Tensor, row_ptr: torch.Tensor) -> torch.Tensor:
    """Pad compressed rows to a rectangle.

    Parameters
    ----------
    order : torch.Tensor
        Edges grouped by row, int64, shape (nedge,).
    row_ptr : torch.Tensor
        Where each row begins in `order`, and the end of the last one, int64, shape (nrow + 1,).

    Returns
    -------
    torch.Tensor
        The edges of each row, −1 where there are no more, shape (largest row but at least 1, nrow).
    """
    begin = rows_between(row_ptr, 0, row_ptr.shape[0] - 1)
    count = rows_between(row_ptr, 1, row_ptr.shape[0]) - begin
    # A size that depends on data: known to the compiled graph as a number of its own. Never 0, nor is the list of edges
    # read from: what is masked is read all the same.
    width = count.max().clamp(min=1).item()
    torch._check(width >= 1)
    place = torch.arange(width, device=order.device).unsqueeze(1)
    position = (begin + place).clamp(max=order.shape[0])
    lists = torch.where(place < count, torch.cat([order, order.new_zeros(1)])[position], -1)
    return spaced(lists)


def edge_groups(order: torch.Tensor, row_ptr: torch.Tensor) -> torch.Tensor:
    """Compressed rows as :func:`sum_over_edges` reads them in an exported graph.

    Parameters
    ----------
    order, row_ptr : torch.Tensor
        As of :func:`edge_lists`.

    Returns
    -------
    torch.Tensor
        Both in one, shape (nrow + 1 + nedge,), if the file has an operator for the sums; else :func:`edge_lists`, shape (·, nrow).
    """
    return torch.cat([row_ptr, order]) if compilation().file_operators else edge_lists(order, row_ptr)


def spaced(lists: torch.Tensor) -> torch.Tensor:
    """Lay out lists so that TorchInductor handles them well, shape (width, nrow) → the same.

    A view with strides makes the compiler keep the lists in memory; else it derives them anew for every use, and then
    stores the terms of the sums. Every other place is left out so that it does not vectorise over the rows: of such
    a sum, TorchInductor 2.11 writes whole vectors, beyond the last row.
    """
    doubled = torch.stack([lists, lists], dim=2)
    return doubled.as_strided(lists.shape, (2 * lists.shape[1], 2))


def rows_of_nodes(rows: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Take the rows of the nodes, which come first among those of the senders, shape (nsender, …) → (nnode, …)."""
    nnode = graph.node_types.shape[0]
    return rows[:nnode] if trains_compiled(graph) else rows_between(rows, 0, nnode)


def rows_of_atoms(rows: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Take the rows of the nodes without the guard, shape (nnode, …) → (nnode - 1, …)."""
    nnode = graph.node_types.shape[0]
    return rows[1:nnode] if trains_compiled(graph) else rows_between(rows, 1, nnode)


def rows_of_types(rows: torch.Tensor, types: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Read the row of every type, shapes (ntypes, …) and (n,) → (n, …)."""
    if trains_compiled(graph) and not torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _operator_rows(rows, types)
    return rows[types]


def rows_of_senders(rows: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Give every edge the row of its sender, shape (nsender, …) → (nedge, …)."""
    return _rows_of_edges(rows, graph.edge_index[0], graph.outgoing, graph)


def rows_of_receivers(rows: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Give every edge the row of its receiver, shape (nsender, …) → (nedge, …); the receivers come first."""
    return _rows_of_edges(rows_of_nodes(rows, graph), graph.edge_index[1], graph.incoming, graph)


def sum_at_receivers(values: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
    """Sum over the edges of every receiver, shape (nedge, …) → (nnode, …)."""
    return sum_over_edges(values, graph.edge_index[1], graph.node_types.shape[0], graph.incoming, graph)


def _rows_of_edges(
    rows: torch.Tensor, index: torch.Tensor, lists: torch.Tensor | None, graph: AtomGraph
) -> torch.Tensor:
    if is_compiled(graph) and not torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _operator_rows(rows, index) if lists is None else _listed_rows(rows, index, lists)
    return rows.index_select(0, index)


def sum_over_edges(
    values: torch.Tensor,
    index: torch.Tensor,
    nrow: int,
    lists: torch.Tensor | None,
    graph: AtomGraph,
) -> torch.Tensor:
    """Sum the values of the edges of every row, as the mode of the graph demands.

    Parameters
    ----------
    values : torch.Tensor
        Shape (nedge, …).
    index : torch.Tensor
        Row of each edge, shape (nedge,).
    nrow : int
        Number of rows.
    lists : torch.Tensor, optional
        Edges of each row from :func:`edge_groups` or :func:`edge_lists`, where the graph is exported; edges in no list are
        left out.
    graph : AtomGraph
        Its mode is read.

    Returns
    -------
    torch.Tensor
        Shape (nrow, …).
    """
    if is_compiled(graph) and not torch.jit.is_scripting():  # type: ignore[attr-defined]
        return (
            _operator_sum(values, index, nrow) if lists is None else _listed_sum(values, index, lists, nrow)
        )
    shape = [nrow] + list(values.shape[1:])  # noqa: RUF005 - TorchScript
    return values.new_zeros(shape).index_add(0, index, values)


@torch.jit.unused
def _listed_rows(rows: torch.Tensor, index: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
    return _Rows.apply(rows, index, lists)  # type: ignore[no-untyped-call]


@torch.jit.unused
def _listed_sum(values: torch.Tensor, index: torch.Tensor, lists: torch.Tensor, nrow: int) -> torch.Tensor:
    return _Sum.apply(values, index, lists, nrow)  # type: ignore[no-untyped-call]


@torch.jit.unused
def _operator_rows(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return read_rows(rows, index)


@torch.jit.unused
def _operator_sum(values: torch.Tensor, index: torch.Tensor, nrow: int) -> torch.Tensor:
    return sum_rows(values, index, nrow)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, index: torch.Tensor, lists: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index, lists)
        ctx.nrow = rows.shape[0]
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _Sum.apply(gradient, *ctx.saved_tensors, ctx.nrow), None, None  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, index: torch.Tensor, lists: torch.Tensor, nrow: int
    ) -> torch.Tensor:
        ctx.save_for_backward(index, lists)
        if lists.dim() == 1:
            rows = values.reshape(values.shape[0], math.prod(values.shape[1:]))
            return sum_groups(rows, lists, nrow).view([nrow, *values.shape[1:]])
        listed = lists.view(*lists.shape, *[1] * (values.dim() - 1)) >= 0
        return torch.where(listed, values[lists.clamp(min=0)], 0.0).sum(dim=0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _Rows.apply(gradient, *ctx.saved_tensors), None, None, None  # type: ignore[no-untyped-call]
