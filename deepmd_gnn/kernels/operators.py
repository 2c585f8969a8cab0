"""The operators that stand for generated kernels in a graph.

In a ``.pt2`` they are C functions of the library that is linked into the file. In Python they run the library that
:func:`use` has set, for tests.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch

from deepmd_gnn.graph.compilation import compilation, compiling


def use(library: Any) -> AbstractContextManager[None]:
    """Run the operators with a :class:`~deepmd_gnn.kernels.cpu.library.Library` inside a ``with`` block."""
    return compiling(library=library)


def current() -> Any:
    """The library that :func:`use` has set."""
    library = compilation().library
    if library is None:
        raise RuntimeError("mace model: generated kernels exist inside a .pt2 only; this is not one.")
    return library


def _sizes(sent: torch.Tensor, table: torch.Tensor, begin: torch.Tensor) -> tuple[int, ...]:
    """Receivers, senders, channels, kinds and nodes."""
    return begin.shape[0] - 1, sent.shape[0], sent.shape[2], table.shape[1], table.shape[2]


def _linear(
    matrices: torch.Tensor, paths: torch.Tensor, mixed: int, width: int, channels: int
) -> tuple[Any, ...]:
    """A linear map as the kernels take it."""
    sizes = matrices.shape[1], matrices.shape[2], paths.shape[0] if mixed else 0, width, channels
    return matrices, paths, *sizes


@torch.library.custom_op("deepmd_gnn::mace_convolve", mutates_args=())
def convolve(
    vectors: torch.Tensor,
    sent: torch.Tensor,
    table: torch.Tensor,
    grid: torch.Tensor,
    sender: torch.Tensor,
    kind: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    matrices: torch.Tensor,
    paths: torch.Tensor,
    backward_matrices: torch.Tensor,
    backward_paths: torch.Tensor,
    layer: int,
    mixed: int,
    width: int,
    channels: int,
) -> torch.Tensor:
    """Sum the messages of every receiver, and apply a linear map to the sum.

    Parameters
    ----------
    vectors : torch.Tensor
        Position of the sender minus that of the receiver, Å, float64, shape (nedge, 3).
    sent : torch.Tensor
        Features of the senders, shape (nsender, components, channels).
    table : torch.Tensor
        Radial weights, shape (channel blocks, kinds, nodes, paths, 4, lanes).
    grid : torch.Tensor
        How many of the nodes lie between 0 and the cutoff, the cutoff in Å, and the bend of the nodes' places per Å
        (:class:`~deepmd_gnn.kernels.tables.radial.RadialTable`), float64, shape (3,).
    sender, kind : torch.Tensor
        Row of the sender and of the table of each edge, int64, shape (nedge,); `kind` is empty if there is one table. Where a layer sums over
        kinds of senders (:mod:`~deepmd_gnn.kernels.cpu.kinds`), it has these, shape (nsender,).
    order, begin : torch.Tensor
        Edges grouped by receiver, and where each group begins and the last one ends, int64, shapes (·,), (nnode + 1,).
    matrices, paths, backward_matrices, backward_paths : torch.Tensor
        The linear map, see :func:`~deepmd_gnn.kernels.cpu.mixing.mix`; types are those of the receivers, if sums are over kinds.
    layer : int
        Which kernel.
    mixed : int
        0: there is no linear map.
    width, channels : int
        Components and channels of the result.

    Returns
    -------
    torch.Tensor
        Shape (nnode, width, channels).
    """
    del backward_matrices, backward_paths
    out = sent.new_empty(begin.shape[0] - 1, width, channels)
    inputs = (vectors, sent, table, grid, sender, kind, order, begin, *_sizes(sent, table, begin))
    current().call("mace_convolve", layer, *inputs, *_linear(matrices, paths, mixed, width, channels), out)
    return out


@convolve.register_fake
def _(
    vectors: Any,
    sent: Any,
    table: Any,
    grid: Any,
    sender: Any,
    kind: Any,
    order: Any,
    begin: Any,
    matrices: Any,
    paths: Any,
    backward_matrices: Any,
    backward_paths: Any,
    layer: int,
    mixed: int,
    width: int,
    channels: int,
) -> torch.Tensor:
    return sent.new_empty(begin.shape[0] - 1, width, channels)


@torch.library.custom_op("deepmd_gnn::mace_convolve_backward", mutates_args=())
def convolve_backward(
    gradient: torch.Tensor,
    vectors: torch.Tensor,
    sent: torch.Tensor,
    table: torch.Tensor,
    grid: torch.Tensor,
    sender: torch.Tensor,
    kind: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    matrices: torch.Tensor,
    paths: torch.Tensor,
    layer: int,
    mixed: int,
    senders: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiate :func:`convolve`.

    Parameters
    ----------
    gradient : torch.Tensor
        With respect to the result, shape (nnode, width, channels).
    vectors, sent, table, grid, sender, kind, order, begin, layer, mixed :
        As there.
    matrices, paths : torch.Tensor
        Derivative of the linear map.
    senders : int
        Whether the derivative with respect to `sent` is wanted; else it is empty.

    Returns
    -------
    vectors, sent : torch.Tensor
        Derivatives, in the shapes of the inputs.
    """
    d_vectors = torch.empty_like(vectors)
    d_sent = sent.new_empty(sent.shape if senders else (0,))
    inputs = (vectors, sent, table, grid, sender, kind, order, begin, *_sizes(sent, table, begin))
    linear = _linear(matrices, paths, mixed, gradient.shape[1], gradient.shape[2])
    results = (gradient, vectors.shape[0], d_vectors, d_sent)
    current().call("mace_convolve_backward", layer, *inputs, *linear, *results)
    return d_vectors, d_sent


