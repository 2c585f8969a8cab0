"""Sums over edges and the checks of what comes in, against the plain formulas."""

import math

import pytest
import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.compilation import compiling
from deepmd_gnn.graph.edge_sums import edge_groups, edge_lists, rows_of_receivers, sum_at_receivers
from deepmd_gnn.graph.input_checks import check_coordinates, check_types, farthest

RECEIVERS = torch.tensor([2, 0, 2, 2, 0])


def lists():
    order = torch.argsort(RECEIVERS, stable=True)
    begin = torch.tensor([0, 2, 2, 5])
    return order, begin


def test_padded_lists_have_every_edge_once():
    padded = edge_lists(*lists())
    assert padded.shape == (3, 3)
    assert sorted(padded[padded >= 0].tolist()) == [0, 1, 2, 3, 4]
    for row in range(3):
        edges = padded[:, row]
        assert (RECEIVERS[edges[edges >= 0]] == row).all()


def graph(mode):
    """Three nodes that are also the senders; node 1 sends and receives nothing."""
    types = torch.zeros(3, dtype=torch.int64)
    index = torch.stack([RECEIVERS, RECEIVERS])
    plain = AtomGraph(types, types, index, torch.zeros(5, 3), index, mode)
    if mode == "exported kernels":
        with compiling(file_operators=True):
            return plain._replace(incoming=edge_groups(*lists()))
    return plain._replace(incoming=edge_groups(*lists())) if mode == "exported" else plain


@pytest.mark.parametrize("mode", ["plain", "exported", "exported kernels", "compiled training"])
@pytest.mark.parametrize("shape", [(), (2,), (1, 2)])
def test_sums_and_their_inverse(mode, shape):
    values = torch.arange(5.0 * math.prod(shape)).view(5, *shape).requires_grad_()
    expected = torch.zeros(3, *shape).index_add(0, RECEIVERS, values)
    sums = sum_at_receivers(values, graph(mode))
    assert torch.equal(sums, expected)
    rows = rows_of_receivers(expected, graph(mode))
    assert torch.equal(rows, expected[RECEIVERS])
    # Each is the derivative of the other.
    weights = torch.arange(sums.numel()).view(sums.shape).to(sums.dtype)
    assert torch.equal(torch.autograd.grad([sums], [values], [weights])[0], weights[RECEIVERS])
    (back,) = torch.autograd.grad([rows], [expected], [weights[RECEIVERS]])
    assert torch.equal(back, torch.zeros(3, *shape).index_add(0, RECEIVERS, weights[RECEIVERS]))


def test_types_and_coordinates_are_looked_at():
    check_types(torch.tensor([[0, 1, -1]]), ["O", "H"])
    check_types(torch.zeros(1, 0, dtype=torch.int64), ["O"])
    with pytest.raises(ValueError, match="atom type 2 is out of range; the model has 2 types: O, H"):
        check_types(torch.tensor([[0, 2]]), ["O", "H"])
    check_coordinates(torch.full((1, 3), 0.99 * farthest(), dtype=torch.float64))
    for value, words in ((float("nan"), "NaN or infinite"), (1.01 * farthest(), "does not resolve")):
        with pytest.raises(ValueError, match=words):
            check_coordinates(torch.tensor([0.0, value], dtype=torch.float64))
