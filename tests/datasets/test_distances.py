"""Atoms that are too close, against ASE's distances with images."""

import numpy as np
from ase.geometry import get_distances

from deepmd_gnn.datasets.distances import CLOSEST, shortest_distance, shortest_distances
from deepmd_gnn.datasets.frames import Frame


def random_frames():
    """Small and thin cells, skewed ones, of both hands, and none."""
    rng = np.random.default_rng(3)
    for k in range(150):
        cell = np.diag(rng.uniform(0.8, 9, 3)) + rng.normal(0, 0.6, (3, 3)) * (k % 2)
        if abs(np.linalg.det(cell)) > 0.3:
            natoms = rng.integers(2, 40)
            numbers, periodic = np.ones(natoms, dtype=int), bool(k % 3)
            yield Frame("", k, numbers, rng.normal(size=(natoms, 3)) @ cell, cell, (periodic,) * 3)


def test_against_ase():
    frames = list(random_frames())
    together, close = shortest_distances(frames), 0
    for frame, found in zip(frames, together, strict=True):
        table = get_distances(frame.positions, cell=frame.cell, pbc=frame.pbc)[1]
        least = table[~np.eye(frame.natoms, dtype=bool)].min()
        assert (found is None) == (least >= CLOSEST)
        assert shortest_distance(frame) == found
        if found is not None:
            assert abs(found - least) < 1e-9
            close += 1
    assert 20 < close < len(frames) - 20
