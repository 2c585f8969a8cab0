"""The operators of compiled training against autograd of the plain code, to second order."""

import numpy as np
import pytest
import torch
from tolerances import NATIVE

from deepmd_gnn.graph.arrangement import arrange_in_chunks, chunks_of, places_for
from deepmd_gnn.graph.edge_operators import pick, read_rows, sum_rows
from deepmd_gnn.nn.neighbor_gradients import neighbor_sums
from deepmd_gnn.nn.neighbor_sums import shape_of_paths, sums_of_chunk

# Two irreps, each with two degrees.
DIMS, IRREPS = [1, 3], [0, 0, 1, 1]
DEGREES = [(0, 1), (1, 4), (0, 1), (1, 4)]
SHAPE = shape_of_paths(DIMS, IRREPS, DEGREES)
CHANNELS, NNODE = 2, 6


def leaf(rng, *shape):
    return torch.tensor(rng.normal(size=shape), requires_grad=True)


def inputs(slots, nedge=9):
    """Node 3 has no edges, node 4 has most."""
    rng = np.random.default_rng(1)
    receiver = torch.tensor([0, 1, 4, 4, 2, 4, 5, 4, 4])
    edge, node_place, table = arrange_in_chunks(receiver, NNODE, slots)
    receiver = receiver[edge]
    sender = torch.tensor(rng.integers(0, NNODE, size=nedge))[edge]
    sent = leaf(rng, NNODE, sum(DIMS), CHANNELS)
    harmonics, radial = leaf(rng, len(edge), 4), leaf(rng, len(IRREPS), len(edge), CHANNELS)
    guard = (receiver > 0).double().unsqueeze(1)
    return sent, harmonics, radial, guard, sender, table, node_place


def plain(sent, harmonics, radial, sender, table):
    rows, out, begin = sent[sender], [], 0
    for nodes, width in zip(*chunks_of(table), strict=True):
        part = slice(begin, begin + nodes * width)
        out.append(
            sums_of_chunk(
                rows[part], harmonics[part], list(radial[:, part]), nodes, width, DIMS, IRREPS, DEGREES
            )
        )
        begin += nodes * width
    return torch.cat(out)


@pytest.mark.parametrize("slots", [1, 8, 1000])
def test_edges_arranged(slots):
    rng = np.random.default_rng(2)
    for nnode, nedge in ((1, 1), (4, 1), (5, 40), (200, 300)):
        receiver = torch.tensor([0, *rng.integers(0, nnode, size=nedge - 1)])
        edge, node_place, table = arrange_in_chunks(receiver, nnode, slots)
        assert len(edge) == places_for(nedge, nnode)
        nodes, widths = chunks_of(table)
        assert sum(nodes) == nnode
        owner = torch.repeat_interleave(
            torch.arange(nnode), torch.tensor(widths).repeat_interleave(torch.tensor(nodes))
        )
        # Every edge once, at a place of its receiver; all other places hold the guard's.
        real = edge > 0
        assert sorted(edge[real].tolist()) == list(range(1, nedge))
        assert not real[len(owner) :].any()
        places = real[: len(owner)]
        assert torch.equal(node_place[receiver[edge[: len(owner)]]][places], owner[places])
        assert slots > 1 or max(nodes) == 1


@pytest.mark.parametrize("slots", [1, 8, 1000])
def test_sums_over_neighbours(slots):
    """One chunk and several; value, first and second derivatives."""
    sent, harmonics, radial, _, sender, table, _ = inputs(slots)
    assert len(chunks_of(table)[0]) > 1 or slots > 1
    operator = lambda *x: neighbor_sums(*x, sender, table, SHAPE)  # noqa: E731
    leaves = (sent, harmonics, radial)
    torch.testing.assert_close(operator(*leaves), plain(*leaves, sender, table), rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(operator, leaves)
    assert torch.autograd.gradgradcheck(operator, leaves)


@pytest.mark.parametrize("only", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_derivatives_of_some_inputs(only, precision):
    """As in training: a first gradient with respect to some inputs, and a loss on it."""
    results = []
    for double in (True, False):
        sent, harmonics, radial, _, sender, table, _ = inputs(8)
        dtype = torch.float64 if double else getattr(torch, precision)
        leaves = [x.detach().to(dtype).requires_grad_(True) for x in (sent, harmonics, radial)]
        total = plain(*leaves, sender, table) if double else neighbor_sums(*leaves, sender, table, SHAPE)
        first = torch.autograd.grad(total.square().sum(), [leaves[k] for k in only], create_graph=True)
        sum(part.square().sum() for part in first).backward()
        results.append([*first, *(x.grad for x in leaves)])
    for expected, actual in zip(*results, strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close(actual.double() / scale, expected / scale, rtol=0, atol=NATIVE[precision])


def test_nothing_is_added_to_empty_receivers():
    sent, harmonics, radial, guard, sender, table, node_place = inputs(8)
    total = neighbor_sums(sent, harmonics * guard, radial, sender, table, SHAPE)
    assert [node for node in range(NNODE) if not total[node_place[node]].any()] == [0, 3]


def test_rows_and_sums_are_each_others_derivative():
    rng = np.random.default_rng(3)
    rows, values = leaf(rng, 4, 3), leaf(rng, 7, 3)
    index = torch.tensor([0, 3, 3, 1, 0, 0, 3])  # row 2 is never read
    torch.testing.assert_close(read_rows(rows, index), rows[index])
    torch.testing.assert_close(
        sum_rows(values, index, 4), torch.zeros(4, 3).double().index_add(0, index, values)
    )
    for function, argument in (
        (lambda x: read_rows(x, index).sin(), rows),
        (lambda x: sum_rows(x, index, 4).sin(), values),
    ):
        assert torch.autograd.gradcheck(function, argument)
        assert torch.autograd.gradgradcheck(function, argument)


def test_picked_rows():
    rng = np.random.default_rng(4)
    factors, index = leaf(rng, 3, 2, 2), torch.tensor([0, 2, 2, 1, 0])
    transposed = torch.nn.functional.one_hot(index, 3).T.double()
    torch.testing.assert_close(pick(factors, index, transposed), factors[index])
    assert torch.autograd.gradcheck(lambda x: pick(x, index, transposed).sin(), factors)
    assert torch.autograd.gradgradcheck(lambda x: pick(x, index, transposed).sin(), factors)
