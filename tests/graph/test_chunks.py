"""Edges in chunks of receivers: nothing lost, and the same convolution."""

import pytest
import torch
from helpers import assert_close, random_frame, tiny_model
from tolerances import NATIVE

from deepmd_gnn.graph.arrangement import in_chunks
from deepmd_gnn.graph.builders import make_graph


def uneven_graph(seed=0):
    """One atom that everybody sees, some that see few others, and some alone."""
    generator = torch.Generator().manual_seed(seed)
    natom, nedge = 40, 150
    center = torch.cat(
        [torch.zeros(120, dtype=torch.int64), torch.randint(1, 30, (nedge,), generator=generator)]
    )
    sender = torch.randint(0, natom, center.shape, generator=generator)
    vectors = torch.randn(len(center), 3, generator=generator, dtype=torch.float64)
    types = torch.randint(0, 2, (natom,), generator=generator)
    shuffle = torch.randperm(len(center), generator=generator)
    center, sender = center[shuffle], sender[shuffle]
    return make_graph(types, types, sender, center, vectors, torch.stack([sender, center]), 4.0)


@pytest.mark.parametrize("slots", [1, 16, 60, 10_000])
def test_every_edge_once(slots):
    graph = uneven_graph()
    found = in_chunks(graph, slots)
    rows = torch.cat([found.edge_index.T, found.edge_atoms.T, found.edge_vec], dim=1)
    expected = torch.cat([graph.edge_index.T, graph.edge_atoms.T, graph.edge_vec], dim=1)
    real = found.edge_index[1] > 0
    assert torch.equal(rows[real].unique(dim=0), expected[1:].unique(dim=0))
    assert int(real.sum()) == len(expected) - 1
    assert (rows[~real] == expected[0]).all()  # padding is the guard's edge
    assert sum(found.chunk_nodes) == len(graph.node_types)
    # The receivers of a chunk follow one another, each with as many edges.
    receivers = found.node_place.argsort()
    widths = torch.tensor(found.chunk_widths).repeat_interleave(torch.tensor(found.chunk_nodes))
    owners = receivers.repeat_interleave(widths)
    assert torch.equal(found.edge_index[1][real], owners[real])


def test_padding_is_bounded():
    """An atom with many neighbours does not make the lists of all others as long."""
    found = in_chunks(uneven_graph(), 60)
    assert len(found.edge_vec) < 2 * 270


def test_sizes_are_known_to_the_host(monkeypatch):
    """On a GPU, a size that only the data tell makes the host wait."""
    sizes = []
    repeat = torch.repeat_interleave

    def seen(values, repeats, output_size=None):
        sizes.append(output_size)
        return repeat(values, repeats, output_size=output_size)

    monkeypatch.setattr(torch, "repeat_interleave", seen)
    found = in_chunks(uneven_graph(), 60)
    assert sizes == [len(found.node_types), len(found.edge_vec)]


@pytest.mark.parametrize("slots", [1, 60])
def test_same_convolution(slots):
    """Value and derivatives equal those of the code without chunks."""
    model = tiny_model(max_L=2, max_ell=3).energy_model
    graph = uneven_graph()
    results = []
    for chunked in (False, True):
        edges = in_chunks(graph, slots) if chunked else graph
        vectors = edges.edge_vec.requires_grad_(True)
        energy, features = model(edges._replace(edge_vec=vectors), None)
        (gradient,) = torch.autograd.grad(energy.sum(), vectors)
        per_atom = torch.zeros(len(graph.node_types), 3, dtype=torch.float64)
        per_atom = per_atom.index_add(0, edges.edge_index[0], gradient)
        results.append([energy[1:].detach(), features[-1][1:].detach(), per_atom[1:]])
    for name, expected, found in zip(("energy", "features", "gradient"), *results, strict=True):
        assert_close(found.numpy(), expected.numpy(), NATIVE["float64"], name)


def test_model_uses_chunks():
    model = tiny_model()
    coord, atype, cell = random_frame()
    graph = model.graphs.of_frames(*(torch.tensor(x)[None] for x in (coord, atype, cell.reshape(9))))
    assert graph.chunk_nodes == [len(atype) + 1]  # small enough for one
