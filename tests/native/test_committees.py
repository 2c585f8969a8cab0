"""Models of the same weights agree, whatever the order of their elements."""

import numpy as np
import pytest
from ase import Atoms
from deepmd.infer import DeepPot, model_devi
from helpers import TINY, tiny_model

from deepmd_gnn import committee
from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.tools.evaluation import load_evaluation
from deepmd_gnn.tools.structures import Structure, invented_structure

ORDERS = {"a": ["O", "H"], "b": ["H", "O"], "c": ["C", "H", "O"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("committee")
    for name, type_map in ORDERS.items():
        model = tiny_model()
        model.change_type_map(type_map)
        save_checkpoint(model, folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in ORDERS}


def water():
    rng = np.random.default_rng(0)
    atoms = Atoms(
        "OH2OH2", [[1, 1, 1], [2, 1, 1], [1, 2, 1], [4, 4, 4], [5, 4, 4], [4, 5, 4]], cell=[6] * 3, pbc=True
    )
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    return atoms


def test_deviation_of_the_same_weights_is_zero(files):
    atoms = water()
    models = committee([files[name] for name in ORDERS])
    assert all(model.get_type_map() == ["O", "H"] for model in models)
    types = [models[0].get_type_map().index(symbol) for symbol in atoms.get_chemical_symbols()]
    arguments = (atoms.positions[None], atoms.cell.array.reshape(1, 9), types)
    assert np.abs(model_devi.calc_model_devi(*arguments, models)[0, 1:]).max() < 1e-10
    # What it is for: one array of types for all would be other elements to some.
    plain = [DeepPot(str(files[name])) for name in ("a", "b")]
    with pytest.raises(
        ValueError, match=r"type maps of the models differ, \['O', 'H'\] and \['H', 'O'\].*committee"
    ):
        model_devi.calc_model_devi(*arguments, plain)


def test_whatever_takes_types_is_translated(files):
    coord = np.arange(9.0).reshape(1, 3, 3) * 0.4
    first, second = committee([files["a"], files["c"]])
    for name in ("eval_descriptor", "eval_fitting_last_layer"):
        one, other = (getattr(model, name)(coord, None, [0, 1, 1]) for model in (first, second))
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert second.get_ntypes() == 2
    for wrong, words in (
        (2, "atom type 2 is out of range"),
        (0.5, "0.5 is no whole number"),
        (-2, "type -2 is out"),
    ):
        with pytest.raises(ValueError, match=words):
            second.eval(coord, None, [0, wrong, 1])


def test_padded_frames_and_everything_else(files):
    coord = np.zeros((2, 7, 3)) + np.arange(7)[None, :, None] * 1.1
    types = np.array([[0, 1, 1, 0, 1, 1, 0], [1, 0, 1, 1, -1, -1, -1]])
    first, second = committee([files["a"], files["b"]])
    for one, other in zip(
        *(m.eval(coord, None, types, mixed_type=True) for m in (first, second)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)
    assert second.get_rcut() == TINY["r_max"]


def test_other_elements_are_refused(files):
    with pytest.raises(
        ValueError, match=r"a.pt has type_map \['O', 'H'\], but .*c.pt has \['C', 'H', 'O'\]: C missing"
    ):
        committee([files["c"], files["a"]])
    with pytest.raises(ValueError, match="no files"):
        committee([])


def test_commands_go_by_names(files):
    atoms = water()
    types = np.array([ORDERS["a"].index(symbol) for symbol in atoms.get_chemical_symbols()])
    structure = Structure(atoms.positions, types, atoms.cell.array, ORDERS["a"], "water")
    energies = [load_evaluation(file)(structure).energy for file in files.values()]
    assert energies == pytest.approx([energies[0]] * 3, abs=1e-9)
    made_up = [
        invented_structure(sorted(order), 2).with_type_map(order) for order in (["O", "H"], ["H", "O"])
    ]
    names = [[s.type_map[kind] for kind in s.types] for s in made_up]
    assert names[0] == names[1]
