"""`dp --pt-expt`: training, freezing, converting and changing the bias; the same numbers in every kind of file."""

import functools
import os
import re
import signal
import sys
import time

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, ended_by, interruptible, run_dp
from helpers import assert_close, random_frame, tiny_model
from tolerances import NATIVE
from training_data import composition_frames, write_system

from deepmd_gnn.host import freezing, frozen_check

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("preloaded")]

STEPS = 80
KEYS = ("energy", "force", "virial", "atom_energy", "atom_virial")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return [
        write_system(root / "a", composition_frames(8, 8, 0, box_length=5.0)),
        write_system(root / "b", composition_frames(6, 6, 100, box_length=4.5)),
    ]


def training_input(data, steps, **training):
    config = base_input(data, data[1:], steps=steps, lr=0.02)
    config["training"].update(training)
    return config


def lcurve(folder):
    return np.genfromtxt(folder / "lcurve.out", names=True)


def weights(path):
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Runs of both trainers from the same input, with EMA and full validation."""
    folders = {}
    for backend in ("--pt", "--pt-expt"):
        folders[backend] = tmp_path_factory.mktemp(backend.strip("-"))
        config = training_input(data, STEPS, enable_ema=True, ema_decay=0.9)
        config["validating"] = {
            "full_validation": True,
            "validation_freq": STEPS // 2,
            "save_best": True,
            "validation_metric": "F:RMSE",
        }
        run_dp(folders[backend], "train", config, backend=backend)
    return folders


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """One model in every kind of file, each made from the one before; written on demand."""
    folder = tmp_path_factory.mktemp("files")
    checkpoint = str(trained["--pt-expt"] / "model.ckpt.pt")
    run_dp(folder, "freeze", None, "-c", checkpoint, "-o", "m.pte", backend="--pt-expt")
    with pytest.MonkeyPatch.context() as patch:  # this one is opened in a process of its own, as for users
        patch.setattr(freezing, "check_file", frozen_check.check_file)
        run_dp(folder, "convert-backend", None, "m.pte", "m.pt2", backend="--pt-expt")
    (folder / "compilation.log").write_text((folder / "convert-backend.log").read_text())
    run_dp(folder, "convert-backend", None, "m.pt2", "m.pth")
    run_dp(folder, "convert-backend", None, "m.pth", "again.pte")
    return folder


@functools.cache
def opened(path):
    """A file in Python; a ``.pte`` takes ten seconds to open."""
    return DeepPot(str(path))


def evaluate(path, frames, periodic=True):
    coord = np.stack([frame[0] for frame in frames])
    cell = np.stack([frame[2] for frame in frames]) if periodic else None
    return opened(path).eval(coord, cell, frames[0][1], atomic=True)


def test_training_falls_and_leaves_the_same_files(trained):
    for folder in trained.values():
        curve = lcurve(folder)
        assert curve["rmse_f_trn"][-1] < 0.8 * curve["rmse_f_trn"][0]
        assert np.isfinite(curve["rmse_v_val"]).all()
        names = {path.name for path in folder.iterdir()}
        assert {"model.ckpt.pt", f"model.ckpt-{STEPS}.pt"} <= names
        assert any("ema" in name for name in names)
        assert any("best" in name for name in names)


def test_checkpoints_have_the_same_contents(trained):
    """Names, shapes and statistics; the order in which the trainers draw frames differs."""
    states = [weights(folder / "model.ckpt.pt") for folder in trained.values()]
    tensors = [{k: v for k, v in state.items() if isinstance(v, torch.Tensor)} for state in states]
    assert tensors[0].keys() == tensors[1].keys()
    for name in ("descriptor.avg_num_neighbors", "fitting_net.scale"):
        key = f"model.Default.{name}"
        # Both sample batches at random.
        assert_close(tensors[0][key].numpy(), tensors[1][key].numpy(), 2e-2, name)


@pytest.mark.parametrize(("first", "second"), [("--pt", "--pt-expt"), ("--pt-expt", "--pt")])
def test_either_trainer_goes_on_from_the_other(first, second, trained, data, tmp_path):
    checkpoint = str(trained[first] / f"model.ckpt-{STEPS}.pt")
    run_dp(tmp_path, "train", training_input(data, STEPS + 20), "--restart", checkpoint, backend=second)
    continued = np.atleast_1d(lcurve(tmp_path))
    assert continued["step"][0] >= STEPS
    # It goes on where the other stopped instead of starting anew.
    assert continued["rmse_f_trn"].mean() < 0.8 * lcurve(trained[first])["rmse_f_trn"][0]


def test_compiled_training_equals_eager_training(data, tmp_path):
    """The first steps, before rounding grows: loss by loss, and the weights. Every batch holds all frames."""
    for name in ("eager", "compiled"):
        (tmp_path / name).mkdir()
        config = training_input(data[:1], 4, enable_compile=name == "compiled", disp_freq=1, save_freq=4)
        # Every kernel of the graph is a library to compile; test_compiled_step.py has the graphs of other architectures.
        config["model"].update(max_L=0, max_ell=1, correlation=1, num_interactions=1)
        for part in ("training_data", "validation_data"):
            config["training"][part] = {"systems": data[:1], "batch_size": 8}
        run_dp(tmp_path / name, "train", config, backend="--pt-expt")
    eager, compiled = lcurve(tmp_path / "eager"), lcurve(tmp_path / "compiled")
    for column in ("rmse_e_trn", "rmse_f_trn", "rmse_v_trn", "rmse_f_val"):
        np.testing.assert_allclose(compiled[column], eager[column], rtol=2e-2)  # printed with three digits
    states = [weights(tmp_path / name / "model.ckpt.pt") for name in ("eager", "compiled")]
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert_close(states[1][key].numpy(), value.numpy(), 1e-7, key)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("name", ["m.pte", "m.pt2", "again.pte", "checkpoint"])
def test_every_file_gives_the_same_numbers(name, periodic, files, trained):
    path = trained["--pt-expt"] / "model.ckpt.pt" if name == "checkpoint" else files / name
    for natoms, nframes in ((1, 1), (5, 3), (23, 2)):
        frames = [random_frame(natoms=natoms, box_length=6.0, seed=natoms + i) for i in range(nframes)]
        frames = [(coord, frames[0][1], cell) for coord, _, cell in frames]
        expected = evaluate(files / "m.pth", frames, periodic)
        for key, value, reference in zip(KEYS, evaluate(path, frames, periodic), expected, strict=True):
            assert_close(value, reference, NATIVE["float64"], f"{key}, {natoms} atoms")


@pytest.mark.parametrize("name", ["m.pte", "m.pt2"])
@pytest.mark.parametrize("distance", [0.0, 1e-7])
def test_atoms_at_the_same_place_are_refused(name, distance, files):
    """A compiled graph cannot raise; in Python its edges come from the search that does."""
    coord = np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, distance], [1.0, 0.0, 0.0]]])
    with pytest.raises(ValueError, match="two atoms are at the same place"):
        opened(files / name).eval(coord, None, [0, 1, 1])


@pytest.mark.parametrize("suffix", ["pte", "pt2", "pth"])
def test_dp_test_and_model_devi(suffix, files, data, tmp_path):
    backend = "--pt" if suffix == "pth" else "--pt-expt"
    model = str(files / f"m.{suffix}")
    run_dp(tmp_path, "test", None, "-m", model, "-s", data[1], "-n", "2", "-d", "detail", backend=backend)
    columns = np.loadtxt(tmp_path / "detail.f.out")
    prediction = opened(files / f"m.{suffix}")
    coord = np.load(f"{data[1]}/set.000/coord.npy")[:2]
    cell = np.load(f"{data[1]}/set.000/box.npy")[:2]
    atype = np.loadtxt(f"{data[1]}/type.raw", dtype=int)
    force = prediction.eval(coord, cell, atype)[1].reshape(-1, 3)
    assert_close(columns[:, 3:], force, 1e-6, "force")
    # A `.pte` takes ten seconds to open.
    other = str(files / "m.pt2") if suffix == "pte" else model
    arguments = ["-m", model, other, "-s", data[1], "-o", "devi.out"]
    run_dp(tmp_path, "model-devi", None, *arguments, backend=backend)
    assert np.abs(np.loadtxt(tmp_path / "devi.out")[:, 1:]).max() < 1e-9


@pytest.mark.parametrize("name", ["m.pte", "m.pt2", "model.ckpt.pt"])
def test_change_bias(name, files, trained, data, tmp_path):
    """Given values shift the energy by their number of atoms; forces stay, and so does what the file can do."""
    path = (trained["--pt-expt"] if name.endswith("ckpt.pt") else files) / name
    output = tmp_path / f"changed{path.suffix}"
    bias = ["-b", "-3.0", "-2.0"] if name != "m.pte" else ["-s", data[0], "-m", "set"]
    run_dp(tmp_path, "change-bias", None, str(path), *bias, "-o", str(output), backend="--pt-expt")
    frame = random_frame(natoms=9, box_length=6.0, seed=3)
    before, after = evaluate(path, [frame]), evaluate(output, [frame])
    for index in (1, 2):
        assert_close(after[index], before[index], NATIVE["float64"], KEYS[index])
    assert np.abs(after[0] - before[0]).item() > 1e-3
    change = (after[3] - before[3]).ravel()
    assert all(np.ptp(change[frame[1] == kind]) < 1e-9 for kind in (0, 1))
    if name == "m.pt2":
        from deepmd_gnn.cli import main

        assert main(["info", str(output)]) == 0
    if name != "m.pte":
        e0 = tiny_model(atomic_energies={"O": -3.0, "H": -2.0})
        interaction = after[3].ravel() - e0.out_bias[0, frame[1], 0].numpy()
        network = before[3].ravel() - _bias(trained["--pt-expt"] / "model.ckpt.pt")[frame[1]]
        assert_close(interaction, network, 1e-9, "interaction energy")


def _bias(checkpoint):
    return weights(checkpoint)["model.Default.out_bias"].numpy().ravel()


def test_the_file_takes_edges_and_serves_many_ranks(files, capsys):
    """Also where the host would have taken a padded list (convert-backend to .pte)."""
    import json

    from deepmd_gnn.cli import main

    for name in ("m.pte", "again.pte", "m.pt2"):
        assert main(["info", "--json", str(files / name)]) == 0
        assert "edge list" in json.dumps(json.loads(capsys.readouterr().out))


def test_stages_are_logged(files):
    log = (files / "convert-backend.log").read_text() + (files / "freeze.log").read_text()
    for stage in ("building the model", "tracing for one rank", "exporting and compiling for one rank"):
        assert f"{stage} took" in log
    opened = (files / "compilation.log").read_text()
    for program in ("one rank", "several ranks"):
        assert re.search(
            f"program for {program} opens; energies of probe atoms are those of the model to", opened
        )


# A freeze that stays where it is once it has begun; the signal comes then.
HELD = """
import sys, time
from deepmd.main import main
from deepmd_gnn.files.progress import Progress

