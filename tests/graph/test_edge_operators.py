"""Operators with derivatives of their own, against indexing, to the second derivative, and as the compiler sees them."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from deepmd_gnn.graph.edge_operators import pick, read_rows, sum_rows, unpick

INDEX = torch.tensor([2, 0, 2, 3, 2])
# Which rows are read, as zeros and ones, shape (4, 5).
MATRIX = torch.nn.functional.one_hot(INDEX, 4).double().t().contiguous()


def random(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def read_by_indexing(rows):
    return rows[INDEX]


def sum_by_loops(values):
    sums = [sum(values[k] for k in range(5) if INDEX[k] == row) for row in range(4)]
    return torch.stack(
        [row if isinstance(row, torch.Tensor) else torch.zeros_like(values[0]) for row in sums]
    )


CASES = {
    "read_rows": (lambda x: read_rows(x, INDEX), read_by_indexing, (4, 2, 3)),
    "sum_rows": (lambda x: sum_rows(x, INDEX, 4), sum_by_loops, (5, 2, 3)),
    "pick": (lambda x: pick(x, INDEX, MATRIX), read_by_indexing, (4, 2, 3)),
    "unpick": (lambda x: unpick(x, INDEX, MATRIX), sum_by_loops, (5, 2, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives(name):
    operator, expected, shape = CASES[name]
    x = random(*shape)
    torch.testing.assert_close(operator(x), expected(x), rtol=1e-14, atol=0.0)
    assert torch.autograd.gradcheck(operator, (x,))
    # Of something that is not linear, so that there is a second derivative.
    assert torch.autograd.gradgradcheck(lambda x: operator(x.square()), (x,))


@pytest.mark.parametrize("name", CASES)
def test_traced_graphs_are_for_all_sizes(name):
    """Value and derivative, traced where sizes are symbols, as a compiled training step is."""
    operator, _, shape = CASES[name]

    def both(x):
        value = operator(x)
        return value, torch.autograd.grad(value.sin().sum(), x)[0]

    traced = make_fx(both, tracing_mode="symbolic", _allow_non_fake_inputs=True)(random(*shape))
    called = {str(node.target) for node in traced.graph.nodes}
    assert f"deepmd_gnn.{name}.default" in called
    for width in (1, 5):
        x = random(shape[0], width, 2)
        for found, expected in zip(traced(x), both(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)
