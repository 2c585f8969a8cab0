"""Operators that are called without torch's dispatcher where nobody looks on."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from deepmd_gnn.kernels.triton.operator import operator

calls = []


@operator("deepmd_gnn_tests::square")
def square(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Square a tensor of any shape."""
    return factor * x * x


@square.register_fake
def _(x, factor):
    return torch.empty_like(x)


@operator("deepmd_gnn_tests::plain")
def plain(x: torch.Tensor) -> torch.Tensor:
    """Add one, without derivative; any shape."""
    return x + 1.0


def _keep(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.factor = inputs[1]


def _differentiate(ctx, gradient):
    calls.append(torch.is_grad_enabled())
    return 2.0 * ctx.factor * ctx.saved_tensors[0] * gradient, None


square.register_autograd(_differentiate, setup_context=_keep)


class Names(TorchDispatchMode):
    """Names of the operators that torch's dispatcher sees."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


def test_both_ways_are_equal():
    x = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    found = []
    for direct in (True, False):
        calls.clear()
        way = square if direct else square.recorded
        (first,) = torch.autograd.grad(way(x, 3.0).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        found.append((first.tolist(), second.tolist(), list(calls)))
    assert found[0] == found[1] == ([6.0, 18.0], [72.0, 216.0], [True])


def test_whoever_looks_on_sees_the_operator():
    x = torch.ones(2)
    with Names() as names:
        square(x, 2.0)
    assert "deepmd_gnn_tests::square" in names.seen
    graph = make_fx(lambda y: square(y, 2.0), tracing_mode="fake")(x)
    assert any("deepmd_gnn_tests.square" in str(node.target) for node in graph.graph.nodes)

    class Marked(torch.Tensor):
        """A tensor that decides for itself."""

    assert isinstance(square(x.as_subclass(Marked), 2.0), Marked)


def test_an_operator_without_derivative():
    x = torch.ones(2, requires_grad=True)
    assert plain(x.detach()).tolist() == [2.0, 2.0]
    with torch.no_grad():
        assert plain(x).tolist() == [2.0, 2.0]
    with pytest.raises(RuntimeError):
        plain(x).sum().backward()
