"""What the host's trainer offers besides the plain loop: data formats, schedules, optimisers, losses, committees."""

import json

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, run_dp
from helpers import tiny_model
from training_data import E0, composition_frames, write_lmdb, write_system

from deepmd_gnn.host.counts import average_num_neighbors, count_forces

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return write_system(root / "a", composition_frames(6, 6, 0, box_length=4.5))


def lcurve(folder):
    return np.genfromtxt(folder / "lcurve.out", names=True)


def column(folder, name):
    """A column of the learning curve, with or without validation data beside it."""
    curve = lcurve(folder)
    return curve[next(key for key in curve.dtype.names if key in (name, f"{name}_trn"))]


def weights(folder):
    state = torch.load(folder / "model.ckpt.pt", map_location="cpu", weights_only=True)["model"]
    return {key: value for key, value in state.items() if key != "_extra_state"}


def every_step(config):
    """Print every step, with the learning rate."""
    config["training"].update(disp_freq=1, disp_avg=False)
    return config


def test_cosine_with_warmup_epochs_clipping_and_tensorboard(data, tmp_path):
    config = every_step(base_input([data], None, steps=1))
    config["learning_rate"] = {"type": "cosine", "start_lr": 0.01, "stop_lr": 1e-4, "warmup_steps": 3}
    training = config["training"]
    del training["numb_steps"]
    training.update(
        numb_epoch=3, gradient_max_norm=1.0, tensorboard=True, tensorboard_freq=1, tensorboard_log_dir="log"
    )
    run_dp(tmp_path, "train", config)
    curve = lcurve(tmp_path)
    assert curve["step"][-1] == 9  # 3 epochs of 6 frames in batches of 2
    rates = curve["lr"]
    assert (np.diff(rates[:3]) > 0).all()
    assert (np.diff(rates[3:]) < 0).all()
    assert rates.max() == pytest.approx(0.01, rel=1e-6)
    assert any((tmp_path / "log").glob("events*"))


def test_wsd_schedule(data, tmp_path):
    config = every_step(base_input([data], None, steps=10))
    config["learning_rate"] = {"type": "wsd", "start_lr": 0.01, "stop_lr": 1e-4, "decay_phase_ratio": 0.4}
    run_dp(tmp_path, "train", config)
    rates = lcurve(tmp_path)["lr"]
    assert rates[:5] == pytest.approx(0.01)
    assert (np.diff(rates[6:]) < 0).all()


def test_clipping_bounds_the_step(data, tmp_path):
    """Gradients scaled to nothing leave Adam's first step, but hardly any with its epsilon as large as this."""
    moved = []
    for name, norm in (("free", 0.0), ("clipped", 1e-12)):
        (tmp_path / name).mkdir()
        config = base_input([data], None, steps=1)
        config["training"]["gradient_max_norm"] = norm
        run_dp(tmp_path / name, "train", config)
        moved.append(weights(tmp_path / name)["model.Default.descriptor.products.0.linear.weight"])
    start = tiny_model(avg_num_neighbors="auto", scale="auto", atomic_energies="auto")
    start = start.state_dict()["descriptor.products.0.linear.weight"]
    assert (moved[0] - start).abs().max() > 5e-3
    assert (moved[1] - start).abs().max() < 1e-4


# HybridMuon's faster kernels are compiled first, which takes minutes on the CPU.
OPTIMIZERS = [{"type": "AdamW"}, {"type": "LKF"}, {"type": "AdaMuon"}]
OPTIMIZERS += [{"type": "HybridMuon", "flash_muon": False, "enable_gram": False}]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer["type"])
def test_optimizers(optimizer, data, tmp_path):
    # With three digits in the learning curve LKF's first ten steps may show no difference.
    config = every_step(base_input([data], None, steps=20, lr=0.05, batch_size=6))
    config["optimizer"] = optimizer
    run_dp(tmp_path, "train", config)
    force = column(tmp_path, "rmse_f")
    assert force[-1] < force[0]


@pytest.mark.parametrize("backend", ["--pt", "--pt-expt"])
def test_lmdb_of_mixed_sizes(backend, tmp_path):
    """Frames of two sizes in one batch; the statistics are those of the frames, without padding."""
    frames = [*composition_frames(5, 3, 300, box_length=5.0), *composition_frames(8, 3, 400, box_length=5.0)]
    labels = write_lmdb(tmp_path / "set.lmdb", frames, ["O", "H"])
    config = base_input([], None, steps=2)
    config["training"]["training_data"] = {"systems": str(tmp_path / "set.lmdb"), "batch_size": "mix:6"}
    run_dp(tmp_path, "train", config, backend=backend)
    assert np.isfinite(lcurve(tmp_path)["rmse_f_trn"]).all()
    state = weights(tmp_path)
    sampled = [
        {"coord": x[None], "atype": t[None], "box": c[None], "force": f[None]}
        for (x, t, c), (_, f, _) in zip(frames, labels, strict=True)
    ]
    squares, components = count_forces(sampled)
    average = state["model.Default.descriptor.avg_num_neighbors"].item()
    assert average == pytest.approx(average_num_neighbors(sampled, 4.0), rel=1e-6)
    assert state["model.Default.fitting_net.scale"].item() == pytest.approx(
        (squares / components) ** 0.5, rel=1e-6
    )


