"""Every file, command and program that a page shows is run, shortened."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from deepmd.utils.argcheck import normalize
from documented import ROOT, Shortened, blocks, commands, is_runnable, run_page
from helpers import tiny_model
from lammps_cases import freeze

pytestmark = [pytest.mark.slow, pytest.mark.lammps]

TRAINING = {r'"numb_steps": \d+': '"numb_steps": 2', r'"disp_freq": \d+': '"disp_freq": 1'}
# Pages whose commands other tests run, and which.
ELSEWHERE = {
    "README.md": "test_examples.py, test_training.py, test_exportable_workflow.py",
    "CONTRIBUTING.md": ".ci/run",
    "docs/ase.md": "test_docs_ase.py",
    "docs/training.md": "test_training.py, test_workflows.py, test_multitask.py",
    "docs/cli.md": "test_cli.py, test_info.py, test_check_and_bench.py",
    "docs/frozen_files.md": "test_exportable_workflow.py",
    "docs/import.md": "test_converted.py, test_import.py",
    "docs/lammps.md": "test_lammps.py",
    "docs/performance.md": "benchmarks/",
    "docs/recipes.md": "test_inputs_of_dp_gen, test_examples.py",
    "docs/qmmm.md": "test_mm_types.py",
    "examples/acac/README.md": "test_examples.py",
    "examples/active_learning/README.md": "test_example_workflows.py",
    "examples/heat_flux/README.md": "test_example_workflows.py",
    "examples/molybdenum/README.md": "test_example_workflows.py",
    "examples/water/README.md": "test_examples.py, test_example_workflows.py",
}
HERE = {
    "docs/getting_started.md",
    "docs/molecular_dynamics.md",
    "docs/other_programs.md",
    "examples/fine_tuning/README.md",
}


def test_every_page_is_run_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]
    with_code = {str(page.relative_to(ROOT)) for page in pages if any(map(is_runnable, blocks(page)))}
    assert with_code <= HERE | set(ELSEWHERE)
    present = {path.name for path in (ROOT / "tests").glob("*/test_*.py")}
    named = {name for tests in ELSEWHERE.values() for name in re.findall(r"\w+\.py", tests)}
    assert named <= present


@pytest.fixture
def water(tmp_path):
    """The folder of the water example, with few frames, and models of its elements."""
    folder = tmp_path / "water"
    shutil.copytree(ROOT / "examples" / "water", folder)
    for path in folder.glob("data/*/set.*/*.npy"):
        np.save(path, np.load(path)[:2])
    options = {"r_max": 3.0, "num_channels": 2, "precision": "float32"}
    for seed, name in enumerate(("mace.pth", "second.pth", "third.pth")):
        freeze(tiny_model(**options, seed=seed), folder / name)
    return folder


def test_getting_started(water):
    (water / "mace.pth").unlink()
    rules = {
        **TRAINING,
        r'"save_freq": \d+': '"save_freq": 2',
        r'"num_channels": 16': '"num_channels": 2',
        r'"r_max": 4.0': '"r_max": 3.0',
        "-n 80": "-n 1",
        r"^run +\d+": "run 2",
        r"--types O H": "--types O H --ranks 0",
    }
    shorten = Shortened(rules)
    done = run_page(ROOT / "docs/getting_started.md", water, shorten, skip=("pip install",))
    shorten.check()
    assert len(done) == 9
    assert (water / "parity.png").stat().st_size > 5000


def test_molecular_dynamics(water):
    shorten = Shortened({r"^run +\d+": "run 4", "out_freq 10": "out_freq 2", "-s data ": "-s data/data_3 "})
    run_page(ROOT / "docs/molecular_dynamics.md", water, shorten)
    shorten.check()
    assert np.loadtxt(water / "deviation.txt").shape == (3, 7)
    assert np.loadtxt(water / "model_devi.out").reshape(-1, 8).shape[0] == 2
    flux = np.loadtxt(water / "flux.txt")
    assert np.abs(flux[:, 1:]).max() > 0


def test_other_programs(water):
    """i-PI, and a C program; both give the energy that Python gives."""
    from deepmd.infer import DeepPot

    positions = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    lines = [f"{name} {x} {y} {z}" for name, (x, y, z) in zip("OHH", positions, strict=True)]
    cell = "# CELL(abcABC): 30 30 30 90 90 90 cell{angstrom} positions{angstrom}"
    (water / "water.xyz").write_text("\n".join(["3", cell, *lines]) + "\n")
    shorten = Shortened({"<total_steps>100<": "<total_steps>2<", "> 300 <": "> 1e-6 <"})
    # One socket per test run.
    socket = re.sub(r"\W", "", str(water))[-40:]
    shorten.rules += Shortened(
        {
            '"host": "water"': f'"host": "{socket}"',
            "<address>water<": f"<address>{socket}<",
            "ipi_water": f"ipi_{socket}",
        }
    ).rules
    run_page(ROOT / "docs/other_programs.md", water, shorten)
    shorten.check()
    expected = DeepPot(str(water / "mace.pth")).eval(positions[None], None, [0, 1, 1])[0][0, 0]
    steps = np.loadtxt(water / "pimd.out")
    assert len(steps) == 3
    assert steps[0, 1] == pytest.approx(expected, abs=1e-5)
    lines = [line for line in _c_program(water).splitlines() if line.endswith(" eV")]
    assert float(lines[0].split()[0]) == pytest.approx(expected, abs=1e-6)


def _c_program(folder):
    page = ROOT / "docs/other_programs.md"
    text = next(block.text for block in blocks(page) if block.kind == "sh" and "gcc" in block.text)
    variables = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-euc", "\n".join(commands(text))],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_fine_tuning(tmp_path):
    for name in ("acac", "fine_tuning"):
        shutil.copytree(ROOT / "examples" / name, tmp_path / "examples" / name)
    shutil.copytree(ROOT / "tests" / "data", tmp_path / "tests" / "data")
    shorten = Shortened(
        {
            r'\["numb_steps"\] = \d+': '["numb_steps"] = 2',
            "-n 650": "-n 2",
            r"check mace.pth": "check mace.pth --ranks 0",
        }
    )
    run_page(ROOT / "examples/fine_tuning/README.md", tmp_path / "examples" / "fine_tuning", shorten)
    shorten.check()


def test_inputs_of_dp_gen():
    """What DP-GEN gets is an input once the systems are added, as it does."""
    texts = [
        block.text for block in blocks(ROOT / "docs/recipes.md") if "default_training_param" in block.text
    ]
    settings = json.loads(texts[0])["default_training_param"]
    settings["training"]["training_data"] = {"systems": ["data"], "batch_size": 1}
    normalize(settings)
