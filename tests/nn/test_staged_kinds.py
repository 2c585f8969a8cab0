"""Sums over neighbours for each kind of senders, against sums with radial weights for every edge."""

import pytest
import torch
from tolerances import NATIVE

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels.tables.scripted import polynomials
from deepmd_gnn.nn.radial_reader import EdgeGradients, RadialReader
from deepmd_gnn.nn.staged_kinds import KindSums
from deepmd_gnn.nn.stages import TabulatedSums, new_stages, sent_by_kinds

# Four paths, scalars times harmonics of degree 0 and 1; six functions of the distance up to 4 Å.
DEGREES, HARMONICS, CHANNELS, FUNCTIONS = [(0, 1), (1, 4), (1, 4), (0, 1)], 4, 3, 6
NODES, R_MAX, BENT = 9, 4.0, 0.3
MOST = 1e-2 * NATIVE["float64"]


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def read(reader, table):
    """Give a reader a table."""
    reader.table.value = table
    reader.polynomials.value = polynomials()
    reader.grid.value = torch.tensor([(NODES - 1) * (1.0 / R_MAX + BENT), BENT], dtype=torch.float64)


def both():
    """The same weights by functions and by path."""
    by_path = TabulatedSums([1], [0] * 4, DEGREES, torch.zeros(1, 8))
    by_kind = KindSums(by_path.degrees, by_path.heights)
    assert not by_kind.ready()
    by_kind.weights_of_functions.value = random(FUNCTIONS, 4 * CHANNELS)
    functions = random(1, NODES, 4, FUNCTIONS)
    read(by_kind, functions)
    read(by_path, functions @ by_kind.weights_of_functions.value)
    assert by_kind.ready()
    return by_kind, by_path


def graph_of(kinds):
    """Five receivers with six edges, two with three: chunks; some edges are beyond the cutoff."""
    nedge = 5 * 6 + 2 * 3
    nsender = len(kinds)
    index = torch.stack([torch.randint(nsender, (nedge,)), torch.zeros(nedge, dtype=torch.int64)])
    return AtomGraph(
        kinds[:7],
        kinds,
        index,
        2.0 * random(nedge, 3),
        index,
        "chunks",
        chunk_nodes=[5, 2],
        chunk_widths=[6, 3],
    )


@pytest.mark.parametrize("nkind", [1, 2, 4])
def test_kinds_or_edges(nkind):
    torch.manual_seed(nkind)
    by_kind, by_path = both()
    kinds = torch.randint(nkind, (9,))
    features, graph = random(nkind, CHANNELS), graph_of(kinds)
    sent, harmonics = features[kinds].unsqueeze(1), random(graph.edge_vec.shape[0], HARMONICS)
    expected = by_path(sent, graph, harmonics)
    scripted = torch.jit.script(by_kind)
    for sums in (by_kind, scripted):
        found = sums(features, kinds, graph, harmonics)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=0, atol=MOST * float(expected.abs().max()))
    gradient = random(*expected.shape)
    found, reference = (
        EdgeGradients(torch.zeros_like(harmonics), torch.zeros_like(harmonics[:, 0])) for _ in range(2)
    )
    by_kind.backward(features, kinds, graph, harmonics, gradient, found)
    by_path.backward(sent, graph, harmonics, gradient, reference, False)
    for ours, theirs in zip(found, reference, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=MOST * float(theirs.abs().max()))


def test_few_kinds_are_noted():
    """Of elements that are there, in the order of the type map; more than four are not."""
    features = torch.arange(6.0).unsqueeze(1)
    for kinds, expected in (([5, 1, 5], [1.0, 5.0]), ([0, 1, 2, 3, 4], None)):
        stages = new_stages()
        index = torch.tensor(kinds)
        none = torch.zeros(2, 0, dtype=torch.int64)
        graph = AtomGraph(index, index, none, torch.zeros(0, 3), none)
        sent = sent_by_kinds(features, index, graph, stages)
        assert sent.flatten().tolist() == kinds
        if expected is None:
            assert stages.kinds == []
        else:
            assert stages.kinds[0].flatten().tolist() == expected
            assert torch.equal(stages.kinds[0][stages.kinds[1]], sent)


def test_what_is_read_has_its_slope():
    reader = RadialReader()
    torch.manual_seed(0)
    read(reader, random(1, NODES, 4, FUNCTIONS))
    distances = torch.tensor([0.3, 1.7, 3.9], dtype=torch.float64)
    step = 1e-5
    values = []
    for shift in (-step, 0.0, step):
        vectors = torch.stack([distances + shift, 0 * distances, 0 * distances], dim=1)
        none = torch.zeros(2, 3, dtype=torch.int64)
        first, place = reader.places(AtomGraph(none[0], none[0], none, vectors, none), 0, 3)
        values.append(reader.weights(first, place))
        if shift == 0.0:
            slopes = reader.slopes(first, place)
    differences = (values[2] - values[0]) / (2 * step)
    assert torch.allclose(slopes, differences, rtol=0, atol=1e-8 * float(slopes.abs().max()))
