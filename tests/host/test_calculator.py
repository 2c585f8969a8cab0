"""DeePMD-kit's ASE calculator with charge and spin in ``atoms.info``."""

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from ase import Atoms
from helpers import our_results, random_frame, tiny_model

from deepmd_gnn.host import calculator, patches


@pytest.fixture(scope="module")
def charged(tmp_path_factory):
    """A model and its TorchScript file."""
    model = tiny_model(**ARCHITECTURES["charged"].options)
    path = tmp_path_factory.mktemp("charged") / "model.pth"
    torch.jit.script(model).save(str(path))
    return model, path


def test_values_of_atoms(charged):
    from deepmd.calculator import DP

    model, path = charged
    coord, types, cell = random_frame()
    atoms = Atoms(
        [model.type_map[t] for t in types], positions=coord, cell=cell, pbc=True, calculator=DP(path)
    )
    states = [
        ({}, [0.0, 1.0, 0.3]),
        ({"charge": -2}, [-2.0, 1.0, 0.3]),
        ({"charge": -2, "spin": 3, "temperature": 0.9}, [-2.0, 3.0, 0.9]),
        ({"fparam": [1.0, 2.0, 0.5]}, [1.0, 2.0, 0.5]),
        ({}, [0.0, 1.0, 0.3]),
    ]  # fmt: skip
    for info, values in states:  # results of another state are not kept
        atoms.info = dict(info)
        expected = our_results(model, coord, types, cell, fparam=torch.tensor([values], dtype=torch.float64))
        assert abs(atoms.get_potential_energy() - expected["energy"].item()) < 1e-10, info
        assert np.abs(atoms.get_forces() - expected["force"]).max() < 1e-10
        assert atoms.info == info
    atoms.info = {"charge": 7}
    with pytest.raises(ValueError, match="total_charge in atoms.info is 7, but must be a whole number"):
        atoms.get_potential_energy()


def test_results_are_kept_where_nothing_changed(charged, monkeypatch):
    from deepmd.calculator import DP

    model, path = charged
    coord, types, cell = random_frame()
    atoms = Atoms(
        [model.type_map[t] for t in types], positions=coord, cell=cell, pbc=True, calculator=DP(path)
    )
    atoms.info["charge"] = 1
    energy = atoms.get_potential_energy()
    monkeypatch.setattr(atoms.calc.dp, "eval", None)
    assert atoms.get_potential_energy() == energy
    atoms.info["note"] = "something else"
    assert atoms.get_potential_energy() == energy


def test_replacements_are_in_the_table():
    replaced = {patch.name: patch.replace for patch in patches.PATCHES}
    assert replaced["DP.calculate"] is calculator.reading_info
    assert replaced["DP.check_state"] is calculator.noticing_info
