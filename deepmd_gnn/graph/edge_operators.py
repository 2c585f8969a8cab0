"""Operators of the compiled training graph with derivatives of their own.

TorchInductor derives the sum over edges from the gather with atomic additions, which its vectorised code for CPUs cannot
always express (an assertion ``index.is_vec`` ends the compilation). Here each of the two is an operator and the
derivative of the other, to any order.
"""

from typing import Any

import torch


@torch.library.custom_op("deepmd_gnn::read_rows", mutates_args=())
def read_rows(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Read a row for every index.

    Parameters
    ----------
    rows : torch.Tensor
        Shape (nrow, …).
    index : torch.Tensor
        int64, shape (n,).

    Returns
    -------
    torch.Tensor
        Shape (n, …).
    """
    return rows.index_select(0, index)


@read_rows.register_fake
def _(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return rows.new_empty([index.shape[0], *rows.shape[1:]])


@torch.library.custom_op("deepmd_gnn::sum_rows", mutates_args=())
def sum_rows(values: torch.Tensor, index: torch.Tensor, nrow: int) -> torch.Tensor:
    """Sum the values that have the same index.

    Parameters
    ----------
    values : torch.Tensor
        Shape (n, …).
    index : torch.Tensor
        int64, shape (n,).
    nrow : int
        Number of sums.

    Returns
    -------
    torch.Tensor
        Shape (nrow, …).
    """
    return values.new_zeros([nrow, *values.shape[1:]]).index_add_(0, index, values)


@sum_rows.register_fake
def _(values: torch.Tensor, index: torch.Tensor, nrow: int) -> torch.Tensor:
    return values.new_empty([nrow, *values.shape[1:]])


def _keep_index(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.nrow = inputs[0].shape[0]


def _differentiate_reading(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
    return sum_rows(gradient, ctx.saved_tensors[0], ctx.nrow), None


def _differentiate_summing(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return read_rows(gradient, ctx.saved_tensors[0]), None, None


read_rows.register_autograd(_differentiate_reading, setup_context=_keep_index)
sum_rows.register_autograd(_differentiate_summing, setup_context=_keep_index)


@torch.library.custom_op("deepmd_gnn::sum_groups", mutates_args=())
def sum_groups(values: torch.Tensor, groups: torch.Tensor, nrow: int) -> torch.Tensor:
    """Sum groups of rows, each in its order; a ``.pt2`` for CPUs has its own function for it, ``kernels/cpu/group_sum.hpp``.

    Parameters
    ----------
    values : torch.Tensor
        float64 or float32, shape (n, k).
    groups : torch.Tensor
        Where each group begins, and the last one ends, in what follows: rows of `values`; int64, shape (nrow + 1 + ·,).
        Rows behind the last group, and such that are in none, are not read.
    nrow : int
        Number of groups.

    Returns
    -------
    torch.Tensor
        Shape (nrow, k), contiguous.
    """
    begin, members = groups[: nrow + 1], groups[nrow + 1 :]
    row = torch.repeat_interleave(torch.arange(nrow, device=groups.device), begin.diff())
    sums = values.new_zeros([nrow, values.shape[1]])
    return sums.index_add_(0, row, values[members[int(begin[0]) : int(begin[-1])]])


@sum_groups.register_fake
def _(values: torch.Tensor, groups: torch.Tensor, nrow: int) -> torch.Tensor:
    return values.new_empty([nrow, values.shape[1]])


@torch.library.custom_op("deepmd_gnn::pick", mutates_args=())
def pick(factors: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
    """Read rows in an order that never changes; the derivative is a matrix product.

    Parameters
    ----------
    factors : torch.Tensor
        Shape (nfactor, …).
    index : torch.Tensor
        int64, shape (n,).
    transposed : torch.Tensor
        The same as a matrix of zeros and ones, shape (nfactor, n).

    Returns
    -------
    torch.Tensor
        Shape (n, …).
    """
    return factors.index_select(0, index)


@pick.register_fake
def _(factors: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
    return factors.new_empty([index.shape[0], *factors.shape[1:]])


@torch.library.custom_op("deepmd_gnn::unpick", mutates_args=())
def unpick(gradient: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
    """Differentiate :func:`pick`: shape (n, …) → (nfactor, …)."""
    product = transposed @ gradient.flatten(1)
    return product.view([transposed.shape[0], *gradient.shape[1:]])


@unpick.register_fake
def _(gradient: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor) -> torch.Tensor:
    return gradient.new_empty([transposed.shape[0], *gradient.shape[1:]])


def _keep_both(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _differentiate_picking(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return unpick(gradient.contiguous(), *ctx.saved_tensors), None, None


def _differentiate_unpicking(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
    return pick(gradient, *ctx.saved_tensors), None, None


pick.register_autograd(_differentiate_picking, setup_context=_keep_both)
unpick.register_autograd(_differentiate_unpicking, setup_context=_keep_both)
