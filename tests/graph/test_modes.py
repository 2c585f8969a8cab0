"""A graph has the fields of its mode, whoever arranged it."""

import pytest
import torch
from helpers import random_frame

from deepmd_gnn.graph import atom_graph
from deepmd_gnn.graph.arrangement import for_compiled_training, for_training_kernels, in_chunks
from deepmd_gnn.graph.atom_graph import (
    FIELDS,
    AtomGraph,
    check_fields,
    is_compiled,
    is_exported,
    trains_compiled,
    trains_with_kernels,
    with_edge_vec,
)
from deepmd_gnn.graph.builders import graph_of_edges, make_graph, sorted_by_receiver, with_lists
from deepmd_gnn.graph.compilation import compilation, compiling
from deepmd_gnn.graph.neighbor_search import NeighborPairs
from deepmd_gnn.graph.padding import in_slots

R_MAX = 4.0


def edges():
    coord, atype, cell = (torch.tensor(part)[None] for part in random_frame())
    center, neighbor, vectors = NeighborPairs(R_MAX)(coord, atype, cell)
    return atype[0], torch.stack([neighbor, center]), vectors


def graphs():
    """A graph of every mode."""
    atype, index, vectors = edges()
    plain = make_graph(atype, atype, *index, vectors, index, R_MAX)
    mask = torch.ones(len(vectors), dtype=torch.bool)
    flat = graph_of_edges(atype, len(atype), index, vectors, mask, R_MAX, None)
    groups = []
    for row in (index[1], index[0]):
        count = torch.bincount(row, minlength=len(atype))
        groups += [torch.argsort(row, stable=True), torch.nn.functional.pad(count.cumsum(0), (1, 0))]
    listed = with_lists(flat, tuple(groups), len(atype), in_rectangles=True)
    return [
        plain,
        in_chunks(plain, 60),
        sorted_by_receiver(plain),
        in_slots(listed),
        listed,
        for_compiled_training(plain, 60),
        for_training_kernels(plain, False),
        for_training_kernels(plain, True),
    ]


def test_every_mode_has_a_builder():
    built = graphs()
    assert [graph.mode for graph in built] == list(FIELDS)
    for graph in built:
        check_fields(graph)
        check_fields(with_edge_vec(graph, graph.edge_vec * 1.0))
        assert is_compiled(graph) == (is_exported(graph) or trains_compiled(graph))
    assert [is_exported(graph) for graph in built] == [False] * 3 + [True] * 2 + [False] * 3
    assert [trains_compiled(graph) for graph in built] == [False] * 5 + [True, False, True]
    assert [trains_with_kernels(graph) for graph in built] == [False] * 6 + [True] * 2


def test_a_field_of_another_mode_is_refused():
    plain, chunks, *_ = graphs()
    with pytest.raises(ValueError, match="mode 'plain' has.*node_place"):
        check_fields(chunks._replace(mode="plain"))
    with pytest.raises(ValueError, match="mode 'chunks'.*chunk_nodes"):
        check_fields(plain._replace(mode="chunks"))
    with pytest.raises(ValueError, match="mode 'fast'; the modes are plain, chunks"):
        check_fields(plain._replace(mode="fast"))


def test_every_optional_field_belongs_to_a_mode():
    """Or to all of them: quantities of frames, and pairs of charges."""
    assert set().union(*FIELDS.values()) == set(AtomGraph._fields[6:]) - atom_graph._OF_FRAMES


def test_what_is_set_for_a_compilation_ends_with_it():
    with compiling(checks_input=True):
        with compiling(evaluation="tables"):
            assert compilation()[:1] == ("tables",)
            assert compilation().checks_input
        assert compilation().evaluation == "kernels"
    assert not compilation().checks_input
