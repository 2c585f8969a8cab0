"""Given E0 hold against stat files and are not kept in them; what the log says of E0 and of the seed."""

import logging

import pytest
import torch
from deepmd.utils.path import DPPath
from helpers import tiny_model
from training_data import sampled_frames

GIVEN = {"O": -7.0, "H": -1.0}


def energies(given, stat_file):
    model = tiny_model(atomic_energies=given)
    model.compute_or_load_stat(lambda: [sampled_frames()], stat_file)
    return model.out_bias.flatten().tolist()


def stat_file(folder):
    (folder / "stat").mkdir(exist_ok=True)
    return DPPath(str(folder / "stat"), "a")


@pytest.mark.parametrize("given", [GIVEN, {"H": -1.0}])
def test_stat_file_does_not_replace_what_is_given(given, tmp_path):
    fitted = energies("auto", stat_file(tmp_path))
    found = dict(zip(["O", "H"], energies(given, stat_file(tmp_path)), strict=True))
    assert found == pytest.approx({**found, **given}, abs=1e-12)
    assert found["H"] != pytest.approx(fitted[1], abs=1e-3)


def test_stat_file_does_not_keep_what_is_given(tmp_path):
    assert energies(GIVEN, stat_file(tmp_path)) == [-7.0, -1.0]
    assert energies("auto", stat_file(tmp_path)) == pytest.approx(energies("auto", None), abs=1e-12)


def test_adjusting_given_energies_is_said(caplog):
    model = tiny_model(atomic_energies=GIVEN)
    model.change_out_bias([sampled_frames()], "set-by-statistic")
    assert model.out_bias.flatten().tolist() == [-7.0, -1.0]
    assert "were given and stay" in caplog.text
    model.change_out_bias([sampled_frames()])
    assert model.out_bias.flatten().tolist() != [-7.0, -1.0]
    assert "were given and are adjusted" in caplog.text


def test_one_composition_is_said_to_determine_no_energies(caplog):
    frames = sampled_frames()
    frames["atype"] = torch.tensor([[0, 0, 1, 1, 1, 1]] * 2)
    tiny_model(atomic_energies="auto").compute_or_load_stat(lambda: [frames], None)
    assert "of O, H cannot be told apart: the data has 1 composition(s)" in caplog.text
    caplog.clear()
    tiny_model(atomic_energies={"H": -1.0}).compute_or_load_stat(lambda: [frames], None)
    assert "cannot be told apart" not in caplog.text


@pytest.mark.parametrize(("seed", "said"), [(7, "7, of the model section"), (None, "that of training")])
def test_the_seed_of_new_weights_is_said(seed, said, caplog):
    """Members of a committee with a seed in the model section are equal, which nothing else shows."""
    caplog.set_level(logging.INFO)
    tiny_model(seed=seed).compute_or_load_stat(lambda: [sampled_frames()], None)
    assert f"MACE seed of new weights: {said}" in caplog.text
