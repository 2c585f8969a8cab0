"""Invariances, derivatives and limits that hold for any weights."""

import numpy as np
import pytest
import torch
from architectures import architectures
from helpers import assert_close, our_results, random_frame, rotation, tiny_model
from tolerances import FINITE_DIFFERENCE, NATIVE

VARIANTS = architectures("physics")


@pytest.fixture(scope="module", params=list(VARIANTS))
def model(request):
    return tiny_model(**VARIANTS[request.param])


@pytest.mark.parametrize("inverted", [False, True])
def test_rotation_and_inversion(model, inverted):
    coord, atype, cell = random_frame()
    turn = rotation() * (-1 if inverted else 1)
    before = our_results(model, coord, atype, cell)
    after = our_results(model, coord @ turn.T, atype, cell @ turn.T)
    tolerance = NATIVE["float64"]
    assert_close(after["energy"], before["energy"], tolerance)
    assert_close(after["force"], before["force"] @ turn.T, tolerance)
    assert_close(after["virial"].reshape(3, 3), turn @ before["virial"].reshape(3, 3) @ turn.T, tolerance)


def test_translation_permutation_and_lattice_vectors(model):
    coord, atype, cell = random_frame()
    rng = np.random.default_rng(1)
    order = rng.permutation(len(atype))
    moved = (coord + [0.3, -7.0, 11.0] + rng.integers(-3, 4, (len(atype), 3)) @ cell)[order]
    before = our_results(model, coord, atype, cell, do_atomic_virial=True)
    after = our_results(model, moved, atype[order], cell, do_atomic_virial=True)
    for key in ("energy", "virial"):
        assert_close(after[key], before[key], NATIVE["float64"], key)
    for key in ("force", "atom_energy", "atom_virial"):
        assert_close(after[key], before[key][order], NATIVE["float64"], key)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_finite_differences(precision):
    """Central differences of energies; float32 networks are compared at float32's accuracy."""
    model = tiny_model(precision=precision, pair_repulsion=True)
    coord, atype, cell = random_frame(natoms=6, box_length=4.5)
    result = our_results(model, coord, atype, cell)
    h, tolerance = (1e-4, FINITE_DIFFERENCE) if precision == "float64" else (3e-3, 3e-4)

    def energy(x, box):
        return our_results(model, x, atype, box)["energy"][0]

    numeric = np.zeros_like(coord)
    for i in range(len(atype)):
        for k in range(3):
            step = np.zeros_like(coord)
            step[i, k] = h
            numeric[i, k] = -(energy(coord + step, cell) - energy(coord - step, cell)) / (2 * h)
    assert_close(result["force"], numeric, tolerance, "force")
    virial = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            strain = np.zeros((3, 3))
            strain[a, b] = h
            deformed = [
                energy(coord @ (np.eye(3) + s * strain).T, cell @ (np.eye(3) + s * strain).T) for s in (1, -1)
            ]
            virial[a, b] = -(deformed[0] - deformed[1]) / (2 * h)
    assert_close(result["virial"].reshape(3, 3), virial, tolerance, "virial")


def test_atomic_virials_sum_to_the_virial_and_follow_the_neighbour(model):
    """The atomic virial of k is −Σ_{edges to k} g ⊗ r: checked through ∂E_i/∂x on a free cluster."""
    coord, atype, _ = random_frame(natoms=5, box_length=4.0)
    result = our_results(model, coord, atype, None, do_atomic_virial=True)
    assert_close(result["atom_virial"].sum(axis=0), result["virial"], NATIVE["float64"])
    # For a free cluster the total is Σ_k F_k ⊗ x_k.
    assert_close(result["virial"].reshape(3, 3), result["force"].T @ coord, NATIVE["float64"])
    assert_close(result["force"].sum(axis=0) + 1.0, np.ones(3), NATIVE["float64"], "total force")


