"""Training in two processes on the CPU: the trajectory of one process with the doubled batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from deepmd_run import base_input, run_dp
from tolerances import RANKS
from training_data import E0, composition_frames, write_system

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("preloaded")]
WORKER = Path(__file__).parents[1] / "ddp_worker.py"
STAGES = (0, 1, 2, 3)
GIVEN = {"avg_num_neighbors": 8.0, "scale": 1.3, "atomic_energies": E0}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    frames = composition_frames(6, 4, 0, box_length=4.5)
    parts = {"all": frames, "0": frames[:2], "1": frames[2:]}
    return {name: write_system(root / name, part) for name, part in parts.items()}


def training_input(systems, batch_size):
    config = base_input(systems, None, steps=4, batch_size=batch_size)
    config["model"].update(GIVEN)
    return config


def weights(folder):
    state = torch.load(folder / "model.ckpt.pt", map_location="cpu", weights_only=True)["model"]
    return {key: value for key, value in state.items() if key != "_extra_state"}


@pytest.fixture(scope="module")
def one_process(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run_dp(folder, "train", training_input([data["all"]], 4), "--skip-neighbor-stat", backend="--pt-expt")
    return weights(folder)


@pytest.fixture(scope="module")
def two_processes(data, tmp_path_factory):
    """Weights by ZeRO stage: 0 keeps everything on both ranks, 1 shards the optimiser, 2 the gradients too, 3 the parameters."""
    root = tmp_path_factory.mktemp("two")
    for stage in STAGES:
        for rank in ("0", "1"):
            folder = root / str(stage) / rank
            folder.mkdir(parents=True)
            config = training_input([data[rank]], 2)
            config["training"]["zero_stage"] = stage
            (folder / "input.json").write_text(json.dumps(config))
    environment = {key: value for key, value in os.environ.items() if key != "LOCAL_RANK"}
    folders = [str(root / str(stage)) for stage in STAGES]
    workers = []
    for rank in ("0", "1"):
        command = [sys.executable, str(WORKER), rank, "2", str(root / "store"), *folders]
        with (root / f"output{rank}").open("w") as output:
            workers.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
    codes = [worker.wait(timeout=500) for worker in workers]
    assert codes == [0, 0], "\n".join((root / f"output{rank}").read_text()[-3000:] for rank in (0, 1))
    return {stage: weights(root / str(stage) / "0") for stage in STAGES}


@pytest.mark.parametrize("zero_stage", STAGES)
def test_two_processes_equal_one_with_the_doubled_batch(zero_stage, two_processes, one_process):
    two = two_processes[zero_stage]
    assert two.keys() == one_process.keys()
    for name, value in one_process.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=RANKS["float64"], msg=name)
