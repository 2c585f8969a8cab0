"""Run ``dp --pt`` in this process: starting it anew would cost seconds of imports each time."""

import json
import os
import signal
import subprocess
from contextlib import contextmanager, suppress

from deepmd.main import main as dp
from helpers import TINY


def base_input(systems, validation, steps, lr=0.01, batch_size=2):
    """A complete ``input.json`` for a tiny model; statistics from the data."""
    model = {k: v for k, v in TINY.items() if k not in ("avg_num_neighbors", "scale", "atomic_energies")}
    config = {
        "model": model,
        "learning_rate": {"type": "exp", "start_lr": lr, "stop_lr": lr / 10, "decay_steps": 10},
        "loss": {
            "type": "ener",
            "start_pref_e": 1,
            "limit_pref_e": 1,
            "start_pref_f": 100,
            "limit_pref_f": 100,
            "start_pref_v": 0.1,
            "limit_pref_v": 0.1,
        },
        "training": {
            "training_data": {"systems": systems, "batch_size": batch_size},
            "numb_steps": steps,
            "disp_freq": max(1, steps // 4),
            "save_freq": max(1, steps // 2),
            "seed": 1,
        },
    }
    if validation:
        config["training"]["validation_data"] = {"systems": validation, "batch_size": 1}
    return config


@contextmanager
def working_directory(path):
    before = os.getcwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


def run_dp(folder, command, config, *arguments, backend="--pt"):
    """Run ``dp --pt COMMAND`` in a folder; its log is kept in ``COMMAND.log``."""
    inputs = []
    if config is not None:
        (folder / "input.json").write_text(json.dumps(config))
        inputs = ["input.json"]
    with working_directory(folder):
        dp([backend, command, *inputs, *arguments, "--log-path", f"{command}.log"])


@contextmanager
def interruptible(command, **options):
    """A process that heeds SIGINT, even if the tests run in the background of a shell, and ends with the block."""
    child = subprocess.Popen(
        command, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def ended_by(sent, process):
    """Its status; a KeyboardInterrupt that falls into a destructor is dropped by Python, and users press Ctrl-C again."""
    for _ in range(6):
        process.send_signal(sent)
        with suppress(subprocess.TimeoutExpired):
            return process.wait(10)
    raise AssertionError("goes on in spite of signals")
