"""Multi-task training: tasks that share the network, heads, and fine-tuning between one and several tasks."""

import copy

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, run_dp
from nequip_models import SIMPLE
from nequip_models import TINY as NEQUIP
from training_data import composition_frames, write_system

from deepmd_gnn.host.counts import count_neighbors

pytestmark = pytest.mark.slow

FITTING = ("MLP_irreps", "conv_to_output_hidden_irreps_out")


def sections(model):
    """The same model in the spelling with sections."""
    model = copy.deepcopy(model)
    fitting = {key: model.pop(key) for key in FITTING if key in model}
    type_map, kind = model.pop("type_map"), model.pop("type")
    return {
        "type": kind,
        "type_map": type_map,
        "descriptor": {"type": kind, **model},
        "fitting_net": fitting,
    }


def multitask_input(data, probabilities=(0.5, 0.5), steps=4, model=None, **branches):
    """An input with the tasks "a" and "b", which share the descriptor."""
    single = base_input([], None, steps=steps)
    section = sections(model or single["model"])
    tasks = {
        name: {
            "type": section["type"],
            "type_map": "elements",
            "descriptor": "network",
            "fitting_net": section["fitting_net"],
            **branches.get(name, {}),
        }
        for name in ("a", "b")
    }
    training = {key: value for key, value in single["training"].items() if key != "training_data"}
    training["model_prob"] = dict(zip(tasks, probabilities, strict=True))
    training["data_dict"] = {
        name: {"training_data": {"systems": [data[name]], "batch_size": 2}} for name in tasks
    }
    return {
        "model": {
            "shared_dict": {"elements": section["type_map"], "network": section["descriptor"]},
            "model_dict": tasks,
        },
        "learning_rate": single["learning_rate"],
        "loss_dict": {name: dict(single["loss"]) for name in tasks},
        "training": training,
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {
        "a": write_system(root / "a", composition_frames(8, 4, 0, box_length=5.0)),
        "b": write_system(root / "b", composition_frames(6, 4, 100, box_length=4.5)),
    }


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("multitask")
    run_dp(folder, "train", multitask_input(data))
    return folder


def weights(path):
    state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    return {key.removeprefix("model."): value for key, value in state.items() if key != "_extra_state"}


def part(state, task, name):
    return {k.removeprefix(f"{task}."): v for k, v in state.items() if k.startswith(f"{task}.{name}")}


def system(path):
    coord, cell = np.load(f"{path}/set.000/coord.npy"), np.load(f"{path}/set.000/box.npy")
    return coord, cell, np.loadtxt(f"{path}/type.raw", dtype=int)


def neighbors(path):
    """Edges and atoms of the frames of a task."""
    coord, cell, atype = system(path)
    return count_neighbors([{"coord": coord, "box": cell, "atype": np.tile(atype, (len(coord), 1))}], 4.0)


def test_features_are_shared_and_heads_are_not(trained, data):
    state = weights(trained / "model.ckpt.pt")
    for key, value in part(state, "a", "descriptor.").items():
        assert torch.equal(value, state[f"b.{key}"]), key
    for name in ("out_bias", "fitting_net.scale", "fitting_net.readouts.0.linear.weight"):
        assert not torch.equal(state[f"a.{name}"], state[f"b.{name}"]), name
    counts = [neighbors(data[task]) for task in ("a", "b")]
    edges, atoms = np.sum(counts, axis=0)
    assert state["a.descriptor.avg_num_neighbors"].item() == pytest.approx(edges / atoms)
    assert abs(counts[0][0] / counts[0][1] - edges / atoms) > 1e-3


def test_nequip_tasks_share_the_network(data, tmp_path):
    """Statistics of both tasks together, one network, two readouts; a frozen head, and one task trained on."""
    given = ("avg_num_neighbors", "scale", "atomic_energies")
    model = {k: v for k, v in NEQUIP.items() if k not in given}
    model = {"type": "nequip", "type_map": ["O", "H"], **model, **SIMPLE}
    model["conv_to_output_hidden_irreps_out"] = "2x0e"
    run_dp(tmp_path, "train", multitask_input(data, steps=2, model=model))
    state = weights(tmp_path / "model.ckpt.pt")
    for key, value in part(state, "a", "descriptor.").items():
        assert torch.equal(value, state[f"b.{key}"]), key
    for name in ("out_bias", "fitting_net.scale", "fitting_net.readouts.conv_to_output_hidden.linear.weight"):
        assert not torch.equal(state[f"a.{name}"], state[f"b.{name}"]), name
    edges, atoms = np.sum([neighbors(data[task]) for task in "ab"], axis=0)
    assert state["a.descriptor.avg_num_neighbors"].item() == pytest.approx(edges / atoms)
    coord, cell, atype = system(data["b"])
    run_dp(tmp_path, "freeze", None, "-o", "b.pth", "--head", "b")
    frozen = DeepPot(str(tmp_path / "b.pth")).eval(coord, cell, atype)
    checkpoint = DeepPot(str(tmp_path / "model.ckpt.pt"), head="b").eval(coord, cell, atype)
    for x, y in zip(frozen, checkpoint, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-9)
    config = base_input([data["a"]], None, steps=1, lr=1e-12)
    config["model"] = sections(model)
    (tmp_path / "tuned").mkdir()
    arguments = ("--finetune", str(tmp_path / "model.ckpt.pt"), "--model-branch", "RANDOM")
    run_dp(tmp_path / "tuned", "train", config, *arguments)
    for key, value in part(weights(tmp_path / "tuned/model.ckpt.pt"), "Default", "descriptor.").items():
        torch.testing.assert_close(value, state[f"a.{key}"], rtol=0, atol=1e-9)


def test_steps_of_one_task_train_the_features_of_the_other(data, tmp_path):
    """One task is never drawn: it follows the other, which trains as it would alone."""
    given = {"avg_num_neighbors": 8.0}
    config = multitask_input(data, probabilities=(1.0, 0.0), steps=3)
    config["model"]["shared_dict"]["network"].update(given)
    # All frames in every batch: the two runs draw in another order.
    for task in config["training"]["data_dict"].values():
        task["training_data"]["batch_size"] = 4
    (tmp_path / "both").mkdir()
    run_dp(tmp_path / "both", "train", config)
    both = weights(tmp_path / "both" / "model.ckpt.pt")

    alone = base_input([data["a"]], None, steps=3, batch_size=4)
    alone["model"] = sections(alone["model"])
    alone["model"]["descriptor"].update(given)
    (tmp_path / "alone").mkdir()
    run_dp(tmp_path / "alone", "train", alone)
    single = weights(tmp_path / "alone" / "model.ckpt.pt")
    for key, value in part(both, "a", "descriptor.").items():
        assert torch.equal(value, both[f"b.{key}"]), key
        torch.testing.assert_close(value, single[f"Default.{key}"], rtol=0, atol=1e-10)
    name = "fitting_net.readouts.0.linear.weight"
    torch.testing.assert_close(both[f"a.{name}"], single[f"Default.{name}"], rtol=0, atol=1e-10)
    assert not torch.equal(both[f"a.{name}"], both[f"b.{name}"])


def test_a_frozen_head_is_that_task(trained, data, tmp_path):
    coord, cell, atype = system(data["a"])
    energies = []
    for task in ("a", "b"):
        run_dp(trained, "freeze", None, "-o", str(tmp_path / f"{task}.pth"), "--head", task)
        frozen = DeepPot(str(tmp_path / f"{task}.pth")).eval(coord, cell, atype)
        checkpoint = DeepPot(str(trained / "model.ckpt.pt"), head=task).eval(coord, cell, atype)
        for x, y in zip(frozen, checkpoint, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-9)
        energies.append(frozen[0])
    assert np.abs(energies[0] - energies[1]).max() > 1e-3


@pytest.mark.parametrize("branch", ["b", "RANDOM"])
def test_finetune_one_task_of_several(trained, data, tmp_path, branch):
    """`RANDOM` keeps the features of the first task and starts a new head."""
    config = base_input([data["a"]], None, steps=1, lr=1e-12)
    config["model"] = sections(config["model"])
    arguments = ("--finetune", str(trained / "model.ckpt.pt"), "--model-branch", branch)
    run_dp(tmp_path, "train", config, *arguments, "--use-pretrain-script")
    old, new = weights(trained / "model.ckpt.pt"), weights(tmp_path / "model.ckpt.pt")
    for key, value in part(new, "Default", "descriptor.").items():
        torch.testing.assert_close(value, old[f"b.{key}"], rtol=0, atol=1e-9)
    name = "fitting_net.readouts.0.linear.weight"
    moved = (new[f"Default.{name}"] - old[f"b.{name}"]).abs().max()
    assert moved < 1e-9 if branch == "b" else moved > 1e-3


def test_several_tasks_from_one(data, tmp_path):
    """A model in the flat spelling becomes the start of two tasks."""
    (tmp_path / "one").mkdir()
    run_dp(tmp_path / "one", "train", base_input([data["a"]], None, steps=1))
    config = multitask_input(data, steps=1, a={"finetune_head": "Default"}, b={"finetune_head": "RANDOM"})
    config["learning_rate"].update(start_lr=1e-12, stop_lr=1e-13)
    run_dp(tmp_path, "train", config, "--finetune", str(tmp_path / "one" / "model.ckpt.pt"))
    old, new = weights(tmp_path / "one" / "model.ckpt.pt"), weights(tmp_path / "model.ckpt.pt")
    for key, value in part(old, "Default", "descriptor.").items():
        for task in ("a", "b"):
            torch.testing.assert_close(new[f"{task}.{key}"], value, rtol=0, atol=1e-9)
    name = "fitting_net.readouts.0.linear.weight"
    torch.testing.assert_close(new[f"a.{name}"], old[f"Default.{name}"], rtol=0, atol=1e-9)


def test_restart_of_several_tasks(trained, data, tmp_path):
    config = multitask_input(data, steps=5)
    run_dp(tmp_path, "train", config, "--restart", str(trained / "model.ckpt.pt"))
    old, new = weights(trained / "model.ckpt.pt"), weights(tmp_path / "model.ckpt.pt")
    for key, value in part(new, "a", "descriptor.").items():
        assert torch.equal(value, new[f"b.{key}"]), key
    assert torch.equal(new["a.descriptor.avg_num_neighbors"], old["a.descriptor.avg_num_neighbors"])


def test_exportable_backend_shares_too(data, tmp_path):
    config = multitask_input(data, steps=2)
    run_dp(tmp_path, "train", config, backend="--pt-expt")
    state = weights(tmp_path / "model.ckpt.pt")
    for key, value in part(state, "a", "descriptor.").items():
        assert torch.equal(value, state[f"b.{key}"]), key


def test_different_networks_are_not_shared(data, tmp_path):
    config = multitask_input(data, b={"r_max": 3.5})
    config["model"]["shared_dict"]["network"].pop("r_max")
    with pytest.raises(ValueError, match="differ in r_max"):
        run_dp(tmp_path, "train", config)
