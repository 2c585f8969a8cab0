"""Training, fine-tuning and E0 with labels that are absent or bad, as a user runs them."""

import numpy as np
import pytest
import torch
from deepmd_run import base_input, run_dp
from helpers import tiny_model
from training_data import composition_frames, label, write_lmdb, write_system

from deepmd_gnn.native.conversion import save_checkpoint

pytestmark = pytest.mark.slow
LINE = "no energies to fit them to; they stay as they are"
ENERGIES = [-5.0, -1.25]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels")
    write_system(root / "forces", composition_frames(6, 2, 0, box_length=4.5))
    write_system(root / "whole", composition_frames(6, 2, 1, box_length=4.5))
    (root / "forces" / "set.000" / "energy.npy").unlink()
    save_checkpoint(tiny_model(seed=9), root / "start.pt")
    return root


def training(*systems, energies=False, **settings):
    config = base_input([str(system) for system in systems], None, steps=1, lr=1e-14)
    if not energies:
        config["loss"].update(start_pref_e=0, limit_pref_e=0)
    config["training"].update(settings)
    return config


def bias(path, branch="Default"):
    return torch.load(path, weights_only=True)["model"][f"model.{branch}.out_bias"].flatten().tolist()


@pytest.mark.parametrize("backend", ["--pt", "--pt-expt"])
@pytest.mark.parametrize("energies", [False, True], ids=["not asked for", "missing"])
def test_fine_tuning_on_forces(folder, tmp_path, energies, backend):
    config = training(folder / "forces", energies=energies, change_bias_after_training=backend == "--pt")
    run_dp(tmp_path, "train", config, "--finetune", str(folder / "start.pt"), backend=backend)
    assert bias(tmp_path / "model.ckpt.pt") == ENERGIES
    assert LINE in (tmp_path / "train.log").read_text()


def test_change_bias_on_forces(folder, tmp_path):
    for mode in ("change", "set"):
        run_dp(
            tmp_path,
            "change-bias",
            None,
            str(folder / "start.pt"),
            "-m",
            mode,
            "-s",
            str(folder / "forces"),
            "-o",
            "new.pt",
        )
        assert bias(tmp_path / "new.pt") == ENERGIES
        assert LINE in (tmp_path / "change-bias.log").read_text()


def two_tasks(config, data, **losses):
    """Rewrite an input for two branches of a network with data and losses of their own."""
    model, loss, training = config.pop("model"), config.pop("loss"), config["training"]
    types = model.pop("type_map")
    fitting = {"MLP_irreps": model.pop("MLP_irreps")}
    branch = {"type": "mace", "type_map": "types", "descriptor": "network", "fitting_net": fitting}
    config["model"] = {
        "shared_dict": {"types": types, "network": model},
        "model_dict": {"one": branch, "two": branch},
    }
    config["loss_dict"] = {"one": loss, "two": {**loss, **losses}}
    del training["training_data"]
    training["model_prob"] = {"one": 1, "two": 1}
    training["data_dict"] = {
        name: {
            f"{kind}_data": {"systems": [str(system)], "batch_size": 1} for kind, system in systems.items()
        }
        for name, systems in data.items()
    }
    return config


def test_one_branch_of_several(folder, tmp_path):
    data = {"one": {"training": folder / "forces"}, "two": {"training": folder / "whole"}}
    config = two_tasks(training(change_bias_after_training=True), data, start_pref_e=1, limit_pref_e=1)
    run_dp(tmp_path, "train", config)
    assert bias(tmp_path / "model.ckpt.pt", "one") == [0.0, 0.0]
    assert 0.0 not in bias(tmp_path / "model.ckpt.pt", "two")
    assert LINE in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("backend", ["--pt", "--pt-expt"])
