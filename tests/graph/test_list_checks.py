"""Pairs that a list lacks, against all pairs by another program; see also ``test_whole_lists.py``, by way of a model."""

import numpy as np
import pytest
import torch
from helpers import extended, random_frame

from deepmd_gnn.graph.builders import graph_from_list
from deepmd_gnn.graph.list_checks import ListCheck

R_MAX = 4.0
ALL = [[True, True], [True, True]]


def extended_frame(seed=0):
    """Coordinates, types, owners and list of atoms with ghosts."""
    return extended([random_frame(natoms=8, box_length=4.5, seed=seed)], R_MAX)[1]


def pairs_by_distance(coord, nloc, within):
    """Neighbour and centre of all pairs of an owned atom and another, from the whole table of distances."""
    distance = np.linalg.norm(coord[None] - coord[:nloc, None], axis=2)
    distance[np.arange(nloc), np.arange(nloc)] = np.inf
    center, neighbor = np.nonzero(distance < within)
    return {(int(j), int(i)) for j, i in zip(neighbor, center, strict=True)}


def as_pairs(index):
    return {(int(j), int(i)) for j, i in index.t()}


@pytest.mark.parametrize("virtual", [[], [3], [0, 40]])
def test_neighbours_of_owned_atoms(virtual):
    coord, types, _, _ = extended_frame()
    types[0, virtual] = -1
    pairs, distance = ListCheck(R_MAX, ALL).pairs_of_owned(coord[0], types[0], 8)
    expected = pairs_by_distance(coord[0].numpy(), 8, R_MAX)
    assert as_pairs(pairs) == {pair for pair in expected if not set(pair) & set(virtual)}
    found = torch.linalg.norm(coord[0][pairs[0]] - coord[0][pairs[1]], dim=1)
    torch.testing.assert_close(distance, found)


def test_no_owned_atoms():
    coord, types, _, _ = extended_frame()
    pairs, distance = ListCheck(R_MAX, ALL).pairs_of_owned(coord[0], types[0], 0)
    assert (pairs.shape, distance.shape) == ((2, 0), (0,))


def graph_without(lost):
    """The graph of a list in which a share of the entries is empty, and what is missing."""
    coord, types, owner, nlist = extended_frame()
    holes = torch.rand(nlist.shape, generator=torch.Generator().manual_seed(1)) < lost
    shorter = torch.where(holes, -1, nlist)
    gone = {(int(nlist[0, i, k]), i) for i, k in torch.nonzero(holes[0]).tolist() if nlist[0, i, k] >= 0}
    return coord, types, graph_from_list(coord, types, shorter, owner, R_MAX), gone


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_lacking_pairs(lost):
    coord, types, graph, gone = graph_without(lost)
    found = ListCheck(R_MAX, ALL).lacking_pairs(coord, types, 8, graph)
    near = pairs_by_distance(coord[0].numpy(), 8, R_MAX - 1e-3)
    assert as_pairs(found) == gone & near
    assert bool(gone) == (lost > 0)


def test_which_pairs_matter():
    """Not those of types that do not see each other, nor those of atoms that are left out and have no energy."""
    coord, types, graph, gone = graph_without(0.2)
    energy = torch.ones(2, dtype=torch.bool)
    lacking = torch.tensor(sorted(gone)).t()
    kinds = types[0].numpy()
    other = {(j, i) for j, i in gone if kinds[j] != kinds[i]}
    assert other
    assert gone - other
    with pytest.raises(ValueError, match="lacks pairs within the cutoff, such as atoms"):
        ListCheck(R_MAX, ALL).refuse(lacking, graph, types, energy)
    apart = torch.tensor(sorted(other)).t()
    ListCheck(R_MAX, [[True, False], [False, True]]).refuse(apart, graph, types, energy)
    first = torch.tensor(sorted(gone - other)).t()
    i, j = first[1, 0].item(), first[0, 0].item()
    with pytest.raises(ValueError, match=f"such as atoms {i} and {j} of the rank"):
        ListCheck(R_MAX, [[True, False], [False, True]]).refuse(first, graph, types, energy)
    ListCheck(R_MAX, ALL).refuse(lacking[:, :0], graph, types, energy)
    # A list of nothing: all atoms are left out, which is no mistake where they have no energy.
    _, _, empty, _ = graph_without(1.1)
    with pytest.raises(ValueError, match="another substance"):
        ListCheck(R_MAX, ALL).refuse(lacking, empty, types, energy)
    ListCheck(R_MAX, ALL).refuse(lacking, empty, types, ~energy)


@pytest.mark.parametrize(
    ("nlist", "mapping", "words"),
    [
        ([[[1, 5], [0, -1]]], [[0, 1, 0]], r"the neighbour list names atom 5, but there are 3 atoms"),
        ([[[1, 2], [0, -1]]], [[0, 1, 2]], r"gives owners 0 to 2, but the frame has 2 owned atoms"),
        ([[[1, 2], [0, -1]]], [[0, 1, -1]], r"gives owners -1 to 1, but"),
        ([[[1, 2], [0, -1]]], [[0, 1, 0]], None),
        ([[[1, 2], [0, -1]]], None, None),
    ],
)
def test_indices_of_atoms_that_are_not_there(nlist, mapping, words):
    check = ListCheck(R_MAX, ALL).check_indices
    mapping = None if mapping is None else torch.tensor(mapping)
    if words is None:
        check(torch.tensor(nlist), mapping, 3)
        return
    with pytest.raises(ValueError, match=words):
        check(torch.tensor(nlist), mapping, 3)
