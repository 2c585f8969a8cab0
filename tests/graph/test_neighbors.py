"""The cell list against brute force and matscipy."""

import numpy as np
import pytest
import torch
from helpers import random_frame
from matscipy.neighbours import neighbour_list

from deepmd_gnn.graph.neighbor_search import NeighborPairs


def ours(coord, atype, cell, r_max):
    box = None if cell is None else torch.tensor(cell)[None]
    center, neighbor, vec = NeighborPairs(r_max)(torch.tensor(coord)[None], torch.as_tensor(atype)[None], box)
    return center.numpy(), neighbor.numpy(), vec.numpy()


def reference(coord, cell, r_max):
    box, pbc = (np.diag(np.ptp(coord, axis=0) + 1.0), False) if cell is None else (cell, True)
    return neighbour_list("ijD", positions=coord, cell=box, pbc=[pbc] * 3, cutoff=r_max)


def canonical(center, neighbor, vec):
    table = np.column_stack([center, neighbor, np.round(vec, 8) + 0.0])
    return table[np.lexsort(table.T[::-1])]


CELLS = {
    "large": np.eye(3) * 10.0,
    "smaller than r_max": np.eye(3) * 3.1,
    "thin": np.diag([2.2, 15.0, 4.0]),
    "triclinic": np.array([[7.0, 0, 0], [3.4, 6.0, 0], [-2.5, 2.9, 5.0]]),
    "left handed": np.array([[0, 6.0, 0], [6.5, 0, 0], [0, 1.0, 7.0]]),
    "very skewed": np.array([[6.0, 0, 0], [17.0, 6.0, 0], [-9.0, 13.0, 6.0]]),
    "free": None,
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("r_max", [3.0, 4.5])
def test_all_pairs_are_found(name, r_max):
    cell = CELLS[name]
    rng = np.random.default_rng(3)
    coord = rng.random((9, 3)) @ (cell if cell is not None else np.eye(3) * 6.0)
    coord += rng.integers(-2, 3, (9, 3)) @ (cell if cell is not None else np.zeros((3, 3)))  # unwrapped
    found = canonical(*ours(coord, np.zeros(9, int), cell, r_max))
    expected = canonical(*reference(coord, cell, r_max))
    assert len(expected) > 0
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_atoms_on_cell_faces_and_at_the_cutoff():
    cell = np.eye(3) * 4.0
    coord = np.array([[0.0, 0, 0], [4.0, 2.0, 0], [0, 0, 1.5]])
    center, neighbor, vec = ours(coord, [0, 0, 0], cell, 2.0)
    assert len(center) == len(reference(coord + 1e-12, cell, 2.0 + 1e-9)[0])
    np.testing.assert_array_equal(np.bincount(center, minlength=3), np.bincount(neighbor, minlength=3))


def test_frames_do_not_see_each_other():
    frames = [random_frame(seed=s, natoms=7) for s in (1, 2)]
    coord = torch.tensor(np.stack([f[0] for f in frames]))
    box = torch.tensor(np.stack([f[2] for f in frames]))
    center, neighbor, vec = NeighborPairs(4.0)(coord, torch.zeros(2, 7, dtype=torch.int64), box)
    assert torch.equal(center // 7, neighbor // 7)
    for k, (x, t, cell) in enumerate(frames):
        mine = canonical(
            (center % 7)[center // 7 == k], (neighbor % 7)[center // 7 == k], vec[center // 7 == k]
        )
        np.testing.assert_allclose(mine, canonical(*ours(x, t, cell, 4.0)), atol=1e-7)


def test_virtual_atoms_are_left_out():
    coord, _, cell = random_frame(natoms=6)
    atype = np.array([0, -1, 1, 0, -1, 1])
    center, neighbor, _ = ours(coord, atype, cell, 4.0)
    assert set(center) | set(neighbor) <= {0, 2, 3, 5}


def test_atoms_flying_apart_need_no_memory():
    coord = np.array([[0.0, 0, 0], [1.0, 0, 0], [1e9, 1e9, -1e9], [1e9 + 1, 1e9, -1e9]])
    center, _, vec = ours(coord, [0] * 4, None, 3.0)
    assert center.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(np.abs(vec[:, 0]), 1.0)


def test_edge_vectors_are_differentiable_in_coordinates_and_cell():
    coord, atype, cell = random_frame(natoms=5)
    x = torch.tensor(coord[None], requires_grad=True)
    box = torch.tensor(cell[None], requires_grad=True)
    _, _, vec = NeighborPairs(4.0)(x, torch.as_tensor(atype)[None], box)
    gx, gbox = torch.autograd.grad(vec.square().sum(), [x, box])
    strain = 1e-6
    moved = [ours(coord * (1 + s * strain), atype, cell * (1 + s * strain), 4.0)[2] for s in (1, -1)]
    numeric = ((moved[0] ** 2).sum() - (moved[1] ** 2).sum()) / (2 * strain)
    analytic = (gx * x).sum() + (gbox * box).sum()
    assert abs(numeric - analytic.item()) < 1e-5 * abs(numeric)


@pytest.mark.parametrize(
    ("coord", "cell", "words"),
    [
        ([[0.0, 0, float("nan")]], None, "NaN"),
        ([[0.0, 0, float("inf")]], np.eye(3), "NaN or infinite"),
        ([[0.0, 0, 0]], np.diag([1.0, 1.0, 0.0]), "degenerate"),
        ([[0.0, 0, 0]], np.diag([9.0, 9.0, 0.01]), "thinner"),
        ([[0.0, 0, 0]], np.full((3, 3), np.nan), "degenerate"),
    ],
)
def test_bad_geometry_is_refused(coord, cell, words):
    with pytest.raises(ValueError, match=words):
        ours(np.array(coord), [0], cell, 4.0)
