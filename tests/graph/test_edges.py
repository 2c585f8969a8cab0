"""Sums over edges and the checks of what comes in, against the plain formulas."""

import pytest
import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_sums import edge_lists, rows_of_receivers, sum_at_receivers
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
    return plain._replace(incoming=edge_lists(*lists())) if mode == "exported" else plain


@pytest.mark.parametrize("mode", ["plain", "exported", "compiled training"])
def test_sums_and_their_inverse(mode):
    values = torch.arange(10.0).view(5, 2)
    expected = torch.zeros(3, 2).index_add(0, RECEIVERS, values)
    assert torch.equal(sum_at_receivers(values, graph(mode)), expected)
    assert torch.equal(rows_of_receivers(expected, graph(mode)), expected[RECEIVERS])


def test_types_and_coordinates_are_looked_at():
    check_types(torch.tensor([[0, 1, -1]]), ["O", "H"])
    check_types(torch.zeros(1, 0, dtype=torch.int64), ["O"])
    with pytest.raises(ValueError, match="atom type 2 is out of range; the model has 2 types: O, H"):
        check_types(torch.tensor([[0, 2]]), ["O", "H"])
    check_coordinates(torch.full((1, 3), 0.99 * farthest(), dtype=torch.float64))
    for value, words in ((float("nan"), "NaN or infinite"), (1.01 * farthest(), "does not resolve")):
        with pytest.raises(ValueError, match=words):
            check_coordinates(torch.tensor([0.0, value], dtype=torch.float64))
