"""The checks of `deepmd-gnn check` find what is wrong: an analytic pair potential passes, each spoilt one fails."""

from dataclasses import replace

import numpy as np
import pytest
from matscipy.neighbours import neighbour_list

from deepmd_gnn.tools.checks import PhysicsChecks, Results, compare_ranks, displaced
from deepmd_gnn.tools.structures import Structure, invented_structure

R_MAX = 4.0
DEPTH = np.array([[1.0, 0.7], [0.7, 0.4]])
NAMES = (
    "forces",
    "virial",
    "sums",
    "translation",
    "rotation",
    "inversion",
    "permutation",
    "supercell",
    "smoothness",
)


def pairs(structure):
    box = structure.cell if structure.periodic else np.eye(3) * 100.0
    return neighbour_list(
        "ijD", positions=structure.coord, cell=box, pbc=[structure.periodic] * 3, cutoff=R_MAX
    )


def smooth(structure, tail=0.0):
    """Σ over pairs of D(kinds) (1 − r/r_max)⁴ + tail, half to each atom; the tail jumps at the cutoff."""
    i, j, vector = pairs(structure)
    r = np.linalg.norm(vector, axis=1)
    depth = DEPTH[structure.types[i], structure.types[j]]
    energy = 0.5 * depth * (1 - r / R_MAX) ** 4 + tail
    gradient = (-2.0 * depth / R_MAX * (1 - r / R_MAX) ** 3 / r)[:, None] * vector
    natoms = structure.natoms
    out = Results(0.0, np.zeros((natoms, 3)), np.zeros((3, 3)), np.zeros(natoms), np.zeros((natoms, 3, 3)))
    terms = -gradient[:, :, None] * vector[:, None, :]
    np.add.at(out.atom_energy, i, energy)
    np.add.at(out.force, i, gradient)
    np.add.at(out.force, j, -gradient)
    np.add.at(out.atom_virial, j, terms)
    return out._replace(energy=float(out.atom_energy.sum()), virial=terms.sum(axis=0))


def handedness(structure):
    i, _, vector = pairs(structure)
    r = np.linalg.norm(vector, axis=1, keepdims=True)
    sums = [np.zeros((structure.natoms, 3)) for _ in range(3)]
    for power, total in enumerate(sums):
        np.add.at(total, i, vector * (1 - r / R_MAX) ** (power + 2))
    return float(np.sum(np.cross(sums[0], sums[1]) * sums[2]))


def spoilt(**changes):
    """`smooth` with some results replaced by functions of (structure, results)."""

    def evaluate(structure):
        found = smooth(structure)
        return found._replace(**{key: change(structure, found) for key, change in changes.items()})

    return evaluate


SPOILT = {
    "forces": spoilt(force=lambda s, f: 1.00001 * f.force),
    "virial": spoilt(virial=lambda s, f: 1.00001 * f.virial),
    "sums": spoilt(atom_virial=lambda s, f: f.atom_virial + 1e-6),
    "translation": spoilt(energy=lambda s, f: f.energy + 1e-6 * s.coord[:, 0].sum()),
    "rotation": spoilt(energy=lambda s, f: f.energy + 1e-6 * np.abs(pairs(s)[2][:, 0]).sum()),
    "inversion": spoilt(energy=lambda s, f: f.energy + 1e-3 * handedness(s)),
    "permutation": spoilt(energy=lambda s, f: f.energy + 1e-5 * s.types[0]),
    "supercell": spoilt(energy=lambda s, f: f.energy + 1e-6 * s.natoms**2),
    "smoothness": lambda structure: smooth(structure, tail=1e-5),
}


def outcome(evaluate, structure, precision="float64", **options):
    checks = list(PhysicsChecks(evaluate, structure, R_MAX, precision, **options).all())
    assert tuple(check.name for check in checks) == NAMES
    return {check.name: check.passed for check in checks}


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("periodic", [True, False])
def test_a_sound_potential_passes(precision, periodic):
    structure = invented_structure(["O", "H"], 3)
    if not periodic:
        structure = replace(structure, cell=None, periodic=False)
    assert all(outcome(smooth, structure, precision).values())


@pytest.mark.parametrize("name", NAMES)
def test_each_check_can_fail(name):
    # Types that differ at the beginning and the end, for the permutation.
    structure = invented_structure(["O", "H"], 3, seed=3)
    assert outcome(SPOILT[name], structure)[name] is False
    assert set(SPOILT) == set(NAMES)


def test_nan_does_not_pass():
    broken = spoilt(energy=lambda s, f: float("nan"))
    assert outcome(broken, invented_structure(["O", "H"], 2))["translation"] is False


def test_handed_models_are_not_asked_for_mirror_images():
    assert outcome(smooth, invented_structure(["O", "H"], 2), mirrored=False)["inversion"] is None


def test_ranks():
    structure = displaced(invented_structure(["O", "H"], 2), 0.05)
    found = smooth(structure)
    same = (found.energy, found.force)
    assert compare_ranks(same, same, found, "float64", 2).passed
    shifted = (found.energy, found.force + 1e-6)
    assert not compare_ranks(same, shifted, found, "float64", 2).passed
    assert not compare_ranks(shifted, shifted, found, "float64", 2).passed


def test_invented_atoms_keep_their_distance():
    structure = invented_structure(["O", "H"], 4)
    assert structure.natoms == 64
    assert sorted(set(structure.types)) == [0, 1]
    i, _, vector = pairs(structure)
    assert np.linalg.norm(vector, axis=1).min() > 0.9


def test_lammps_orientation_keeps_all_distances():
    rng = np.random.default_rng(0)
    cell = np.array([[0.2, 5.0, 0.3], [4.0, 0.5, -1.0], [1.0, 0.0, 6.0]])
    structure = Structure(rng.random((6, 3)) @ cell + 7.0, np.zeros(6, int), cell, ["O"], "six")
    turned = structure.in_lammps_orientation()
    assert np.allclose(np.triu(turned.cell, 1), 0)
    distances = [np.sort(np.linalg.norm(pairs(one)[2], axis=1)) for one in (structure, turned)]
    np.testing.assert_allclose(distances[0], distances[1], rtol=1e-12)