def test_data_without_pairs_train(tmp_path, backend):
    coord, types, cell = composition_frames(3, 1, 0)[0]
    system = write_system(
        tmp_path / "gas", [(coord + 20.0 * np.arange(3)[:, None], types, cell)], periodic=False
    )
    (tmp_path / "gas" / "set.000" / "box.npy").unlink()
    config = training(system, energies=True)
    config["loss"].update(start_pref_v=0, limit_pref_v=0)
    run_dp(tmp_path, "train", config, backend=backend)
    state = torch.load(tmp_path / "model.ckpt.pt", weights_only=True)["model"]
    assert float(state["model.Default.descriptor.avg_num_neighbors"]) == 1.0
    assert state["_extra_state"]["model_params"]["sel"] == 1


def spoil(system, name, value=np.nan):
    """Make one number of frame 2 bad."""
    file = system / "set.000" / f"{name}.npy"
    values = np.load(file)
    values.reshape(len(values), -1)[2, 0] = value
    np.save(file, values)
    return f"{name} of frame 2 .*{file}"


@pytest.mark.parametrize("arguments", [(), ("--skip-neighbor-stat",), ("--finetune", "start.pt")], ids=str)
def test_bad_labels_are_named_before_the_first_step(folder, tmp_path, arguments):
    system = tmp_path / "bad"
    write_system(system, composition_frames(6, 3, 0, box_length=4.5))
    message = spoil(system, "force")
    arguments = [str(folder / a) if a.endswith(".pt") else a for a in arguments]
    if "--skip-neighbor-stat" in arguments:
        message = "force of a sampled frame in system 1"
    with pytest.raises(ValueError, match=f"mace model: {message}"):
        run_dp(tmp_path, "train", training(folder / "whole", system, energies=True), *arguments)
    assert not (tmp_path / "model.ckpt.pt").exists()


VALIDATION = [("energy", np.nan), ("force", np.inf), ("virial", np.nan), ("coord", np.nan), ("box", np.inf)]


@pytest.mark.parametrize("backend", ["--pt", "--pt-expt"])
@pytest.mark.parametrize(("name", "value"), VALIDATION)
def test_bad_validation_data_are_named_before_the_first_step(folder, tmp_path, name, value, backend):
    """Read by nobody else before the training; with or without statistics of neighbours."""
    write_system(tmp_path / "bad", composition_frames(6, 3, 0, box_length=4.5))
    message = spoil(tmp_path / "bad", name, value)
    config = training(folder / "whole", energies=True)
    config["training"]["validation_data"] = {"systems": [str(folder / "whole"), str(tmp_path / "bad")]}
    skip = ["--skip-neighbor-stat"] if name in ("force", "box") else []
    with pytest.raises(ValueError, match=f"mace model: {message}"):
        run_dp(tmp_path, "train", config, *skip, backend=backend)
    assert not (tmp_path / "model.ckpt.pt").exists()


@pytest.mark.parametrize("backend", ["--pt", "--pt-expt"])
def test_bad_frames_of_a_database_are_named(folder, tmp_path, backend):
    frames = composition_frames(5, 3, 300, box_length=5.0)
    labels = label(frames)
    labels[1][1][0, 0] = np.nan
    write_lmdb(tmp_path / "set.lmdb", frames, ["O", "H"], labels)
    config = training(energies=True)
    write_lmdb(tmp_path / "good.lmdb", composition_frames(5, 3, 300, box_length=5.0), ["O", "H"])
    config["training"]["training_data"] = {"systems": str(tmp_path / "good.lmdb"), "batch_size": 1}
    config["training"]["validation_data"] = {"systems": str(tmp_path / "set.lmdb"), "batch_size": 1}
    with pytest.raises(ValueError, match="mace model: force of frame 1 .*set.lmdb is not finite"):
        run_dp(tmp_path, "train", config, backend=backend)


def test_bad_data_of_one_task(folder, tmp_path):
    write_system(tmp_path / "bad", composition_frames(6, 3, 0, box_length=4.5))
    message = spoil(tmp_path / "bad", "energy")
    whole = {"training": folder / "whole"}
    config = two_tasks(
        training(energies=True), {"one": whole, "two": {**whole, "validation": tmp_path / "bad"}}
    )
    with pytest.raises(ValueError, match=f"mace model: {message}"):
        run_dp(tmp_path, "train", config)
