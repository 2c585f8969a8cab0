"""The examples, shortened, and the inputs that README shows."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from deepmd.main import main as dp
from deepmd.utils.argcheck import normalize
from deepmd_run import working_directory

pytestmark = pytest.mark.usefixtures("preloaded")

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
    if "model_dict" in settings.get("model", {}):
        return  # test_documented.py trains it; the host's check wants the shared parts put in first
    if {"model", "loss", "training"} & set(settings):
        # A recipe for any model and data.
        settings.setdefault("model", {"type": "mace", "type_map": ["O", "H"]})
        settings.setdefault("training", {}).setdefault(
            "training_data", {"systems": ["data"], "batch_size": 1}
        )
        settings["training"].setdefault("numb_steps", 1)
        settings.setdefault("learning_rate", {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-5})
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
@pytest.mark.lammps
def test_quickstart(tmp_path):
    """Train, freeze, test, one and two ranks of LAMMPS, figures."""
    command = [sys.executable, str(EXAMPLES / "quickstart.py"), "--output", str(tmp_path)]
    environment = {**os.environ, "NUM_WORKERS": "2"}  # that of users; the tests have none
    run = subprocess.run(
        [*command, "--steps", "5", "--md-steps", "10", "10"],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "largest difference" in run.stdout
    for figure in ("learning_curve", "parity", "molecular_dynamics"):
        assert (tmp_path / f"{figure}.png").stat().st_size > 5000
    _make_figures(tmp_path)


# Drawn by a script of benchmarks/ from trainings of several minutes; the page says which.
MEASURED = {"active_learning.png", "calibration.png"}


def _make_figures(folder):
    """The command that makes the figures of the site makes all of them, and no others."""
    script = runpy.run_path(str(ROOT / "docs" / "make_figures.py"))

    def in_this_process(command, where):
        with working_directory(where):
            dp([*command[1:], "--log-path", "dp.log"])

    with patch.dict(script["main"].__globals__, {"run": in_this_process}):
        script["main"]([str(folder), "--output", str(folder / "figures"), "--frames", "2"])
    made = {path.name: path.stat().st_size for path in (folder / "figures").iterdir()}
    shown = {path.name for path in (ROOT / "docs" / "figures").iterdir()}
    pages = "".join(path.read_text() for path in ROOT.glob("docs/*.md"))
    assert set(made) == shown - MEASURED
    assert min(made.values()) > 5000
    for name in set(re.findall(r"figures/(\w+\.png)", pages)):
        assert name in shown


def lammps_inputs():
    """Inputs of LAMMPS that users copy: files, code blocks of pages, and texts in scripts."""
    for path in [*EXAMPLES.glob("*/in.*"), *EXAMPLES.glob("*/*.py"), *EXAMPLES.glob("*/*.ipynb")]:
        yield path, path.read_text()
    for path in [ROOT / "README.md", *EXAMPLES.glob("*/README.md"), *(ROOT / "docs").glob("*.md")]:
        for text in re.findall(r"```\w*\n(.*?)```", path.read_text(), re.DOTALL):
            yield path, text


def test_sample_inputs_suit_a_pt2():
    """Whoever reads atoms asks for the map that a `.pt2` needs on one rank, before."""
    found = [
        (path, text[: text.index("read_data ")]) for path, text in lammps_inputs() if "\nread_data " in text
    ]
    assert len(found) > 5
    assert [path for path, before in found if "atom_modify map yes" not in before] == []


@pytest.mark.parametrize("name", ["README.md", "docs/getting_started.md", "docs/recipes.md", "examples/active_learning/input.json"])  # fmt: skip
def test_inputs_for_a_committee_have_no_seed_in_the_model(name):
    """DP-GEN sets ``training.seed``; a seed in the model section would give all members the same weights."""
    text = (ROOT / name).read_text()
    inputs = [text] if name.endswith(".json") else re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    models = [json.loads(one) for one in inputs]
    models = [one.get("default_training_param", one).get("model", {}) for one in models]
    assert any("type" in model for model in models)
    assert not any("seed" in model for model in models)


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
