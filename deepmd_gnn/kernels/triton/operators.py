"""The operators that launch generated Triton kernels.

Eager calls launch the kernels. AOTInductor does not look into the operators: a ``.pt2`` has C functions in their place
(:mod:`~deepmd_gnn.kernels.triton.linking`), so that it needs nothing of this package. The argument `code` names the generated
module (:mod:`~deepmd_gnn.kernels.triton.source`). On a CPU, where a model is traced before it is compiled for the GPU, they
evaluate :mod:`~deepmd_gnn.kernels.triton.reference`.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels.triton import reference
from deepmd_gnn.kernels.triton.operator import operator
from deepmd_gnn.kernels.triton.source import generated_module

EDGES_PER_PROGRAM = 128


def convolution_inputs(graph: AtomGraph, sent: torch.Tensor, table: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What :func:`convolve` takes before `code`, for a graph whose edges were prepared by :func:`geometry`; shapes as there."""
    assert graph.packed is not None
    assert graph.rows is not None
    assert graph.sources is not None
    assert graph.order is not None
    assert graph.begin is not None
    edges = (graph.packed, graph.rows, graph.sources, graph.order, graph.begin)
    return graph.edge_vec, sent.contiguous(), *edges, table


def on_cpu(tensor: torch.Tensor) -> bool:
    """Whether the reference is to be evaluated for a tensor of any shape."""
    return tensor.device.type == "cpu" and not reference.interprets()


