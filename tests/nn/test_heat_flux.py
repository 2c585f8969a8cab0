"""Per-atom energies and virials make the heat flux d/dt Σ r_i e_i: exactly for one layer, not for two."""

import numpy as np
import pytest
from helpers import our_results, random_frame, tiny_model
from tolerances import FINITE_DIFFERENCE, NOTICEABLE

STEP = 1e-4  # ps


def deviation(layers):
    """Relative difference between the flux from virials and the derivative of the energy's first moment."""
    model = tiny_model(num_interactions=layers, scale=60.0, avg_num_neighbors=4.0)
    coord, types, _ = random_frame(20, 6.0, seed=1)
    velocity = np.random.default_rng(2).normal(size=coord.shape)
    here = our_results(model, coord, types, None, do_atomic_virial=True)

    def moment(time):
        moved = coord + time * velocity
        return moved.T @ our_results(model, moved, types, None)["atom_energy"][:, 0]

    # Fourth order; the kinetic energy of an atom changes by the power of its force.
    slope = (8 * (moment(STEP) - moment(-STEP)) - (moment(2 * STEP) - moment(-2 * STEP))) / (12 * STEP)
    expected = slope + coord.T @ np.sum(here["force"] * velocity, axis=1)
    virial = here["atom_virial"].reshape(-1, 3, 3)  # the force component first
    flux = velocity.T @ here["atom_energy"][:, 0] + np.einsum("iab,ia->b", virial, velocity)
    return np.abs(flux - expected).max() / np.abs(expected).max()


def test_one_layer():
    assert deviation(1) < FINITE_DIFFERENCE


@pytest.mark.parametrize("layers", [2, 3])
def test_more_layers(layers):
    """Documented: the energy of an atom depends on atoms beyond the cutoff, which per-atom virials do not tell."""
    assert deviation(layers) > NOTICEABLE
