"""Our models as native MACE models, with the same numbers."""

import numpy as np
import pytest
import torch
from architectures import architectures
from ase import Atoms
from helpers import our_results, random_frame, tiny_model
from native_models import default_dtype, native, native_evaluation
from tolerances import IMPORTED

from deepmd_gnn import convert, export_native, load_mace

OPTIONS = architectures("written")


def loaded(path):
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize("name", OPTIONS)
def test_native_gives_our_numbers(name, tmp_path):
    model = tiny_model(type_map=["O", "H", "C"], atomic_energies=[-5.0, -1.25, -9.5], **OPTIONS[name])
    export_native(model, tmp_path / "x.model")
    coord, types, cell = random_frame(natoms=9, box_length=5.0, ntypes=3, spacing=0.8)
    symbols = [model.type_map[t] for t in types]
    expected = our_results(model, coord, types, cell)
    for key, value in native_evaluation(loaded(tmp_path / "x.model"), coord, symbols, cell).items():
        assert np.abs(value - expected[key]).max() <= IMPORTED[key], key


def test_mace_calculator_runs_it(tmp_path, monkeypatch):
    from mace.calculators import MACECalculator

    model = tiny_model()
    export_native(model, tmp_path / "x.model")
    coord, types, cell = random_frame()
    atoms = Atoms([model.type_map[t] for t in types], positions=coord, cell=cell, pbc=True)
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: load(*a, **{**k, "weights_only": False}))
    with default_dtype():
        atoms.calc = MACECalculator(str(tmp_path / "x.model"), device="cpu", default_dtype="float64")
        energy, force, stress = (
            atoms.get_potential_energy(),
            atoms.get_forces(),
            atoms.get_stress(voigt=False),
        )
    expected = our_results(model, coord, types, cell)
    assert abs(energy - expected["energy"][0]) <= IMPORTED["energy"]
    assert np.abs(force - expected["force"]).max() <= IMPORTED["force"]
    virial = -stress.reshape(9) * atoms.get_volume()
    assert np.abs(virial - expected["virial"]).max() <= IMPORTED["virial"]


def test_there_and_back(tmp_path):
    """Native to checkpoint to native: the weights are the same bits, one head and fewer elements aside."""
    original = native(heads=["a", "b"], pair_repulsion=True)
    torch.save(original, tmp_path / "x.model")
    convert(tmp_path / "x.model", tmp_path / "x.pt", head="b")
    export_native(tmp_path / "x.pt", tmp_path / "back.model")
    back = loaded(tmp_path / "back.model")
    ours, theirs = dict(back.named_parameters()), dict(original.named_parameters())
    for name in ("node_embedding.linear.weight", "interactions.1.skip_tp.weight"):
        assert torch.equal(ours[name], theirs[name])
    coord, types, cell = random_frame(natoms=9, box_length=5.0, ntypes=3, spacing=0.8)
    symbols = [["H", "C", "O"][t] for t in types]
    expected = native_evaluation(original, coord, symbols, cell, head=1)
    for key, value in native_evaluation(back, coord, symbols, cell).items():
        assert np.abs(value - expected[key]).max() <= IMPORTED[key], key


def test_training_checkpoint_with_architecture(tmp_path):
    """A checkpoint holds weights only: with the architecture of one model it is another model."""
    first, second = native(seed=0), native(seed=1)
    second.atomic_energies_fn.atomic_energies.copy_(first.atomic_energies_fn.atomic_energies)
    second.scale_shift.load_state_dict(first.scale_shift.state_dict())
    torch.save(first, tmp_path / "x.model")
    torch.save({"model": second.state_dict(), "optimizer": {}}, tmp_path / "epoch-3.pt")
    with pytest.raises(ValueError, match="--architecture FILE"):
        load_mace(tmp_path / "epoch-3.pt")
    model = load_mace(tmp_path / "epoch-3.pt", architecture=tmp_path / "x.model")
    coord, types, cell = random_frame(natoms=9, box_length=5.0, ntypes=3, spacing=0.8)
    symbols = [["H", "C", "O"][t] for t in types]
    expected = native_evaluation(second, coord, symbols, cell)
    actual = our_results(model, coord, types, cell)
    for key, value in expected.items():
        assert np.abs(value - actual[key]).max() <= IMPORTED[key], key
    torch.save({"model": native(max_ell=1).state_dict()}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt"):
        load_mace(tmp_path / "other.pt", architecture=tmp_path / "x.model")
