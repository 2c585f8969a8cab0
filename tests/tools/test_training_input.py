"""Inputs that `deepmd-gnn init` makes: complete, accepted by DeePMD-kit, and each choice with a reason."""

import json

import numpy as np
import pytest
import yaml
from deepmd.common import j_loader
from deepmd.utils.argcheck import normalize
from training_data import composition_frames, write_system

from deepmd_gnn.config.embeddings import features
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.datasets.frames import DataError
from deepmd_gnn.datasets.summary import Part, summarise_folder
from deepmd_gnn.tools.step_time import seconds_per_step
from deepmd_gnn.tools.training_input import SIZES, cutoff, recipe, set_steps


@pytest.fixture
def data(tmp_path):
    write_system(tmp_path / "data/train/a", composition_frames(5, 6, 1))
    write_system(tmp_path / "data/train/b", composition_frames(8, 4, 400))
    write_system(tmp_path / "data/valid", composition_frames(5, 2, 3))
    return summarise_folder(tmp_path / "data")


@pytest.mark.parametrize("suffix", [".json", ".yaml"])
@pytest.mark.parametrize("size", SIZES)
def test_deepmd_accepts_it(size, suffix, data, tmp_path):
    choices = recipe(data, size)
    path = tmp_path / f"input{suffix}"
    path.write_text(choices.as_json() if suffix == ".json" else choices.as_yaml())
    settings = normalize(j_loader(str(path)))
    assert settings["model"]["r_max"] == choices.values["model"]["r_max"]
    assert settings["training"]["training_data"]["auto_prob"] == "prob_sys_size"
    assert not [key for section in settings.values() for key in section if key.startswith("_")]


def test_every_choice_has_a_reason(data):
    choices = recipe(data)
    text = choices.as_yaml()
    assert yaml.safe_load(text) == choices.values
    sections = json.loads(choices.as_json())
    # Keys that belong to the choice before them have none of their own.
    without = {"type", "decay_type", "decay_phase_ratio", "start_lr", "stop_lr", "limit_pref_e", "start_pref_f", "limit_pref_f",
               "limit_pref_v", "disp_freq", "save_freq"}  # fmt: skip
    for section in sections.values():
        for key in section:
            assert key.startswith("_") or f"_{key}" in section or key in without, key
    assert sections["loss"]["start_pref_v"] == 3
    assert "10 of 10 training frames have virials" in sections["loss"]["_start_pref_v"]
    assert "energies open" not in sections["model"]["_atomic_energies"]


def test_isolated_atoms_are_kept(data, tmp_path):
    (tmp_path / "data/e0.json").write_text('{"O": -5.0}')
    choices = recipe(summarise_folder(tmp_path / "data"))
    assert choices.values["model"]["atomic_energies"] == str(tmp_path / "data/e0.json")
    assert choices.values["training"]["change_bias_after_training"] is False


def test_charges_and_spins(tmp_path):
    """As classes that the data have, under the names that were given to `deepmd-gnn data`; others as numbers."""
    data = tmp_path / "data"
    write_system(data / "train/a", composition_frames(5, 3, 1))
    write_system(data / "train/b", composition_frames(8, 2, 400))
    np.save(data / "train/a/set.000/fparam.npy", [[-2.0, 1.0, 0.25], [0.0, 1.0, 0.5], [0.0, 2.0, 0.5]])
    np.save(data / "train/b/set.000/fparam.npy", [[1.0, 1.0, 0.5], [0.0, 3.0, 0.75]])
    (data / "fparam.json").write_text('["total_charge", "total_spin", "pressure"]')
    choices = recipe(summarise_folder(data))
    embeddings = choices.values["model"]["embeddings"]
    assert embeddings == {
        "total_charge": {"type": "categorical", "num_classes": 4, "offset": 2, "emb_dim": 16},
        "total_spin": {"type": "categorical", "num_classes": 4, "offset": 0, "emb_dim": 16},
        "pressure": {"type": "continuous", "emb_dim": 16},
    }
    assert (
        "total_charge -2 to 1, total_spin 1 to 3, pressure 0.25 to 0.75"
        in choices.reasons["model"]["embeddings"]
    )
    assert [one.default for one in features(embeddings)] == [0.0, 1.0, None]
    normalize(json.loads(choices.as_json()))
    (data / "fparam.json").unlink()
    names = ["fparam_0", "fparam_1", "fparam_2"]
    assert list(recipe(summarise_folder(data)).values["model"]["embeddings"]) == names
    (data / "fparam.json").write_text('["total_charge"]')
    with pytest.raises(DataError, match=r"fparam\.json: must be a list of the 3 columns"):
        summarise_folder(data)
    np.save(data / "train/b/set.000/fparam.npy", [[1.0], [0.0]])
    with pytest.raises(DataError, match="has 1 columns, and other folders 3"):
        summarise_folder(data)


def test_labels_that_are_not_there(tmp_path):
    folder = tmp_path / "data/train"
    write_system(folder, composition_frames(5, 3, 1), periodic=False)
    (folder / "set.000/energy.npy").unlink()
    choices = recipe(summarise_folder(tmp_path / "data"))
    assert choices.values["loss"]["start_pref_e"] == choices.values["loss"]["start_pref_v"] == 0
    assert "do not run NPT" in choices.reasons["loss"]["start_pref_v"]
    assert choices.values["model"]["precision"] == "float64"
    assert "energies open" in choices.reasons["model"]["atomic_energies"]
    assert "validation_data" not in choices.values["training"]
    normalize(choices.values)


@pytest.mark.parametrize(
    ("volume", "expected"), [(10.0, 5.0), (16.0, 5.0), (30.0, 6.0), (5.0, 4.5), (0.0, 5.0)]
)
def test_cutoff_goes_by_density(volume, expected):
    assert cutoff(Part([], periodic=int(volume > 0), volume_per_atom=volume))[0] == expected


def test_values_of_ones_own(data):
    choices = recipe(data)
    choices.override("training.training_data.batch_size", 3)
    choices.override("model.r_max", 4.0)
    assert choices.values["training"]["training_data"]["batch_size"] == 3
    assert choices.reasons["model"]["r_max"].endswith("given by --set")
    with pytest.raises(ValueError, match="must be SECTION.KEY"):
        choices.override("r_max", 4.0)
    set_steps(choices, 7, "why")
    assert choices.values["training"]["save_freq"] == 7


def test_time_of_a_step(data):
    choices = recipe(data, "small")
    choices.override("model.num_channels", 2)
    assert MaceConfig(num_channels=2).channels == 2
    assert 1e-4 < seconds_per_step(choices.values, data) < 30


def test_time_of_a_step_is_that_of_a_batch(data, monkeypatch):
    """Frames of one size are one call: calls of small molecules cost more than their atoms."""
    from deepmd.pt.model.model import get_model

    shapes = []

    def counted(section):
        model = get_model(section)
        model.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
        return model

    monkeypatch.setattr("deepmd.pt.model.model.get_model", counted)
    choices = recipe(data, "small")
    choices.override("model.num_channels", 2)
    choices.override("training.training_data.batch_size", 2)
    seconds_per_step(choices.values, data)
    assert {shape[0] for shape in shapes} == {2}
