"""What the Triton kernels of training compute, in plain torch: for CPUs, and for tests. The harmonic of degree 0 is one."""

from typing import Any

import torch


def _with_first(harmonics: torch.Tensor, value: float) -> torch.Tensor:
    """Set the harmonic of degree 0, shape (nedge, ·) → the same."""
    return torch.cat([torch.full_like(harmonics[:, :1], value), harmonics[:, 1:]], dim=1)


class Messages:
    """Sums over the edges of a layer; everything is linear in radial weights, features and harmonics.

    Parameters
    ----------
    sender, order, begin : torch.Tensor
        Of :func:`~deepmd_gnn.kernels.triton.training_convolution.convolve`.
    module : types.ModuleType
        Generated.
    """

    def __init__(self, sender: torch.Tensor, order: torch.Tensor, begin: torch.Tensor, module: Any) -> None:
        self.sender, self.nnode, self.module = sender, begin.shape[0] - 1, module
        places = torch.arange(order.shape[0], device=begin.device)
        # Edges that belong to nobody, beyond the last receiver's, have a row of their own.
        nodes = torch.searchsorted(begin, places, right=True) - 1
        self.receiver = torch.full_like(sender, self.nnode).scatter_reduce_(0, order, nodes, "amin")

    def arriving(self, gradient: torch.Tensor) -> torch.Tensor:
        """Gradient at the receiver of every edge, shape (nnode, width, channels) → (nedge, width, channels)."""
        return torch.cat([gradient, torch.zeros_like(gradient[:1])])[self.receiver]

    def weights(self, radial: torch.Tensor, sent: torch.Tensor) -> torch.Tensor:
        """Shape (nedge, npath * channels) → (nedge, npath, channels)."""
        return radial.view(radial.shape[0], -1, sent.shape[2])

    def sums(self, radial: torch.Tensor, sent: torch.Tensor, harmonics: torch.Tensor) -> torch.Tensor:
        """Sum the messages of every receiver, shape (nnode, width, channels)."""
        inputs, weights = sent[self.sender], self.weights(radial, sent)
        messages = inputs.new_zeros(inputs.shape[0], self.module.WIDTH, inputs.shape[2])
        for path, terms in enumerate(self.module.PATHS):
            for m1, m2, m3, c in terms:
                messages[:, m3] += c * harmonics[:, m2, None] * weights[:, path] * inputs[:, m1]
        out = sent.new_zeros(self.nnode + 1, self.module.WIDTH, sent.shape[2])
        return out.index_add(0, self.receiver, messages)[:-1]

    def to_radial(self, gradient: torch.Tensor, sent: torch.Tensor, harmonics: torch.Tensor) -> torch.Tensor:
        """Derivative with respect to the radial weights, shape (nedge, npath * channels)."""
        inputs, arriving = sent[self.sender], self.arriving(gradient)
        out = inputs.new_zeros(inputs.shape[0], len(self.module.PATHS), inputs.shape[2])
        for path, terms in enumerate(self.module.PATHS):
            for m1, m2, m3, c in terms:
                out[:, path] += c * harmonics[:, m2, None] * arriving[:, m3] * inputs[:, m1]
        return out.flatten(1)

    def to_sent(
        self, gradient: torch.Tensor, radial: torch.Tensor, sent: torch.Tensor, harmonics: torch.Tensor
    ) -> torch.Tensor:
        """Derivative with respect to the features, of which the shape is read."""
        arriving, weights = self.arriving(gradient), self.weights(radial, sent)
        rows = sent.new_zeros(self.sender.shape[0], *sent.shape[1:])
        for path, terms in enumerate(self.module.PATHS):
            for m1, m2, m3, c in terms:
                rows[:, m1] += c * harmonics[:, m2, None] * arriving[:, m3] * weights[:, path]
        return torch.zeros_like(sent).index_add(0, self.sender, rows)

    def to_harmonics(
        self, gradient: torch.Tensor, radial: torch.Tensor, sent: torch.Tensor, harmonics: torch.Tensor
    ) -> torch.Tensor:
        """Derivative with respect to the harmonics, of which the shape is read."""
        inputs, arriving, weights = sent[self.sender], self.arriving(gradient), self.weights(radial, sent)
        out = torch.zeros_like(harmonics)
        for path, terms in enumerate(self.module.PATHS):
            for m1, m2, m3, c in terms:
                out[:, m2] += (c * arriving[:, m3] * weights[:, path] * inputs[:, m1]).sum(1)
        return _with_first(out, 0.0)