def test_atomic_energies_sum_to_the_energy(model):
    result = our_results(model, *random_frame())
    assert_close(result["atom_energy"].sum(), result["energy"], NATIVE["float64"])


def test_isolated_atoms_have_exactly_their_energy():
    model = tiny_model()
    coord = np.array([[0.0, 0, 0], [30.0, 0, 0], [0, 4.0, 0]])
    result = our_results(model, coord, [0, 1, 1], None)
    np.testing.assert_array_equal(result["atom_energy"][:, 0], [-5.0, -1.25, -1.25])
    np.testing.assert_array_equal(result["force"], 0.0)


def test_extensivity(model):
    coord, atype, _ = random_frame(natoms=6, box_length=4.5)
    alone = our_results(model, coord, atype, None)
    both = our_results(model, np.vstack([coord, coord + 100.0]), np.tile(atype, 2), None)
    assert_close(both["energy"], 2 * alone["energy"], NATIVE["float64"])


def test_supercell(model):
    coord, atype, cell = random_frame(natoms=5, box_length=3.5, spacing=0.8)
    small = our_results(model, coord, atype, cell)
    shifts = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)]) @ cell
    large = our_results(model, np.vstack([coord + s for s in shifts]), np.tile(atype, 8), 2 * cell)
    assert_close(large["energy"], 8 * small["energy"], NATIVE["float64"])
    assert_close(large["force"][:5], small["force"], NATIVE["float64"])
    assert_close(large["virial"], 8 * small["virial"], NATIVE["float64"])


def test_smooth_through_the_cutoff(model):
    """Energy and force go to the isolated atoms' values as the pair reaches r_max."""
    r_max = model.get_rcut()

    def at(r):
        return our_results(model, np.array([[0.0, 0, 0], [r, 0, 0]]), [0, 1], None)

    inside, outside, middle = at(r_max - 1e-3), at(r_max + 1e-3), at(0.6 * r_max)
    e0 = outside["energy"][0]
    assert abs(inside["energy"][0] - e0) < 1e-6 * abs(middle["energy"][0] - e0)
    assert np.abs(inside["force"]).max() < 1e-3 * np.abs(middle["force"]).max()
    assert np.abs(outside["force"]).max() == 0.0


def test_frames_do_not_see_each_other(model):
    frames = [random_frame(seed=s) for s in (1, 2, 3)]
    coord = torch.tensor(np.stack([f[0] for f in frames]))
    atype = torch.tensor(np.stack([f[1] for f in frames]))
    box = torch.tensor(np.stack([f[2].reshape(9) for f in frames]))
    batch = model(coord, atype, box, do_atomic_virial=True)
    for k, frame in enumerate(frames):
        alone = our_results(model, *frame, do_atomic_virial=True)
        for key, value in alone.items():
            assert_close(batch[key][k].numpy(), value, NATIVE["float64"], key)


def test_sel_changes_no_number():
    frame = random_frame(natoms=20, box_length=5.5)
    expected = our_results(tiny_model(sel=1000), *frame, do_atomic_virial=True)
    actual = our_results(tiny_model(sel=1), *frame, do_atomic_virial=True)
    for key in expected:
        np.testing.assert_array_equal(actual[key], expected[key])


def test_excluded_pairs_and_atoms():
    coord, atype, cell = random_frame()
    free = our_results(tiny_model(), coord, atype, cell)
    apart = our_results(tiny_model(pair_exclude_types=[[0, 1]]), coord, atype, cell)
    for kind in (0, 1):
        only = our_results(tiny_model(), coord[atype == kind], atype[atype == kind], cell)
        assert_close(apart["force"][atype == kind], only["force"], NATIVE["float64"])
    muted = our_results(tiny_model(atom_exclude_types=[1]), coord, atype, cell)
    np.testing.assert_array_equal(muted["atom_energy"][atype == 1], 0.0)
    assert_close(muted["atom_energy"][atype == 0], free["atom_energy"][atype == 0], NATIVE["float64"])
