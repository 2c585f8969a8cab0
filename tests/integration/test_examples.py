"""The examples, shortened, and the inputs that README shows."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from deepmd.utils.argcheck import normalize
from deepmd_run import run_dp

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def readme_inputs():
    pages = [ROOT / "README.md", *EXAMPLES.glob("*/README.md"), *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for number, text in enumerate(re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)):
            yield pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("text", list(readme_inputs()))
def test_documented_inputs_are_valid(text):
    """Snippets are JSON; complete ones pass DeePMD-kit's check with no unknown key."""
    settings = json.loads(text)
    if "training" in settings:
        # A recipe for any model and data.
        settings.setdefault("model", {"type": "mace", "type_map": ["O", "H"]})
        settings["training"].setdefault("training_data", {"systems": ["data"], "batch_size": 1})
        settings["training"].setdefault("numb_steps", 1)
        normalize(settings)


def test_readme_shows_a_complete_input():
    text = re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert {"model", "learning_rate", "loss", "training"} <= set(json.loads(text))


@pytest.mark.parametrize("name", ["water", "acac"])
def test_inputs_are_valid_and_their_data_is_there(name):
    settings = json.loads((EXAMPLES / name / "input.json").read_text())
    training = normalize(settings)["training"]
    for part in ("training_data", "validation_data"):
        for system in training[part]["systems"]:
            assert (EXAMPLES / name / system / "set.000" / "force.npy").exists()


@pytest.mark.slow
def test_acac(tmp_path):
    shutil.copytree(EXAMPLES / "acac" / "data", tmp_path / "data")
    settings = json.loads((EXAMPLES / "acac" / "input.json").read_text())
    settings["training"].update(numb_steps=4, disp_freq=2, save_freq=4)
    settings["validating"]["validation_freq"] = 2
    run_dp(tmp_path, "train", settings)
    assert {path.name for path in tmp_path.glob("best_ema.ckpt*")}
    run_dp(tmp_path, "freeze", None, "-c", "model_ema.ckpt.pt", "-o", "mace.pth")
    run_dp(tmp_path, "test", None, "-m", "mace.pth", "-s", "data/test_600K", "-n", "5")
    assert re.search(r"Force\s+RMSE\s*: \d", (tmp_path / "test.log").read_text())


@pytest.mark.slow
@pytest.mark.lammps
def test_quickstart(tmp_path):
    """Train, freeze, test, one and two ranks of LAMMPS, figures."""
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "--output", str(tmp_path)]
    run = subprocess.run(
        [*command, "--steps", "5", "--md-steps", "10", "10"], capture_output=True, text=True, timeout=900
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "largest difference" in run.stdout
    for figure in ("learning_curve", "parity", "molecular_dynamics"):
        assert (tmp_path / f"{figure}.png").stat().st_size > 5000


def test_quickstart_names_the_failed_stage(tmp_path):
    """A stage that cannot work ends with its name, command and log."""
    programs = tmp_path / "bin"
    programs.mkdir()
    python = programs / "python"
    python.symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    for name, code in (("dp", 3), ("lmp", 0)):
        (programs / name).write_text(f"#!/bin/sh\necho no model today\nexit {code}\n")
        (programs / name).chmod(0o755)
    command = [str(python), str(EXAMPLES / "quickstart.py"), "--output", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "Stage 2, 'Train" in run.stderr
    assert "exit code 3" in run.stderr
    assert "no model today" in run.stderr
    assert str(tmp_path / "out" / "train.log") in run.stderr
