"""TorchSim's interface: systems evaluated together have the numbers of each alone, and of TorchSim's own MACE."""

import warnings
from types import SimpleNamespace

import ase.io
import numpy as np
import pytest
import torch
from ase.build import bulk
from deepmd.calculator import DP
from documented import ROOT
from helpers import tiny_model
from lammps_cases import freeze

from deepmd_gnn import convert
from deepmd_gnn.tools import torchsim
from deepmd_gnn.tools.torchsim import TorchSimModel

NATIVE = ROOT / "tests/data/v0.3.6_mace02_com1_swa.model"


def state_of(systems):
    """What TorchSim makes of systems, as far as a model reads it; cells are columns there, and rows in this property."""
    return SimpleNamespace(
        positions=torch.as_tensor(np.concatenate([atoms.positions for atoms in systems])),
        row_vector_cell=torch.as_tensor(np.stack([atoms.cell.array for atoms in systems])),
        pbc=torch.as_tensor(systems[0].pbc),
        atomic_numbers=torch.as_tensor(np.concatenate([atoms.numbers for atoms in systems])),
        system_idx=torch.repeat_interleave(torch.tensor([len(atoms) for atoms in systems])),
    )


def crystals(periodic):
    """Four of different sizes, so that one is filled up to the size of another, and one is evaluated by itself."""
    systems = [
        bulk("OH", "cesiumchloride", a=2.4).repeat(n) for n in ((2, 2, 2), (2, 2, 1), (4, 3, 2), (2, 2, 2))
    ]
    for seed, atoms in enumerate(systems):
        atoms.rattle(0.1, seed=seed)
        atoms.pbc = periodic
    return systems


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("torchsim") / "mace.pth"
    freeze(tiny_model(r_max=3.0, num_channels=2, avg_num_neighbors=10.0), path)
    return path


@pytest.fixture
def model(model_file, monkeypatch):
    """The class needs nothing of TorchSim but its base class."""
    monkeypatch.setattr(torchsim, "MISSING", None)
    return TorchSimModel(model_file)


def test_charged_models_are_refused(tmp_path, monkeypatch):
    """The default of the charge would be taken for every system."""
    monkeypatch.setattr(torchsim, "MISSING", None)
    charge = {"total_charge": {"type": "categorical", "num_classes": 5, "offset": 2, "emb_dim": 3}}
    freeze(tiny_model(embeddings=charge), tmp_path / "charged.pth")
    with pytest.raises(ValueError, match="quantities of a frame"):
        TorchSimModel(tmp_path / "charged.pth")


@pytest.mark.parametrize("periodic", [True, False])
def test_batches_have_the_numbers_of_each_system(periodic, model, model_file):
    systems, calculator = crystals(periodic), DP(str(model_file))
    found, begin = model(state_of(systems)), 0
    assert found["forces"].dtype == torch.float64
    for k, atoms in enumerate(systems):
        atoms.calc, forces = calculator, found["forces"][begin : begin + len(atoms)]
        stress = atoms.get_stress(voigt=False) if periodic else np.zeros((3, 3))
        np.testing.assert_allclose(found["energy"][k], atoms.get_potential_energy(), rtol=1e-12)
        np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-12)
        np.testing.assert_allclose(found["stress"][k], stress, atol=1e-13)
        assert np.abs(atoms.get_forces()).max() > 1e-3
        begin += len(atoms)


def test_only_what_is_asked_for(model_file, monkeypatch):
    monkeypatch.setattr(torchsim, "MISSING", None)
    model = TorchSimModel(model_file, dtype=torch.float32, compute_forces=False, compute_stress=False)
    found = model(state_of(crystals(True)))
    assert list(found) == ["energy"]
    assert found["energy"].dtype == torch.float32


def test_what_it_refuses(model, model_file, monkeypatch):
    slab = bulk("OH", "cesiumchloride", a=2.4)
    slab.pbc = (True, True, False)
    with pytest.raises(ValueError, match="pbc is .*True, True, False.*gap"):
        model(state_of([slab]))
    with pytest.raises(ValueError, match="atomic numbers 12, but the model knows only O, H"):
        model(state_of([bulk("MgO", "cesiumchloride", a=2.4)]))
    monkeypatch.setattr(torchsim, "MISSING", ImportError("no module"))
    with pytest.raises(ImportError, match="no module.*pip install"):
        TorchSimModel(model_file)


def test_systems_of_similar_size_go_together():
    assert torchsim._of_similar_size(np.array([9, 4, 3, 6, 20, 7])) == [[2, 1, 3], [5, 0], [4]]


@pytest.mark.slow
@pytest.mark.parametrize("place", [slice(0, 8), slice(10, 11)], ids=["molecules", "periodic"])
def test_its_own_mace(place, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch_sim = pytest.importorskip("torch_sim", reason="TorchSim is not installed")
        from torch_sim.models.mace import MaceModel

        convert(NATIVE, tmp_path / "mace.pth", elements=["H", "C", "O"])
        ours = TorchSimModel(tmp_path / "mace.pth")
        native = torch.load(NATIVE, weights_only=False, map_location="cpu")
        theirs = MaceModel(native, device=torch.device("cpu"), dtype=torch.float64)
        systems = ase.io.read(ROOT / "tests/data/ref_structures.extxyz", place)
        state = torch_sim.initialize_state(systems, ours.device, ours.dtype)
        expected, found = theirs(state), ours(state)
    assert isinstance(ours, torch_sim.models.interface.ModelInterface)
    np.testing.assert_allclose(found["energy"], expected["energy"], rtol=1e-11)
    np.testing.assert_allclose(found["forces"], expected["forces"], atol=1e-11)
    if place.start == 10:
        np.testing.assert_allclose(found["stress"], expected["stress"], atol=1e-11)