def convolve(
    radial: torch.Tensor, sent: torch.Tensor, harmonics: torch.Tensor, messages: Messages
) -> torch.Tensor:
    """See :func:`~deepmd_gnn.kernels.triton.training_convolution.convolve`."""
    return messages.sums(radial, sent, _with_first(harmonics, 1.0))


def convolve_backward(
    gradient: torch.Tensor,
    radial: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    messages: Messages,
    of_sent: bool,
    of_harmonics: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :func:`~deepmd_gnn.kernels.triton.training_convolution.convolve_backward`."""
    harmonics = _with_first(harmonics, 1.0)
    return (
        messages.to_radial(gradient, sent, harmonics),
        messages.to_sent(gradient, radial, sent, harmonics) if of_sent else sent.new_empty(0),
        messages.to_harmonics(gradient, radial, sent, harmonics) if of_harmonics else sent.new_empty(0),
    )


def convolve_second(
    t_radial: torch.Tensor,
    t_sent: torch.Tensor | None,
    t_harmonics: torch.Tensor,
    gradient: torch.Tensor,
    radial: torch.Tensor,
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    messages: Messages,
    of_sent: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :func:`~deepmd_gnn.kernels.triton.training_convolution.convolve_second`."""
    harmonics, t_harmonics = _with_first(harmonics, 1.0), _with_first(t_harmonics, 0.0)
    g_gradient = messages.sums(t_radial, sent, harmonics) + messages.sums(radial, sent, t_harmonics)
    g_radial = messages.to_radial(gradient, sent, t_harmonics)
    if t_sent is not None:
        g_gradient += messages.sums(radial, t_sent, harmonics)
        g_radial += messages.to_radial(gradient, t_sent, harmonics)
    if not of_sent:
        return g_gradient, g_radial, sent.new_empty(0)
    g_sent = messages.to_sent(gradient, t_radial, sent, harmonics)
    return g_gradient, g_radial, g_sent + messages.to_sent(gradient, radial, sent, t_harmonics)


def _product(features: torch.Tensor, factors: list[int]) -> torch.Tensor:
    """Product of components, shape (nnode, components, channels) → (nnode, channels)."""
    return features[:, factors].prod(dim=1)


def _change(features: torch.Tensor, t_features: torch.Tensor, factors: list[int]) -> torch.Tensor:
    """Change of :func:`_product` along a change of the components."""
    change = torch.zeros_like(features[:, 0])
    for position, factor in enumerate(factors):
        others = [*factors[:position], *factors[position + 1 :]]
        change += t_features[:, factor] * _product(features, others)
    return change


def contract_weights(
    gradient: torch.Tensor,
    features: torch.Tensor,
    t_features: torch.Tensor | None,
    coefficients: torch.Tensor,
    kind: torch.Tensor,
    module: Any,
) -> torch.Tensor:
    """Derivative with respect to the coefficients, of their shape, or its change along `t_features`."""
    out = torch.zeros_like(coefficients)
    for term, (output, factors) in enumerate(module.MONOMIALS):
        product = (
            _product(features, factors) if t_features is None else _change(features, t_features, factors)
        )
        out[:, term].index_add_(0, kind, gradient[:, output] * product)
    return out


def contract_second(
    t_features: torch.Tensor,
    gradient: torch.Tensor,
    features: torch.Tensor,
    coefficients: torch.Tensor,
    kind: torch.Tensor,
    module: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :func:`~deepmd_gnn.kernels.triton.training_contraction.contract_second`."""
    g_gradient, g_features = torch.zeros_like(gradient), torch.zeros_like(features)
    of_kind = coefficients[kind]
    for term, (output, factors) in enumerate(module.MONOMIALS):
        g_gradient[:, output] += of_kind[:, term] * _change(features, t_features, factors)
        for position, factor in enumerate(factors):
            others = [*factors[:position], *factors[position + 1 :]]
            change = _change(features, t_features, others)
            g_features[:, factor] += gradient[:, output] * of_kind[:, term] * change
    g_coefficients = contract_weights(gradient, features, t_features, coefficients, kind, module)
    return g_gradient, g_features, g_coefficients
