r"""Derivative of the sums over neighbours, and the derivative of that, for compiled training.

For every receiver and path the sum is a matrix product :math:`S = Y^T (X \circ R)` of harmonics Y, shape (edges, m), and
features X times radial weights R, shape (edges, d · channels). With the gradient g of S and :math:`t = Y g`:

.. math:: \bar X = t \circ R, \quad \bar R = \sum_d t \circ X, \quad \bar Y = (X \circ R)\, g^T .

With gradients :math:`u_X, u_R, u_Y` of these three, :math:`q = u_X \circ R + u_R \circ X` and :math:`v = u_Y g`:

.. math::
   \bar g = Y^T q + u_Y^T (X \circ R), \quad \bar Y = q\, g^T, \quad
   \bar X = t \circ u_R + v \circ R, \quad \bar R = \sum_d (t \circ u_X + v \circ X) .
"""

from typing import Any

import torch

from deepmd_gnn.nn.neighbor_sums import Chunk, Path, chunks, paths_of
from deepmd_gnn.nn.neighbor_sums import neighbor_sums as neighbor_sums


def _empty(values: torch.Tensor) -> torch.Tensor:
    return values.new_empty(values.shape)


def _like_radial(radial: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Memory for a gradient with respect to the radial weights, zero behind the last chunk."""
    out = _empty(radial)
    *_, last = chunks(table)
    out[:, last.edges.stop :] = 0.0
    return out


@torch.library.custom_op("deepmd_gnn::neighbor_sums_backward", mutates_args=())
def neighbor_sums_backward(
    gradient: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    radial: torch.Tensor,
    sender: torch.Tensor,
    table: torch.Tensor,
    shape: list[int],
    of_sent: bool,
    of_harmonics: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Differentiate :func:`neighbor_sums`.

    Parameters
    ----------
    gradient : torch.Tensor
        With respect to the sums.
    sent, harmonics, radial, sender, table, shape :
        As there.
    of_sent, of_harmonics : bool
        Whether these gradients are wanted; else they are empty.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        Gradients with respect to `sent`, `harmonics` and `radial`.
    """
    channels = sent.shape[2]
    paths = paths_of(shape)
    to_sent = sent.new_zeros(sent.shape) if of_sent else sent.new_empty(0)
    to_harmonics = harmonics.new_zeros(harmonics.shape) if of_harmonics else harmonics.new_empty(0)
    to_radial = _like_radial(radial, table)
    for chunk in chunks(table):
        inputs = sent.index_select(0, sender[chunk.edges]).view(chunk.number, chunk.width, -1, channels)
        weights, into_weights = _weights(radial, chunk), _weights(to_radial, chunk)
        factors = harmonics[chunk.edges].view(chunk.number, chunk.width, -1)
        into_inputs, into_factors = torch.zeros_like(inputs), torch.zeros_like(factors)
        for number, path in enumerate(paths):
            feature, weight = inputs[:, :, path.features], weights[number]
            outer = gradient[chunk.nodes, path.sums].reshape(chunk.number, -1, feature.shape[2] * channels)
            terms = torch.bmm(factors[:, :, path.harmonics], outer).view(feature.shape)
            _multiply_and_sum(terms, feature, into_weights[number])
            if of_sent:
                into_inputs[:, :, path.features].addcmul_(terms, weight)
            if of_harmonics:
                torch.mul(feature, weight, out=terms)
                into_factors[:, :, path.harmonics] += torch.bmm(terms.flatten(2), outer.transpose(1, 2))
        if of_harmonics:
            to_harmonics[chunk.edges] = into_factors.flatten(0, 1)
        if of_sent:
            to_sent.index_add_(0, sender[chunk.edges], into_inputs.flatten(0, 1))
    return to_sent, to_harmonics, to_radial


def _weights(radial: torch.Tensor, chunk: Chunk) -> torch.Tensor:
    """Radial weights of a chunk, a view of shape (npath, nodes, width, 1, channels)."""
    return radial[:, chunk.edges].view(-1, chunk.number, chunk.width, 1, radial.shape[2])


def _multiply_and_sum(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """Product, summed over the components, shape (nodes, width, components, channels) → (nodes, width, 1, channels)."""
    if left.shape[2] == 1:
        torch.mul(left, right, out=out)
    else:
        torch.sum(left * right, 2, keepdim=True, out=out)


@neighbor_sums_backward.register_fake
def _(
    gradient: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    radial: torch.Tensor,
    sender: torch.Tensor,
    table: torch.Tensor,
    shape: list[int],
    of_sent: bool,
    of_harmonics: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        _empty(sent) if of_sent else sent.new_empty(0),
        _empty(harmonics) if of_harmonics else harmonics.new_empty(0),
        _empty(radial),
    )


@torch.library.custom_op("deepmd_gnn::neighbor_sums_second", mutates_args=())
def neighbor_sums_second(
    of_sent: torch.Tensor | None,
    of_harmonics: torch.Tensor | None,
    of_radial: torch.Tensor | None,
    gradient: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    radial: torch.Tensor,
    sender: torch.Tensor,
    table: torch.Tensor,
    shape: list[int],
    with_harmonics: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Differentiate :func:`neighbor_sums_backward`.

    Parameters
    ----------
    of_sent, of_harmonics, of_radial : torch.Tensor, optional
        With respect to its results; None is zero.
    gradient, sent, harmonics, radial, sender, table, shape :
        As there.
    with_harmonics : bool
        Whether the gradient with respect to `harmonics` is wanted; else it is empty.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
        Gradients with respect to `gradient`, `sent`, `harmonics` and `radial`.
    """
    channels = sent.shape[2]
    paths = paths_of(shape)
    to_gradient = _empty(gradient)
    to_sent = sent.new_zeros(sent.shape)
    to_harmonics = harmonics.new_zeros(harmonics.shape) if with_harmonics else harmonics.new_empty(0)
    to_radial = _like_radial(radial, table)
    for chunk in chunks(table):
        senders = sender[chunk.edges]
        part = _Second(
            sent.index_select(0, senders).view(chunk.number, chunk.width, -1, channels),
            harmonics[chunk.edges].view(chunk.number, chunk.width, -1),
            _weights(radial, chunk),
            None if of_sent is None else of_sent.index_select(0, senders),
            None if of_harmonics is None else of_harmonics[chunk.edges],
            None if of_radial is None else _weights(of_radial, chunk),
            _weights(to_radial, chunk),
        )
        for number, path in enumerate(paths):
            outer = gradient[chunk.nodes, path.sums].reshape(
                chunk.number, path.harmonics.stop - path.harmonics.start, -1
            )
            inner = part.add(number, path, outer, with_harmonics)
            to_gradient[chunk.nodes, path.sums] = inner.view(chunk.number, -1, channels)
        to_sent.index_add_(0, senders, part.into_inputs.flatten(0, 1))
        if with_harmonics:
            to_harmonics[chunk.edges] = part.into_factors.flatten(0, 1)
    return to_gradient, to_sent, to_harmonics, to_radial


class _Second:
    """Derivatives of a chunk's part of :func:`neighbor_sums_backward`.

    Parameters
    ----------
    inputs, factors, weights : torch.Tensor
        Features, harmonics and radial weights of the edges: shapes (nodes, width, components, channels), (nodes, width, ·)
        and that of :func:`_weights`.
    of_inputs, of_factors, of_weights : torch.Tensor, optional
        Gradients with respect to the gradients of these; None is zero.
    into_weights : torch.Tensor
        Where the gradient with respect to `weights` shall go.
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        factors: torch.Tensor,
        weights: torch.Tensor,
        of_inputs: torch.Tensor | None,
        of_factors: torch.Tensor | None,
        of_weights: torch.Tensor | None,
        into_weights: torch.Tensor,
    ) -> None:
        self.width = inputs.shape[1]
        self.inputs, self.weights = inputs, weights
        self.of_inputs = None if of_inputs is None else of_inputs.view(inputs.shape)
        self.of_weights = of_weights
        # Harmonics and their gradient one below the other: one product for both.
        self.crossed = of_factors is not None
        self.factors = (
            factors if of_factors is None else torch.cat([factors, of_factors.view(factors.shape)], 1)
        )
        self.into_inputs, self.into_factors = torch.zeros_like(inputs), torch.zeros_like(factors)
        self.into_weights = into_weights

    def add(self, number: int, path: Path, outer: torch.Tensor, with_factors: bool) -> torch.Tensor:
        """Add a path, given the gradient of its sums, and return the gradient with respect to that."""
        nodes, width, factors = outer.shape[0], self.width, self.factors[:, :, path.harmonics]
        feature, weight = self.inputs[:, :, path.features], self.weights[number]
        both = torch.bmm(factors, outer).view(nodes, -1, *feature.shape[2:])
        terms, further = both[:, :width], both[:, width:]
        column = torch.empty_like(both)
        product = column[:, :width]
        into_inputs = self.into_inputs[:, :, path.features]
        if self.of_inputs is None:
            product.zero_()
        else:
            torch.mul(self.of_inputs[:, :, path.features], weight, out=product)
        if self.of_weights is not None:
            product.addcmul_(feature, self.of_weights[number])
            into_inputs.addcmul_(terms, self.of_weights[number])
        if self.crossed:
            torch.mul(feature, weight, out=column[:, width:])
            into_inputs.addcmul_(further, weight)
        self._add_weights(self.into_weights[number], terms, further, path)
        if with_factors:
            part = torch.bmm(product.flatten(2), outer.transpose(1, 2))
            self.into_factors[:, :, path.harmonics] += part
        return torch.bmm(factors.transpose(1, 2), column.flatten(2))

    def _add_weights(
        self, target: torch.Tensor, terms: torch.Tensor, further: torch.Tensor, path: Path
    ) -> None:
        feature = self.inputs[:, :, path.features]
        if self.of_inputs is None and not self.crossed:
            target.zero_()
            return
        if self.of_inputs is None:
            _multiply_and_sum(further, feature, target)
            return
        # Where there is one component, the sum over the components is the product.
        total = target if feature.shape[2] == 1 else terms
        torch.mul(terms, self.of_inputs[:, :, path.features], out=total)
        if self.crossed:
            total.addcmul_(further, feature)
        if total is terms:
            torch.sum(terms, 2, keepdim=True, out=target)


@neighbor_sums_second.register_fake
def _(
    of_sent: torch.Tensor | None,
    of_harmonics: torch.Tensor | None,
    of_radial: torch.Tensor | None,
    gradient: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    radial: torch.Tensor,
    sender: torch.Tensor,
    table: torch.Tensor,
    shape: list[int],
    with_harmonics: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    to_harmonics = _empty(harmonics) if with_harmonics else harmonics.new_empty(0)
    return _empty(gradient), _empty(sent), to_harmonics, _empty(radial)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*[value for value in inputs if isinstance(value, torch.Tensor)])
    ctx.shape = next(value for value in inputs if isinstance(value, list))
    # A gradient that is zero everywhere is not made.
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, gradient: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    if gradient is None:
        return (None,) * 6
    needs = ctx.needs_input_grad
    sent, harmonics, radial = neighbor_sums_backward(
        gradient, *ctx.saved_tensors, ctx.shape, needs[0], needs[1]
    )
    return sent if needs[0] else None, harmonics if needs[1] else None, radial, None, None, None


def _second(
    ctx: Any, of_sent: torch.Tensor | None, of_harmonics: torch.Tensor | None, of_radial: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    wanted = ctx.needs_input_grad[2]
    gradient, sent, harmonics, radial = neighbor_sums_second(
        of_sent, of_harmonics, of_radial, *ctx.saved_tensors, ctx.shape, wanted
    )
    return gradient, sent, harmonics if wanted else None, radial, None, None, None, None, None


neighbor_sums.register_autograd(_backward, setup_context=_keep)
neighbor_sums_backward.register_autograd(_second, setup_context=_keep)
