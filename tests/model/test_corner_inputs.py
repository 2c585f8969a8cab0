"""Inputs at the edge of what makes sense: each has a documented result or a clear error."""

import numpy as np
import pytest
import torch
from helpers import our_results, random_frame, tiny_model


@pytest.fixture(scope="module", params=["eager", "scripted"])
def model(request):
    eager = tiny_model()
    return eager if request.param == "eager" else torch.jit.script(eager)


def test_one_atom_is_exactly_e0(model):
    result = our_results(model, [[1.0, 2.0, 3.0]], [1], None, do_atomic_virial=True)
    assert result["energy"].tolist() == [-1.25]
    assert not np.any(result["force"]) and not np.any(result["virial"]) and not np.any(result["atom_virial"])


def test_one_atom_in_a_large_cell(model):
    assert our_results(model, [[1.0, 2.0, 3.0]], [0], np.eye(3) * 9.0)["energy"].tolist() == [-5.0]


@pytest.mark.parametrize("cell", [None, np.eye(3) * 9.0])
@pytest.mark.parametrize("nf", [1, 2])
def test_zero_atoms(model, cell, nf):
    box = None if cell is None else torch.tensor(np.tile(cell.reshape(1, 9), (nf, 1)))
    result = model(torch.zeros(nf, 0, 3, dtype=torch.float64), torch.zeros(nf, 0, dtype=torch.int64), box)
    assert result["energy"].tolist() == [[0.0]] * nf
    assert result["virial"].tolist() == [[0.0] * 9] * nf
    assert result["force"].shape == (nf, 0, 3)


def test_padding_atoms_do_nothing(model):
    coord, atype, cell = random_frame()
    alone = our_results(model, coord, atype, cell)
    padded = our_results(model, np.vstack([coord, coord[:2] + 0.1]), [*atype, -1, -1], cell)
    assert padded["energy"] == pytest.approx(alone["energy"], abs=1e-12)
    np.testing.assert_allclose(padded["force"][:-2], alone["force"], atol=1e-12)
    assert not np.any(padded["force"][-2:]) and not np.any(padded["atom_energy"][-2:])
    assert padded["mask"].tolist() == [1] * len(atype) + [0, 0]


BAD = {
    "coincident atoms": ([[0, 0, 0], [1, 1, 1], [1, 1, 1]], [0, 1, 1], None, "same place.*atoms 1 and 2"),
    "coincident across a face": ([[0, 0, 0], [5, 0, 0]], [0, 1], np.eye(3) * 5.0, "same place"),
    "NaN": ([[0, 0, 0], [np.nan, 1, 1]], [0, 1], None, "NaN or infinite"),
    "infinite": ([[0, 0, 0], [np.inf, 1, 1]], [0, 1], None, "NaN or infinite"),
    "flat cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.diag([5.0, 5.0, 0.0]), "degenerate"),
    "thin cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.diag([5.0, 5.0, 0.01]), "degenerate"),
    "NaN cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.diag([5.0, 5.0, np.nan]), "degenerate"),
    "type out of range": (
        [[0, 0, 0], [1, 1, 1]],
        [0, 2],
        None,
        "type 2 is out of range; the model has 2 types: O, H",
    ),
    "type below -1": ([[0, 0, 0], [1, 1, 1]], [0, -2], None, "type -2 is out of range; the model has 2"),
    "far away": (
        [[0, 0, 0], [1e15, 1, 1]],
        [0, 1],
        None,
        "a coordinate is 1.*e\\+15 Å|a coordinate is 10{15}.* Å",
    ),
    "all far away": (
        [[7e15, 0, 0], [7e15, 1, 1]],
        [0, 1],
        np.eye(3) * 5.0,
        "float64 does not resolve distances",
    ),
    "at the end of all numbers": ([[0, 0, 0], [1e300, 1, 1]], [0, 1], None, "does not resolve distances"),
    "long cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.eye(3) * 1e200, "a cell vector has a component of"),
    "infinite cell": ([[0, 0, 0], [1, 1, 1]], [0, 1], np.diag([5.0, 5.0, np.inf]), "degenerate"),
    "oblique cell": (
        [[0, 0, 0], [1, 1, 1]],
        [0, 1],
        [[7.0, 0, 0], [7e6, 7, 0], [0, 0, 7]],
        "thinner than a fiftieth",
    ),
    "nearly singular cell": (
        [[0, 0, 0], [1, 1, 1]],
        [0, 1],
        [[7.0, 0, 0], [7, 1e-6, 0], [0, 0, 7]],
        "thinner than a fiftieth",
    ),
}
# Two atoms that see each other, and what a search over a grid could stumble over.
FAR = {
    "an atom far away": ([[0, 0, 0], [1, 1, 1], [1e9, 0, 0]], [0, 1, 1], None),
    "flat and huge": ([[0, 0, 1], [1, 1, 1]], [0, 1], np.diag([1300.0, 1300.0, 4.5])),
    "long": ([[0, 0, 1], [1, 1, 1]], [0, 1], np.diag([4.0, 4.0, 1e8])),
    "cells away": ([[0, 0, 0], [1e8 + 1, 1, 1]], [0, 1], np.eye(3) * 5.0),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(model, case):
    coord, atype, cell, words = BAD[case]
    with pytest.raises((ValueError, torch.jit.Error), match=words):
        our_results(model, np.array(coord, dtype=float), atype, cell)


@pytest.mark.parametrize("case", FAR)
def test_far_and_flat_input_is_no_obstacle(model, case):
    coord, atype, cell = FAR[case]
    result = our_results(model, np.array(coord, dtype=float), atype, cell)
    assert np.isfinite(result["energy"]).all()
    assert np.linalg.norm(result["force"][:2], axis=1).min() > 1e-6


def test_nearly_coincident_atoms_are_finite(model):
    result = our_results(model, [[0.0, 0, 0], [1e-4, 0, 0]], [0, 1], None)
    assert np.isfinite(result["energy"]).all() and np.isfinite(result["force"]).all()


def test_gradients_off_is_no_obstacle(model):
    frame = random_frame()
    expected = our_results(model, *frame)["force"]
    with torch.no_grad():
        np.testing.assert_allclose(our_results(model, *frame)["force"], expected, atol=1e-12)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
