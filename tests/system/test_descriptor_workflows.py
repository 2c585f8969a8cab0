"""MACE as a descriptor, as a user trains, freezes, tests and runs it: the inputs of its page, shortened."""

import json

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd.infer.deep_dipole import DeepDipole
from deepmd.infer.deep_dos import DeepDOS
from deepmd.infer.deep_polar import DeepPolar
from deepmd.infer.deep_property import DeepProperty
from deepmd_run import run_dp
from descriptors import model, write_labels
from documented import ROOT, PageRun
from helpers import random_frame
from lammps_cases import NVE, REBUILDS, SYSTEMS, TEMPLATE
from lammps_runner import assert_same, python_frame, read_frames, run_lammps, write_data
from tolerances import RANKS

pytestmark = pytest.mark.slow
SMALL = {
    r'"numb_steps": \d+': '"numb_steps": 2',
    r'"num_channels": \d+': '"num_channels": 2, "max_ell": 1, "correlation": 1',
    r'"r_max": \d\.0': '"r_max": 3.0',
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder in which all that the page shows has been run."""
    folder = tmp_path_factory.mktemp("descriptor")
    write_labels(folder / "data")
    assert len(PageRun(ROOT / "docs/descriptor.md", folder, SMALL)()) == 18
    return folder


def frame(seed=3):
    coord, atype, cell = random_frame(natoms=8, seed=seed, spacing=1.3, box_length=5.0)
    return coord.reshape(1, -1), cell.reshape(1, 9), atype


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("energy", DeepPot),
        ("dipole", DeepDipole),
        ("polar", DeepPolar),
        ("property", DeepProperty),
        ("dos", DeepDOS),
    ],
)
def test_frozen_files_are_their_checkpoints(page, name, reader):
    results = [reader(str(page / f"{name}.{kind}")).eval(*frame()) for kind in ("pt", "pth")]
    for first, second in zip(*(r if isinstance(r, tuple) else (r,) for r in results), strict=True):
        np.testing.assert_allclose(first, second, rtol=0, atol=1e-12)
        assert np.isfinite(first).all()


def test_a_roomier_file_is_the_same_model(page):
    first, second = (DeepPot(str(page / name)).eval(*frame()) for name in ("energy.pt", "roomy.pt"))
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert DeepPot(str(page / "roomy.pt")).deep_eval.dp.model["Default"].get_sel() == [401]


def weights(path, mark):
    state = torch.load(path, weights_only=True)["model"]
    return {key: value for key, value in state.items() if mark in key and value.is_floating_point()}


def test_tasks_share_the_network(page):
    """The same numbers under both names, which each task alone has moved."""
    energy, gap = (
        weights(page / "both.pt", f".{task}.atomic_model.descriptor.") for task in ("energy", "gap")
    )
    assert len(energy) > 20
    for name, value in energy.items():
        assert torch.equal(value, gap[name.replace(".energy.", ".gap.")])
    assert any("fitting_net" in name for name in weights(page / "both.pt", ".gap."))


@pytest.mark.parametrize("task", ["energy", "gap"])
def test_each_loss_changes_the_network(page, tmp_path, task):
    settings = json.loads((page / "both.json").read_text())
    for one in settings["training"]["data_dict"].values():
        one["training_data"]["systems"] = [str(page / "data")]
    settings["training"].update(model_prob={"energy": 0.0, "gap": 0.0, task: 1.0}, numb_steps=1, seed=1)
    run_dp(tmp_path, "train", settings, "--init-model", str(page / "both.pt"))
    before, after = (
        weights(path / "both.pt", ".gap.atomic_model.descriptor.network.interactions")
        for path in (page, tmp_path)
    )
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_fine_tuning(page, tmp_path):
    """Other elements with the same weights, and another quantity on the same network."""
    settings = json.loads((page / "energy.json").read_text())
    settings["training"]["training_data"]["systems"] = [str(page / "data")]
    settings["model"]["type_map"] = ["H", "C", "O"]
    settings["learning_rate"].update(start_lr=1e-12, stop_lr=1e-14)
    settings["training"]["numb_steps"] = 1
    run_dp(tmp_path, "train", settings, "--finetune", str(page / "energy.pt"))
    coord, cell, atype = frame()
    before = DeepPot(str(page / "energy.pt")).eval(coord, cell, atype)
    after = DeepPot(str(tmp_path / "energy.pt")).eval(coord, cell, [2 if kind == 0 else 0 for kind in atype])
    np.testing.assert_allclose(after[1], before[1], rtol=0, atol=1e-8)
    settings = json.loads((page / "property.json").read_text())
    settings["training"]["training_data"]["systems"] = [str(page / "data")]
    run_dp(tmp_path, "train", settings, "--finetune", str(page / "energy.pt"), "--model-branch", "RANDOM")
    assert (tmp_path / "property.pt").exists()


def test_features_of_files(page):
    found = [DeepPot(str(page / f"energy.{kind}")).eval_descriptor(*frame()) for kind in ("pt", "pth")]
    assert found[0].shape == (1, 8, 4)
    np.testing.assert_array_equal(*found)


@pytest.mark.lammps
@pytest.mark.parametrize(
    ("layers", "runs"),
    [
        (1, [("half_empty", 2, "2 1 1", "")]),
        (2, [("tilted", 1, "* * *", "atom_modify map yes"), ("half_empty", 2, "2 1 1", "")]),
    ],
)
def test_lammps(tmp_path, layers, runs):
    """One rank and several give what Python gives, while lists are fresh and cached."""
    torch.jit.script(model(num_interactions=layers)).save(str(tmp_path / "mace.pth"))
    for system, ranks, grid, setup in runs:
        folder = tmp_path / system
        folder.mkdir()
        write_data(folder / "data.lmp", *SYSTEMS[system](), ntypes=2)
        script = TEMPLATE.format(
            boundary="p p p",
            setup=setup,
            grid=grid,
            pair_style=f"deepmd {tmp_path}/mace.pth",
            pair_coeff="* * O H",
            rebuilds=REBUILDS,
            every=2,
            atomic="c_e c_s[*]",
            dynamics=NVE,
        )
        frames = read_frames(run_lammps(folder, script, ranks).check())
        assert max(np.abs(one.force).max() for one in frames) > 0.01
        python = [python_frame(tmp_path / "mace.pth", one) for one in frames]
        assert_same(frames, python, RANKS["float64"], system)
