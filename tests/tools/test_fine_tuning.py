"""Frames for the replay, and E0 from differences."""

import numpy as np

from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.tools import fine_tuning
from deepmd_gnn.tools.fine_tuning import estimated_energies, perturbed


def frame(natoms, pbc, seed):
    rng = np.random.default_rng(seed)
    return Frame(
        "x",
        seed,
        np.array([8, 1] * (natoms // 2)),
        rng.uniform(0, 6, (natoms, 3)),
        np.eye(3) * 6.0 * pbc,
        (pbc,) * 3,
    )


def test_perturbed():
    """As many as asked for, of all in turns; atoms move by what was said, cells by about a per cent; the same for a seed."""
    frames = [frame(40, True, 1), frame(40, False, 2)]
    made = perturbed(iter(frames), 6, 0.2, 3)
    assert [one.index for one in made] == [1, 2] * 3
    again = perturbed(iter(frames), 6, 0.2, 3)
    for one, other in zip(made, again, strict=True):
        assert np.array_equal(one.positions, other.positions)
    free = np.concatenate([(one.positions - frames[1].positions).ravel() for one in made[1::2]])
    assert abs(free.std() - 0.2) < 0.03
    for one in made[::2]:
        change = one.cell / 6.0 - np.eye(3)
        assert 0 < np.abs(change).max() < 0.05
        # Without the strain, displacements are left.
        left = one.positions @ np.linalg.inv(one.cell / 6.0) - frames[0].positions
        assert abs(left.std() - 0.2) < 0.05
    assert not made[1].cell.any()


def test_elements_that_compositions_do_not_tell_apart(monkeypatch):
    """Of one composition, the shift is spread as evenly as possible; frames without energy do not count."""

    class Potential:
        def get_type_map(self):
            return ["O", "H"]

        def eval(self, coord, cell, kinds, atomic=False, **others):
            frames = len(coord)
            return np.full((frames, 1), -10.0), np.zeros((frames, len(kinds), 3)), np.zeros((frames, 9))

    frames = [frame(4, False, seed) for seed in range(3)]
    for one in frames[:2]:
        one.info["REF_energy"] = -16.0
    part = type("Part", (), {"type_map": ["O", "H"], "frames": 3})()
    monkeypatch.setattr(fine_tuning, "training_frames", lambda part: iter(frames))
    monkeypatch.setattr("deepmd_gnn.tools.batch_evaluation.quantities_of_potential", lambda model: [])
    energies, rest = estimated_energies({"O": -2.0, "H": -1.0}, Potential(), part)
    np.testing.assert_allclose([energies["O"], energies["H"]], [-3.5, -2.5], atol=1e-12)
    assert rest < 1e-12