enter = Progress.enter

def stay(self, stage):
    enter(self, stage)
    time.sleep(600)

Progress.enter = stay
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("sent", "stage"),
    [
        (signal.SIGINT, "exporting and compiling"),
        (signal.SIGINT, "making kernels"),
        (signal.SIGTERM, "making kernels"),
        (signal.SIGKILL, "making kernels"),
    ],
)
def test_an_interrupted_freeze_leaves_no_file(sent, stage, trained, tmp_path):
    """In the middle of the compilation, and where it takes less time to get to."""
    checkpoint = str(trained["--pt-expt"] / "model.ckpt.pt")
    program = ["-m", "deepmd"] if stage == "exporting and compiling" else ["-c", HELD]
    command = [sys.executable, *program, "--pt-expt", "freeze", "-c", checkpoint, "-o", "x.pt2"]
    (tmp_path / "x.pt2").write_text("the model of last week")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        open(tmp_path / "log", "w") as log,
        interruptible(command, cwd=tmp_path, stdout=log, stderr=log, env=environment) as child,
    ):
        for _ in range(600):
            time.sleep(0.2)
            if stage in (tmp_path / "log").read_text() or child.poll() is not None:
                break
        assert ended_by(sent, child) != 0
    assert stage in (tmp_path / "log").read_text()
    assert (tmp_path / "x.pt2").read_text() == "the model of last week"


def test_a_missing_folder_is_named_before_any_work(trained, tmp_path):
    checkpoint = str(trained["--pt-expt"] / "model.ckpt.pt")
    with pytest.raises(FileNotFoundError, match="Create it first"):
        run_dp(tmp_path, "freeze", None, "-c", checkpoint, "-o", "no/such/m.pt2", backend="--pt-expt")
