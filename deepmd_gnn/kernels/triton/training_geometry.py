"""Harmonics and radial features in training: constants of the second derivative.

The loss is differentiated with respect to weights, on which the geometry does not depend. Left to itself, autograd would
differentiate the geometry once more with respect to positions, which takes a fifth of the launches of a step and is thrown away.
"""

from collections.abc import Callable
from typing import Any

import torch

Outputs = tuple[torch.Tensor, ...]


class _Geometry(torch.autograd.Function):
    """A function of one tensor, whose derivative exists while autograd is on: that with respect to positions."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[torch.Tensor], Outputs], positions: torch.Tensor) -> Outputs:
        with torch.enable_grad():
            ctx.leaf = positions.detach().requires_grad_(True)
            ctx.outputs = function(ctx.leaf)
        return tuple(output.detach() for output in ctx.outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if not torch.is_grad_enabled():
            return None, None
        return None, _Derivative.apply(ctx.leaf, ctx.outputs, *gradients)  # type: ignore[no-untyped-call]


class _Derivative(torch.autograd.Function):
    """The derivative of outputs with respect to a leaf, as a function of the gradients with respect to the outputs alone."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, outputs: Outputs, *gradients: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            ctx.gradients = [gradient.detach().requires_grad_(True) for gradient in gradients]
            (ctx.derivative,) = torch.autograd.grad(outputs, leaf, ctx.gradients, create_graph=True)
        return ctx.derivative.detach()  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, change: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = torch.autograd.grad(
            ctx.derivative, ctx.gradients, change, retain_graph=True, allow_unused=True
        )
        return None, None, *found


class TrainedHarmonics(torch.nn.Module):
    """Stands for :class:`~deepmd_gnn.nn.linear.SphericalHarmonics`."""

    def __init__(self) -> None:
        super().__init__()
        self.original: list[Any] = []

    def reading(self, original: Any) -> "TrainedHarmonics":
        """Evaluate this module."""
        self.original = [original]
        return self

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate, Å, shape (nedge, 3) → (nedge, ·)."""
        (original,) = self.original
        (harmonics,) = _Geometry.apply(lambda x: (original(x),), vectors)  # type: ignore[no-untyped-call]
        return harmonics  # type: ignore[no-any-return]


class TrainedRadialFeatures(TrainedHarmonics):
    """Stands for the radial embedding."""

    def forward(  # type: ignore[override]
        self, lengths: torch.Tensor, *elements: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Evaluate, Å, shape (nedge, 1) → features (nedge, ·) and, if there is one, an envelope (nedge, 1)."""
        (original,) = self.original

        def function(x: torch.Tensor) -> Outputs:
            return tuple(part for part in original(x, *elements) if part is not None)

        features, *envelope = _Geometry.apply(function, lengths)  # type: ignore[no-untyped-call]
        return features, envelope[0] if envelope else None
