"""In Python a ``.pt2`` and ``.pte`` get the edges of the ``.pth``'s search, and its messages."""

from types import SimpleNamespace

import deepmd.pt_expt.infer.deep_eval as host
import numpy as np
import pytest
import torch
from corner_inputs import BAD, FAR
from deepmd.dpmodel.utils.neighbor_graph import build_neighbor_graph
from deepmd.infer import DeepPot
from helpers import random_frame, tiny_model

from deepmd_gnn.host.inference_graphs import keeping_types, neighbor_graph
from deepmd_gnn.native.conversion import save_checkpoint


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def graph(model, coord, types, cell):
    """What the host's inference asks for."""
    box = None if cell is None else np.reshape(cell, (1, 9))
    inference = SimpleNamespace(_dpmodel=model)
    return host.DeepEval._build_eval_graph(
        inference, np.array(coord, dtype=float)[None], np.array(types)[None], box, torch.device("cpu")
    )


def rows(edges, vectors, mask):
    table = np.hstack([np.asarray(edges).T, np.round(np.asarray(vectors), 8)])[np.asarray(mask)]
    return table[np.lexsort(table.T)]


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("natoms", [0, 1, 12])
def test_edges_are_the_hosts(model, natoms, periodic):
    coord, types, cell = random_frame(12, 4.5, seed=1)
    coord, types = coord[:natoms], np.where(np.arange(12) == 2, -1, types)[:natoms]
    ours = graph(model, coord, types, cell if periodic else None)
    box = cell.reshape(1, 9) if periodic else None
    assert ours.edge_mask[-2:].tolist() == [False, False]
    assert (
        ours.edge_vec[~ours.edge_mask] == 1.0
    ).all()  # known to the check in a .pt2 as edges that are all there are
    assert torch.equal(ours.edge_index[1], ours.edge_index[1][ours.destination_order])
    if natoms:
        theirs = build_neighbor_graph(coord[None], types[None], box, model.get_rcut(), canonicalize=True)
        expected = rows(theirs.edge_index, theirs.edge_vec, theirs.edge_mask)
        np.testing.assert_allclose(rows(ours.edge_index, ours.edge_vec, ours.edge_mask), expected, atol=1e-7)


def test_edges_of_several_frames(model):
    """Atoms are counted through all frames, and no edge leads from one into another."""
    frames = [random_frame(9, 4.5, seed=seed) for seed in (1, 2)]
    coord, types, cell = (torch.tensor(np.stack(part)) for part in zip(*frames, strict=True))
    found = neighbor_graph(model, coord, types, cell.reshape(2, 9))
    assert found.n_node.tolist() == [9, 9]
    index, vectors = found.edge_index[:, found.edge_mask], found.edge_vec[found.edge_mask]
    assert torch.equal(index[0] // 9, index[1] // 9)
    for frame in range(2):
        alone = neighbor_graph(model, *(part[frame : frame + 1] for part in (coord, types, cell)))
        inside = index[0] // 9 == frame
        expected = rows(alone.edge_index, alone.edge_vec, alone.edge_mask)
        np.testing.assert_array_equal(
            rows(index[:, inside] - 9 * frame, vectors[inside], torch.ones(int(inside.sum())) > 0), expected
        )


@pytest.mark.parametrize(("types", "words"), [([0.5, 1], "atom type 0.5"), ([0, 2**40], "out of range")])
def test_types_of_others_are_the_hosts(model, types, words):
    """What is refused for our models is handed on for those of the host."""
    handed = []
    standard = keeping_types(lambda self, coords, cells, kinds, *others: handed.append(kinds))
    theirs = SimpleNamespace(get_model_def_script=lambda: {"type": "standard"}, get_type_map=lambda: ["O"])
    standard(SimpleNamespace(deep_eval=theirs), None, None, types)
    assert handed == [types]
    ours = SimpleNamespace(_dpmodel=model, get_type_map=model.get_type_map)
    with pytest.raises(ValueError, match=words):
        standard(SimpleNamespace(deep_eval=ours), None, None, types)


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(model, case):
    coord, types, cell, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        graph(model, coord, types, cell)


@pytest.mark.parametrize("case", FAR)
def test_far_and_flat_input_is_no_obstacle(model, case):
    coord, types, cell = FAR[case]
    assert graph(model, coord, types, cell).edge_mask.sum() >= 2


def test_the_wrong_one_of_several_objects_is_named(tmp_path):
    """An array of Python's numbers holds whole ones, too."""
    save_checkpoint(tiny_model(), tmp_path / "m.pt")
    evaluator = DeepPot(str(tmp_path / "m.pt"))
    coord = np.eye(3)[None, :2]
    right = evaluator.eval(coord, None, np.array([0, 1]))[0]
    assert evaluator.eval(coord, None, np.array([np.int64(0), 1.0], dtype=object))[0] == right
    with pytest.raises(ValueError, match=r"atom type 0\.5 is no whole number"):
        evaluator.eval(coord, None, np.array([np.int64(0), 0.5], dtype=object))


@pytest.mark.parametrize("wrong", [2**32 + 1, -(2**32) + 1, 2**63 - 1, 1e300])
def test_types_are_not_wrapped(wrong, tmp_path):
    """The host casts to 32 bits, where these are other types."""
    save_checkpoint(tiny_model(), tmp_path / "m.pt")
    types = np.array([0, wrong])
    with pytest.raises(ValueError, match=f"atom type {int(wrong)} is out of range"):
        DeepPot(str(tmp_path / "m.pt")).eval(np.eye(3)[None, :2], None, types)


@pytest.mark.parametrize("wrong", [1.7, np.nan, "H", 1j], ids=str)
def test_types_are_whole_numbers(wrong, tmp_path):
    """The host would cut 1.7 to 1."""
    save_checkpoint(tiny_model(), tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"mace model: atom type .* is no whole number.*\(O, H\)"):
        DeepPot(str(tmp_path / "m.pt")).eval(np.eye(3)[None, :2], None, [wrong, 0])


@pytest.mark.parametrize("what", ["coordinates", "cells"])
def test_positions_are_real_numbers(what, model):
    """A cast would take the real part, or what a text says; not for models of the host."""
    ours = SimpleNamespace(_dpmodel=model, get_type_map=model.get_type_map)
    theirs = SimpleNamespace(get_model_def_script=lambda: {"type": "standard"})
    standard = keeping_types(lambda self, *given: given + (None, 1))
    for kind in (complex, str, object):
        given = {"coordinates": np.eye(3)[None], "cells": np.eye(3).reshape(1, 9) * 9}
        given[what] = given[what].astype(kind)
        standard(SimpleNamespace(deep_eval=theirs), *given.values(), [0, 1, 1])
        with pytest.raises(ValueError, match=f"the {what} are of type .*, but must be real numbers"):
            standard(SimpleNamespace(deep_eval=ours), *given.values(), [0, 1, 1])


def test_where_nothing_can_be_refused(model):
    """A graph without the operator: no number for types that the model does not have, indices within the tables."""
    edges = graph(model, np.eye(3) * 1.2, [0, 1, 1], None)
    inputs = (edges.n_node, edges.n_node, edges.edge_index, edges.edge_vec, edges.edge_mask)
    for kinds, known in (([0, 1, 1], 3), ([0, 2, 1], 2), ([-2, 1, 10**6], 1), ([0, -1, 1], 3)):
        energy = model.forward_common_lower_graph(torch.tensor(kinds), *inputs)["energy"]
        assert int(torch.isfinite(energy).sum()) == known
