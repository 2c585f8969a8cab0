"""Ten thousand atoms in Python: linear neighbour search, exact."""

import numpy as np
import pytest
from helpers import assert_close, our_results, tiny_model
from tolerances import NATIVE

from deepmd_gnn.graph.neighbor_search import NeighborPairs


@pytest.mark.slow
def test_ten_thousand_atoms(monkeypatch):
    """A supercell of 8 × 1250 atoms has 8 times the energy; the search never looks at all pairs."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(10), np.arange(10), np.arange(12.5)], indexing="ij"), axis=-1)
    spacing = 2.15  # 0.1 atoms/Å³, the density of water
    coord = grid.reshape(-1, 3)[:1250] * spacing + rng.normal(0, 0.1, (1250, 3))
    cell = np.diag([10, 10, 12.5]) * spacing
    cell[2, 2] = 13 * spacing
    atype = rng.integers(0, 2, 1250)
    model = tiny_model(r_max=3.5, max_ell=1, max_L=0)
    small = our_results(model, coord, atype, cell)

    candidates = []
    inner = NeighborPairs.close_pairs

    def counted(self, *args):
        pairs = inner(self, *args)
        candidates.append((args[1].shape[0], pairs[0].shape[0]))
        return pairs

    monkeypatch.setattr(NeighborPairs, "close_pairs", counted)
    shifts = np.array([[i, j, k] for i in range(2) for j in range(2) for k in range(2)]) @ cell
    large = our_results(model, np.vstack([coord + s for s in shifts]), np.tile(atype, 8), 2 * cell)
    assert_close(large["energy"], 8 * small["energy"], NATIVE["float64"])
    assert_close(large["force"][:1250], small["force"], NATIVE["float64"])
    assert_close(large["virial"], 8 * small["virial"], NATIVE["float64"])
    images, edges = candidates[0]
    assert images < 2 * 10000  # one layer of images around the cell
    assert edges > 10 * 10000
