"""Convolution and the linear map after it as one operator, which has the messages of some receivers at a time.

A message has more components than anything else of an atom (40 instead of 16 for vectors as features), and a linear map follows
at once. So the messages of a block of receivers are summed into an array that the next block takes over; backward, so are
their gradients. The kernels are those of :mod:`~deepmd_gnn.kernels.triton.operators` and
:mod:`~deepmd_gnn.kernels.triton.mixing`: they count receivers from where their pointers begin, and edges from the first of all.
"""

from collections.abc import Iterator
from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels.triton import reference
from deepmd_gnn.kernels.triton.mixing import mix_into
from deepmd_gnn.kernels.triton.operator import operator
from deepmd_gnn.kernels.triton.operators import convolution_inputs, launch_backward, launch_forward, on_cpu
from deepmd_gnn.kernels.triton.source import generated_module

# Receivers of a block at most: enough programs to fill a GPU several times. Blocks begin at multiples of the second number,
# because kernels read four numbers at a time.
RECEIVERS, MULTIPLE = 8192, 64


def rows_of_block(nnode: int) -> int:
    """How many of so many receivers are in a block; all blocks but the last have the same number."""
    blocks = max(1, -(-nnode // RECEIVERS))
    return max(1, -(-nnode // (blocks * MULTIPLE))) * MULTIPLE


def blocks_of(nnode: int) -> Iterator[tuple[int, int]]:
    """First receiver of each block, and their number."""
    rows = rows_of_block(nnode)
    for first in range(0, nnode, rows):
        yield first, min(rows, nnode - first)


@operator("deepmd_gnn::triton_convolve_mix")
def convolve_mix(
    vectors: torch.Tensor,
    sent: torch.Tensor,
    packed: torch.Tensor,
    row: torch.Tensor,
    source: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    table: torch.Tensor,
    matrices: torch.Tensor,
    begins: torch.Tensor,
    paths: torch.Tensor,
    backward_matrices: torch.Tensor,
    backward_begins: torch.Tensor,
    backward_paths: torch.Tensor,
    code: str,
    width: int,
) -> torch.Tensor:
    """Sum the messages of every receiver and mix their channels.

    Parameters
    ----------
    vectors, sent, packed, row, source, order, begin, table :
        See :func:`~deepmd_gnn.kernels.triton.operators.convolve`.
    matrices, begins, paths, backward_matrices, backward_begins, backward_paths :
        See :func:`~deepmd_gnn.kernels.triton.mixing.mix`; the same matrices for all elements.
    code : str
        Generated module of the convolution.
    width : int
        Components of the result.

    Returns
    -------
    torch.Tensor
        Shape (nnode, width, channels of the result).
    """
    del backward_matrices, backward_begins, backward_paths
    module = generated_module(code)
    if on_cpu(vectors):
        messages = reference.convolve(sent, packed, row, source, begin, table, module)
        return reference.mix(messages, matrices, begins, paths, messages.new_empty(0), width)
    nnode = begin.shape[0] - 1
    out = sent.new_empty(nnode, width, matrices.shape[3])
    for first, messages in _rooms(nnode, sent, module):
        launch_forward(module, packed, row, source, begin[first:], table, sent, messages)
        mix_into(out[first : first + len(messages)], messages, matrices, begins, paths, None)
    return out


def _rooms(nnode: int, sent: torch.Tensor, module: Any) -> Iterator[tuple[int, torch.Tensor]]:
    """First receiver of each block, and room for their messages, in the same memory."""
    room = sent.new_empty(min(nnode, rows_of_block(nnode)), module.WIDTH, sent.shape[2])
    for first, number in blocks_of(nnode):
        yield first, room[:number]


@convolve_mix.register_fake
def _(
    vectors: Any,
    sent: Any,
    packed: Any,
    row: Any,
    source: Any,
    order: Any,
    begin: Any,
    table: Any,
    matrices: Any,
    begins: Any,
    paths: Any,
    backward_matrices: Any,
    backward_begins: Any,
    backward_paths: Any,
    code: str,
    width: int,
) -> torch.Tensor:
    return sent.new_empty(begin.shape[0] - 1, width, matrices.shape[3])


@operator("deepmd_gnn::triton_convolve_mix_backward")
def convolve_mix_backward(
    gradient: torch.Tensor,
    vectors: torch.Tensor,
    sent: torch.Tensor,
    packed: torch.Tensor,
    row: torch.Tensor,
    source: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    table: torch.Tensor,
    matrices: torch.Tensor,
    begins: torch.Tensor,
    paths: torch.Tensor,
    code: str,
    senders: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiate :func:`convolve_mix` with respect to the vectors and, with `senders`, what is sent.

    Parameters
    ----------
    gradient : torch.Tensor
        With respect to the result, shape (nnode, width, channels of the result).
    vectors, sent, packed, row, source, order, begin, table, code :
        See :func:`convolve_mix`.
    matrices, begins, paths : torch.Tensor
        Those of the map's derivative, which is such a map too.
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
    mapped = (matrices, begins, paths)
    inputs = (vectors, sent, packed, row, source, order, begin, table)
    if on_cpu(vectors):
        arriving = reference.mix(gradient, *mapped, gradient.new_empty(0), module.WIDTH)
        return reference.convolve_backward(arriving, *inputs, module, senders)

    def arriving_at_blocks() -> Iterator[tuple[int, torch.Tensor]]:
        for first, arriving in _rooms(begin.shape[0] - 1, sent, module):
            mix_into(arriving, gradient[first : first + len(arriving)], *mapped, None)
            yield first, arriving

    return launch_backward(module, inputs, senders, arriving_at_blocks())


@convolve_mix_backward.register_fake
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
    matrices: Any,
    begins: Any,
    paths: Any,
    code: str,
    senders: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(vectors), torch.empty_like(sent) if senders else sent.new_empty(0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *arrays, code, _ = inputs
    ctx.save_for_backward(*arrays[:8], *arrays[11:])
    ctx.code = code


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    senders = ctx.needs_input_grad[1]
    d_vectors, d_sent = convolve_mix_backward(gradient.contiguous(), *ctx.saved_tensors, ctx.code, senders)
    return (d_vectors, d_sent if senders else None, *[None] * 14)


convolve_mix.register_autograd(_differentiate, setup_context=_save)


class TritonMessages(torch.nn.Module):
    """Radial network and convolution of a layer, and the linear map after it.

    Parameters
    ----------
    convolution : TritonConvolution
        The convolution.
    linear : TritonLinear
        The map; the same for all elements.
    """

    def __init__(self, convolution: Any, linear: Any) -> None:
        super().__init__()
        self.convolution = convolution
        self.linear = linear

    def forward(
        self, sent: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor, radial: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.convolution.Convolution`; harmonics and radial weights come from the graph."""
        del harmonics, radial
        inputs = convolution_inputs(graph, sent, self.convolution.table)
        arrays = self.linear.arrays()
        return convolve_mix(*inputs, *arrays, self.convolution.code, self.linear.width)  # type: ignore[no-any-return]