@convolve_backward.register_fake
def _(
    gradient: Any,
    vectors: Any,
    sent: Any,
    table: Any,
    grid: Any,
    sender: Any,
    kind: Any,
    order: Any,
    begin: Any,
    matrices: Any,
    paths: Any,
    layer: int,
    mixed: int,
    senders: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(vectors), sent.new_empty(sent.shape if senders else (0,))


def _save_convolution(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:8], *inputs[10:12])
    ctx.layer, ctx.mixed = inputs[12:14]


def _differentiate_convolution(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    senders = ctx.needs_input_grad[1]
    d_vectors, d_sent = convolve_backward(
        gradient.contiguous(), *ctx.saved_tensors, ctx.layer, ctx.mixed, int(senders)
    )
    return (d_vectors, d_sent if senders else None, *[None] * 14)


convolve.register_autograd(_differentiate_convolution, setup_context=_save_convolution)


@torch.library.custom_op("deepmd_gnn::mace_contract", mutates_args=())
def contract(
    features: torch.Tensor, coefficients: torch.Tensor, kind: torch.Tensor, layer: int, width: int
) -> torch.Tensor:
    """Evaluate the polynomials of the product basis.

    Parameters
    ----------
    features : torch.Tensor
        Messages, shape (nnode, components, channels).
    coefficients : torch.Tensor
        Shape (channel blocks, types, terms, lanes).
    kind : torch.Tensor
        Type of each node, int64, shape (nnode,).
    layer, width : int
        Which kernel; components of its result.

    Returns
    -------
    torch.Tensor
        Shape (nnode, width, channels).
    """
    out = features.new_empty(features.shape[0], width, features.shape[2])
    sizes = (features.shape[0], coefficients.shape[1], features.shape[2])
    current().call("mace_contract", layer, features, coefficients, kind, *sizes, out)
    return out


@contract.register_fake
def _(features: Any, coefficients: Any, kind: Any, layer: int, width: int) -> torch.Tensor:
    return features.new_empty(features.shape[0], width, features.shape[2])


@torch.library.custom_op("deepmd_gnn::mace_contract_backward", mutates_args=())
def contract_backward(
    gradient: torch.Tensor, features: torch.Tensor, coefficients: torch.Tensor, kind: torch.Tensor, layer: int
) -> torch.Tensor:
    """Differentiate :func:`contract` with respect to the features.

    Parameters
    ----------
    gradient : torch.Tensor
        With respect to the result, shape (nnode, width, channels).
    features, coefficients, kind, layer :
        See :func:`contract`.

    Returns
    -------
    torch.Tensor
        Shape (nnode, components, channels).
    """
    out = torch.empty_like(features)
    sizes = (features.shape[0], coefficients.shape[1], features.shape[2])
    current().call("mace_contract_backward", layer, gradient, features, coefficients, kind, *sizes, out)
    return out


@contract_backward.register_fake
def _(gradient: Any, features: Any, coefficients: Any, kind: Any, layer: int) -> torch.Tensor:
    return torch.empty_like(features)


def _save_contraction(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.layer = inputs[3]


def _differentiate_contraction(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    features, coefficients, kind = ctx.saved_tensors
    return contract_backward(gradient.contiguous(), features, coefficients, kind, ctx.layer), *[None] * 4


contract.register_autograd(_differentiate_contraction, setup_context=_save_contraction)