@operator("deepmd_gnn::triton_geometry")
def geometry(
    vectors: torch.Tensor, edge_index: torch.Tensor, types: torch.Tensor, order: torch.Tensor, code: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute what all layers read of an edge.

    Parameters
    ----------
    vectors : torch.Tensor
        Neighbour minus centre, Å, float64, shape (nedge, 3).
    edge_index : torch.Tensor
        Rows of sender and receiver, int64, shape (2, nedge).
    types : torch.Tensor
        Elements of the senders, int64, shape (nsender,).
    order : torch.Tensor
        Edges grouped by receiver, int64, shape (count,).
    code : str
        Generated module.

    Returns
    -------
    packed : torch.Tensor
        B-spline weights, their derivatives and harmonics, see
        :mod:`~deepmd_gnn.kernels.triton.geometry_code`, shape (count, ·).
    row, source : torch.Tensor
        Row of the radial table, and sender, int32, shape (count,).
    """
    module = generated_module(code)
    packed, row, source = empty_geometry(vectors, order, module)
    if on_cpu(vectors):
        return reference.geometry(vectors, edge_index, types, order, module)
    count = order.shape[0]
    module.geometry[(count // EDGES_PER_PROGRAM + 1,)](
        vectors,
        edge_index,
        types,
        order,
        packed,
        row,
        source,
        count,
        vectors.shape[0],
        BLOCK=EDGES_PER_PROGRAM,
    )
    return packed, row, source


def empty_geometry(
    vectors: torch.Tensor, order: torch.Tensor, module: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Room for the results of :func:`geometry`, of which it has the shapes."""
    count = order.shape[0]
    packed = torch.empty(count, module.ROW, dtype=getattr(torch, module.DTYPE), device=vectors.device)
    row = torch.empty(count, dtype=torch.int32, device=vectors.device)
    return packed, row, torch.empty_like(row)


@geometry.register_fake
def _(vectors: Any, edge_index: Any, types: Any, order: Any, code: str) -> tuple[torch.Tensor, ...]:
    return empty_geometry(vectors, order, generated_module(code))


@operator("deepmd_gnn::triton_convolve")
def convolve(
    vectors: torch.Tensor,
    sent: torch.Tensor,
    packed: torch.Tensor,
    row: torch.Tensor,
    source: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    table: torch.Tensor,
    code: str,
) -> torch.Tensor:
    """Sum the messages of every receiver.

    Parameters
    ----------
    vectors, order :
        See :func:`geometry`; only the derivative reads them.
    sent : torch.Tensor
        Features of the senders, shape (nsender, components, channels).
    packed, row, source : torch.Tensor
        Results of :func:`geometry`.
    begin : torch.Tensor
        Where the edges of each receiver begin in `order`, and where the last one's end, int64, shape (nnode + 1,).
    table : torch.Tensor
        B-spline coefficients of the radial weights, shape (rows, npath, channels).
    code : str
        Generated module.

    Returns
    -------
    torch.Tensor
        Shape (nnode, Σ_p d3, channels).
    """
    module = generated_module(code)
    if on_cpu(vectors):
        return reference.convolve(sent, packed, row, source, begin, table, module)
    out = sent.new_empty(begin.shape[0] - 1, module.WIDTH, sent.shape[2])
    launch_forward(module, packed, row, source, begin, table, sent, out)
    return out


def launch_forward(module: Any, packed: torch.Tensor, *arrays: torch.Tensor) -> None:
    """Launch the kernel of :func:`convolve`; the last array is the result, whose receivers count from where `begin` begins."""
    nnode = arrays[-1].shape[0]
    grid = (nnode * module.FORWARD_BLOCKS,)
    module.forward[grid](packed, *arrays, packed.shape[0], nnode, num_warps=1)


@convolve.register_fake
def _(
    vectors: Any, sent: Any, packed: Any, row: Any, source: Any, order: Any, begin: Any, table: Any, code: str
) -> torch.Tensor:
    return sent.new_empty(begin.shape[0] - 1, generated_module(code).WIDTH, sent.shape[2])


@operator("deepmd_gnn::triton_convolve_backward")
def convolve_backward(
    gradient: torch.Tensor,
    vectors: torch.Tensor,
    sent: torch.Tensor,
    packed: torch.Tensor,
    row: torch.Tensor,
    source: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    table: torch.Tensor,
    code: str,
    senders: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiate :func:`convolve` with respect to the vectors and, with `senders`, what is sent.

    Parameters
    ----------
    gradient : torch.Tensor
        With respect to the result, shape (nnode, Σ_p d3, channels).
    vectors, sent, packed, row, source, order, begin, table, code :
        See :func:`convolve`.
    senders : bool
        Whether somebody needs the second result.

    Returns
    -------
    d_vectors : torch.Tensor
        Per Å, float64, shape (nedge, 3).
    d_sent : torch.Tensor
        Shape (nsender, components, channels); (0,) without `senders`.
    """
    module = generated_module(code)
    if on_cpu(vectors):
        return reference.convolve_backward(
            gradient, vectors, sent, packed, row, source, order, begin, table, module, senders
        )
    inputs = (vectors, sent, packed, row, source, order, begin, table)
    return launch_backward(module, inputs, senders, [(0, gradient)])


def launch_backward(
    module: Any,
    inputs: tuple[torch.Tensor, ...],
    senders: bool,
    gradients: Iterable[tuple[int, torch.Tensor]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernels of :func:`convolve_backward`.

    Parameters
    ----------
    module : types.ModuleType
        Generated.
    inputs : tuple[torch.Tensor, ...]
        `vectors` to `table`, see there.
    senders : bool
        See there.
    gradients : Iterable[tuple[int, torch.Tensor]]
        Blocks of receivers: the first one, and the gradients of all, shape (·, Σ_p d3, channels). A block may take over the memory of
        the one before.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor]
        See there, also for shapes.
    """
    vectors, sent, packed, row, source, order, begin, table = inputs
    count, blocks = order.shape[0], module.BACKWARD_BLOCKS
    parts = blocks * module.GROUPS
    d_vectors = torch.zeros_like(vectors)  # edges in no list, as the guard's, have none
    d_sent = torch.zeros_like(sent) if senders else sent.new_empty(0)
    sums = sent.new_empty(parts, 4, count)
    kernel = module.backward_add if senders else module.backward_none
    for first, gradient in gradients:
        edges, number = (packed, row, source, begin[first:], table, sent), gradient.shape[0]
        kernel[(number * blocks,)](*edges, gradient, sums, d_sent, count, number, num_warps=1)
    sizes = {"PARTS": parts, "BLOCK": EDGES_PER_PROGRAM}
    module.edge_gradient[(count // EDGES_PER_PROGRAM + 1,)](
        vectors, order, begin, sums, d_vectors, count, begin.shape[0] - 1, **sizes
    )
    return d_vectors, d_sent


@convolve_backward.register_fake
def _(
    gradient: Any,
    vectors: Any,
    sent: Any,
    packed: Any,
    row: Any,
    source: Any,
    order: Any,
    begin: Any,
    table: Any,
    code: str,
    senders: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(vectors), torch.empty_like(sent) if senders else sent.new_empty(0)


def _save_convolution(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])
    ctx.code = inputs[-1]


def _differentiate_convolution(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    senders = ctx.needs_input_grad[1]
    d_vectors, d_sent = convolve_backward(gradient.contiguous(), *ctx.saved_tensors, ctx.code, senders)
    return (d_vectors, d_sent if senders else None, *[None] * 7)


convolve.register_autograd(_differentiate_convolution, setup_context=_save_convolution)


@operator("deepmd_gnn::triton_contract")
def contract(
    features: torch.Tensor, coefficients: torch.Tensor, kind: torch.Tensor, code: str
) -> torch.Tensor:
    """Evaluate the polynomials of the product basis.

    Parameters
    ----------
    features : torch.Tensor
        Messages, shape (nnode, components, channels).
    coefficients : torch.Tensor
        Shape (types, terms, channels).
    kind : torch.Tensor
        Type of each node, int64, shape (nnode,).
    code : str
        Generated module.

    Returns
    -------
    torch.Tensor
        Shape (nnode, components of the result, channels).
    """
    module = generated_module(code)
    if on_cpu(features):
        return reference.contract(features, coefficients, kind, module)
    out = features.new_empty(features.shape[0], module.WIDTH, features.shape[2])
    for launch in launches_of_parts(module, "contract", features.shape[0], features, coefficients, kind, out):
        launch()
    return out


def launches_of_parts(module: Any, name: str, nnode: int, *arrays: torch.Tensor) -> list[Callable[[], Any]]:
    """Launches of the kernels for some components each of a contraction, in whose order they add to one another.

    Parameters
    ----------
    module : types.ModuleType
        Generated.
    name : str
        Of the kernels, without their numbers.
    nnode : int
        Atoms.
    *arrays : torch.Tensor
        Arguments, of any shape.

    Returns
    -------
    list[Callable[[], Any]]
        To be called in this order.
    """
    grid = (nnode * module.BLOCKS,)
    kernels = [getattr(module, f"{name}{part}") for part in range(module.PARTS)]
    return [functools.partial(kernel[grid], *arrays, num_warps=1) for kernel in kernels]


@contract.register_fake
def _(features: Any, coefficients: Any, kind: Any, code: str) -> torch.Tensor:
    return features.new_empty(features.shape[0], generated_module(code).WIDTH, features.shape[2])


@operator("deepmd_gnn::triton_contract_backward")
def contract_backward(
    gradient: torch.Tensor, features: torch.Tensor, coefficients: torch.Tensor, kind: torch.Tensor, code: str
) -> torch.Tensor:
    """Differentiate :func:`contract` with respect to the features.

    Parameters
    ----------
    gradient : torch.Tensor
        With respect to the result, shape (nnode, components of the result, channels).
    features, coefficients, kind, code :
        See :func:`contract`.

    Returns
    -------
    torch.Tensor
        Shape (nnode, components, channels).
    """
    module = generated_module(code)
    if on_cpu(features):
        return reference.contract_backward(gradient, features, coefficients, kind, module)
    out = torch.empty_like(features)
    arrays = (gradient, features, coefficients, kind, out)
    for launch in launches_of_parts(module, "contract_backward", features.shape[0], *arrays):
        launch()
    return out


@contract_backward.register_fake
def _(gradient: Any, features: Any, coefficients: Any, kind: Any, code: str) -> torch.Tensor:
    return torch.empty_like(features)


def _save_contraction(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.code = inputs[3]


def _differentiate_contraction(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return contract_backward(gradient.contiguous(), *ctx.saved_tensors, ctx.code), None, None, None


contract.register_autograd(_differentiate_contraction, setup_context=_save_contraction)