def test_hessian_loss(data, tmp_path):
    """Labels of a model of the same start: the error is zero until other labels have moved the weights."""
    coord, cell = np.load(f"{data}/set.000/coord.npy"), np.load(f"{data}/set.000/box.npy")
    atype = np.loadtxt(f"{data}/type.raw", dtype=int)
    given = {"avg_num_neighbors": 8.0, "scale": 1.3, "atomic_energies": E0}
    teacher = tiny_model(**given)
    teacher.enable_hessian()
    types = torch.tensor(np.tile(atype, (len(coord), 1)))
    out = teacher(torch.tensor(coord).reshape(len(coord), -1, 3), types, torch.tensor(cell))
    system = tmp_path / "hessian"
    (system / "set.000").mkdir(parents=True)
    arrays = {
        "coord": coord,
        "box": cell,
        "energy": out["energy"],
        "force": 1.5 * out["force"],
        "hessian": out["hessian"],
    }
    for name, array in arrays.items():
        np.save(system / "set.000" / f"{name}.npy", np.asarray(array).reshape(len(coord), -1))
    (system / "type.raw").write_text("\n".join(map(str, atype)))
    (system / "type_map.raw").write_text("O\nH\n")

    config = every_step(base_input([str(system)], None, steps=3))
    config["model"].update(given)
    config["loss"] = {
        "type": "ener",
        "start_pref_h": 1,
        "limit_pref_h": 1,
        "start_pref_f": 1,
        "limit_pref_f": 1,
    }
    run_dp(tmp_path, "train", config)
    errors = column(tmp_path, "rmse_h")
    assert errors[0] < 1e-6
    assert errors[-1] > 1e-6
    run_dp(tmp_path, "freeze", None, "-o", "m.pth")
    results = [
        DeepPot(str(tmp_path / name)).eval(coord, cell, atype)[:3] for name in ("m.pth", "model.ckpt.pt")
    ]
    for x, y in zip(*results, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-9)


def test_loss_on_atomic_energies(data, tmp_path):
    """The error of the atomic energies falls when they are trained on."""
    coord, cell = np.load(f"{data}/set.000/coord.npy"), np.load(f"{data}/set.000/box.npy")
    atype = np.loadtxt(f"{data}/type.raw", dtype=int)
    teacher = tiny_model(seed=77, scale=20.0, atomic_energies=E0)
    types = torch.tensor(np.tile(atype, (len(coord), 1)))
    out = teacher(torch.tensor(coord).reshape(len(coord), -1, 3), types, torch.tensor(cell))
    system = tmp_path / "atoms"
    (system / "set.000").mkdir(parents=True)
    for name, array in {
        "coord": coord,
        "box": cell,
        "energy": out["energy"],
        "atom_ener": out["atom_energy"],
    }.items():
        np.save(system / "set.000" / f"{name}.npy", np.asarray(array).reshape(len(coord), -1))
    (system / "type.raw").write_text("\n".join(map(str, atype)))
    (system / "type_map.raw").write_text("O\nH\n")
    config = every_step(base_input([str(system)], None, steps=15, lr=0.05, batch_size=6))
    config["model"].update(scale=20.0, atomic_energies=E0)
    config["loss"] = {
        "type": "ener",
        "start_pref_ae": 1,
        "limit_pref_ae": 1,
        "start_pref_e": 1,
        "limit_pref_e": 1,
    }
    run_dp(tmp_path, "train", config)
    errors = column(tmp_path, "rmse_ae")
    assert errors[-1] < 0.7 * errors[0]


def dpgen_inputs(template, systems, number):
    """What DP-GEN 0.14 makes of ``default_training_param``: data, type map and seeds, one input per model."""
    rng = np.random.default_rng(3)
    inputs = []
    for _ in range(number):
        config = json.loads(json.dumps(template))
        config["training"]["training_data"].update(systems=systems, batch_size=[2])
        config["model"].setdefault("type_map", ["O", "H"])
        for section in ("descriptor", "fitting_net"):
            if isinstance(config["model"].get(section), dict):
                config["model"][section]["seed"] = int(rng.integers(2**32))
        config["training"]["seed"] = int(rng.integers(2**32))
        inputs.append(config)
    return inputs


@pytest.mark.parametrize("spelling", ["flat", "sections"])
def test_committee_from_inputs_of_dpgen(spelling, data, tmp_path):
    """Members start from different weights, and the deviation of their forces is what ``dp model-devi`` prints."""
    template = base_input([], None, steps=1)
    model = template["model"]
    for key in ("seed", "type_map"):
        model.pop(key)
    if spelling == "sections":
        readout = {"MLP_irreps": model.pop("MLP_irreps")}
        model.pop("type")
        template["model"] = {"type": "mace", "descriptor": {"type": "mace", **model}, "fitting_net": readout}
    files = []
    for k, config in enumerate(dpgen_inputs(template, [data], 2)):
        folder = tmp_path / f"00{k}"
        folder.mkdir()
        run_dp(folder, "train", config)
        run_dp(folder, "freeze", None, "-o", "frozen_model.pth")
        files.append(str(folder / "frozen_model.pth"))
    run_dp(tmp_path, "model-devi", None, "-m", *files, "-s", data, "-o", "devi.out")
    printed = np.atleast_2d(np.loadtxt(tmp_path / "devi.out"))
    coord, cell = np.load(f"{data}/set.000/coord.npy"), np.load(f"{data}/set.000/box.npy")
    atype = np.loadtxt(f"{data}/type.raw", dtype=int)
    forces = np.stack([DeepPot(name).eval(coord, cell, atype)[1] for name in files])
    deviation = np.sqrt(np.square(forces - forces.mean(axis=0)).sum(axis=-1).mean(axis=0)).max(axis=-1)
    np.testing.assert_allclose(printed[:, 4], deviation, rtol=1e-4)
    assert deviation.min() > 1e-3
