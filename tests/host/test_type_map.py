"""Dropping, adding and reordering elements keeps the numbers of those that stay."""

import numpy as np
import pytest
from architectures import architectures
from helpers import assert_close, our_results, random_frame, tiny_model
from tolerances import NATIVE

OPTIONS = architectures("type map")
ENERGIES = {"O": -5.0, "H": -1.25, "Cu": -9.0}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("target", [["H", "O"], ["Cu", "H", "O", "C"], ["H"], ["C", "O"]])
def test_kept_elements_keep_their_numbers(option, target):
    source = ["O", "H", "Cu"]
    model = tiny_model(type_map=source, atomic_energies=ENERGIES, **OPTIONS[option])
    coord, _, cell = random_frame()
    both = [name for name in target if name in source]
    names = np.array(both)[np.random.default_rng(0).integers(0, len(both), len(coord))]
    before = our_results(model, coord, [source.index(n) for n in names], cell, do_atomic_virial=True)
    model.change_type_map(target)
    assert model.get_type_map() == target
    after = our_results(model, coord, [target.index(n) for n in names], cell, do_atomic_virial=True)
    for key, value in before.items():
        assert_close(after[key], value, NATIVE["float64"], key)
    assert model.out_bias.shape == (1, len(target), 1)


def test_new_elements_take_their_energy_from_the_new_model():
    model = tiny_model()
    other = tiny_model(type_map=["H", "C"], atomic_energies={"H": -2.0, "C": -30.0})
    model.change_type_map(["H", "C"], other)
    assert model.out_bias.flatten().tolist() == [-1.25, -30.0]
