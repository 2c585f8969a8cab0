"""A training that is continued is the uninterrupted one, bit for bit, where the order of frames is the same."""

import numpy as np
import pytest
import torch
from deepmd_run import base_input, run_dp
from training_data import composition_frames, write_system

from deepmd_gnn.host.checkpoint_files import check_whole

STEPS = 6
# Of the uninterrupted run and the continued one: the host's two trainers, and from one to the other.
BACKENDS = [("--pt", "--pt"), ("--pt-expt", "--pt-expt")]


def one_frame_input(folder):
    """Settings for a training on one frame: the data loaders of both runs have the same order."""
    system = write_system(folder / "data", composition_frames(4, 1, 0, box_length=4.5))
    config = base_input([system], None, steps=STEPS, batch_size=1)
    config["model"]["type_map"] = ["O", "H", "C"]
    config["training"].update(disp_freq=1, save_freq=STEPS // 2, enable_ema=True, ema_decay=0.9)
    return config


def trained(folder, backend, config, *arguments):
    folder.mkdir()
    run_dp(folder, "train", config, "--skip-neighbor-stat", *arguments, backend=backend)
    return torch.load(folder / "model.ckpt.pt", weights_only=True)


def curve(folder):
    return np.atleast_2d(np.loadtxt(folder / "lcurve.out"))


def differences(first, second, path=""):
    """Names under which two trees of dicts, lists and tensors differ."""
    if isinstance(first, dict) and isinstance(second, dict):
        return [
            name
            for key in sorted({*first, *second}, key=str)
            for name in differences(first.get(key), second.get(key), f"{path}/{key}")
        ]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            name
            for k, pair in enumerate(zip(first, second, strict=True))
            for name in differences(*pair, f"{path}/{k}")
        ]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [path]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), BACKENDS)
def test_restart_is_the_uninterrupted_training(first, then, tmp_path):
    config = one_frame_input(tmp_path)
    whole = trained(tmp_path / "whole", first, config)
    middle = tmp_path / "whole" / f"model.ckpt-{STEPS // 2}.pt"
    assert torch.load(middle, weights_only=True)["model"]["_extra_state"]["train_infos"]["step"] == STEPS // 2
    continued = trained(tmp_path / "continued", then, config, "--restart", str(middle))
    assert not differences(whole, continued)
    assert np.array_equal(curve(tmp_path / "continued"), curve(tmp_path / "whole")[STEPS // 2 :])
    extra = continued["model"]["_extra_state"]
    assert extra["train_infos"]["step"] == STEPS
    assert extra["model_params"]["info"]["observed_type"] == ["O", "H"]


@pytest.mark.slow
def test_a_checkpoint_that_is_cut_short_is_named(tmp_path):
    config = one_frame_input(tmp_path)
    trained(tmp_path / "whole", "--pt", config)
    cut = tmp_path / "whole" / f"model.ckpt-{STEPS}.pt"
    cut.write_bytes(cut.read_bytes()[:1000])
    for given in (cut, tmp_path / "whole" / "model.ckpt.pt"):
        words = rf"{given} is cut short \(1000 bytes\).*Continue from .*model\.ckpt-{STEPS // 2}\.pt"
        with pytest.raises(ValueError, match=words):
            run_dp(tmp_path, "train", config, "--restart", str(given))
    (tmp_path / "whole" / f"model.ckpt-{STEPS // 2}.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="There is no whole one"):
        check_whole(cut)


@pytest.mark.parametrize("backend", ["--pt", "--pt-expt"])
def test_a_training_that_ends_while_it_saves_leaves_whole_checkpoints(backend, tmp_path, monkeypatch):
    """Killed halfway through a file, at the second checkpoint; the first stays the one to continue from."""
    config = one_frame_input(tmp_path)
    saved, save = [], torch.save

    def interrupted(data, path, **options):
        saved.append(path)
        if len(saved) == 2:
            path.write_bytes(b"PK")
            raise KeyboardInterrupt
        save(data, path, **options)

    monkeypatch.setattr(torch, "save", interrupted)
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_dp(tmp_path / "run", "train", config, "--skip-neighbor-stat", backend=backend)
    assert len(saved) == 2
    for path in (tmp_path / "run").glob("*.pt"):
        torch.load(path, weights_only=True)
    state = torch.load(tmp_path / "run" / "model.ckpt.pt", weights_only=True)
    assert state["model"]["_extra_state"]["train_infos"]["step"] == STEPS // 2


def test_other_models_are_written_as_before(tmp_path):
    """The host's own model, in a process that has trained a MACE model."""
    system = write_system(tmp_path / "data", composition_frames(4, 1, 0, box_length=4.5))
    config = base_input([system], None, steps=2, batch_size=1)
    trained(tmp_path / "mace", "--pt", config)
    descriptor = {
        "type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [20, 20], "neuron": [2, 4], "axis_neuron": 2
    }  # fmt: skip
    config["model"] = {"type_map": ["O", "H"], "descriptor": descriptor, "fitting_net": {"neuron": [4]}}
    state = trained(tmp_path / "own", "--pt", config)
    assert state["model"]["_extra_state"]["train_infos"]["step"] == 1  # the index of the last step
