"""Inputs at the edge of what makes sense: each has a documented result or a clear error."""

import numpy as np
import pytest
import torch
from corner_inputs import BAD, FAR
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
