"""What pages show of training, freezing and the command line is run, shortened, in the order of the pages."""

import ast
import json
import re
import shutil

import numpy as np
import pytest
import torch
from deepmd.utils.argcheck import normalize
from documented import FREEZE, KINDS, ROOT, PageRun, assert_like, blocks, copy_example, is_runnable, pages

pytestmark = [pytest.mark.slow, pytest.mark.lammps, pytest.mark.usefixtures("preloaded")]

TRAINING = {r'"numb_steps": \d+': '"numb_steps": 2'}
SMALL = {r'"num_channels": \d+': '"num_channels": 2', r'"r_max": \d\.0': '"r_max": 3.0'}
# Pages that another test reads: its file, and why not here.
READ = {
    "docs/ase.md": ("test_docs_ase.py", "runs the page once for many tests of its numbers"),
    "examples/active_learning/README.md": (
        "test_example_workflows.py",
        "its command starts eight programs; the test takes the arguments of the page and calls them in one process",
    ),
    "CONTRIBUTING.md": (
        "test_docs.py",
        "installs packages and runs all tests; the targets of make and the markers of pytest exist",
    ),
    "docs/performance.md": (
        "test_docs.py",
        "half an hour of measurements; the scripts exist and have these options, and test_benchmarks.py runs them shortly",
    ),
}


def test_every_page_is_run():
    """Every fence has a kind, so that none is overlooked, and every page with commands or programs is run."""
    with_code = set()
    for name, page in pages().items():
        if any(map(is_runnable, blocks(page))):
            with_code.add(name)
        kinds = {block.kind for block in blocks(page) if not block.kind.startswith("{")}
        assert kinds <= KINDS, name
    run = set()
    for path in (ROOT / "tests").glob("*/test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PageRun":
                run.add(node.args[0].right.value)  # ROOT / page
    assert with_code == run | set(READ)


def test_output_is_compared():
    """Numbers may differ; words, lines in between and lines that a page leaves out at the end may not."""
    output = "Kind   frozen\nSize   3.1 MB\nStep   499\n\nModel\n"
    for shown in ("Kind frozen\nSize 2 kB\nStep 1\n", output):
        assert_like(output, shown, "same")
    for shown in ("Kind checkpoint\n", "Kind frozen\nStep 1\n", "Kind frozen\nSize 2 kB\n", "Size 2 kB, 1\n"):
        with pytest.raises(AssertionError):
            assert_like(output, shown, "other")


# --- folders that several pages start from -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def started(tmp_path_factory, model_files):
    """The folder of the water example after getting started."""
    folder = copy_example("water", tmp_path_factory.mktemp("started"))
    rules = {
        **TRAINING,
        **SMALL,
        r'"disp_freq": \d+': '"disp_freq": 1',
        r'"save_freq": \d+': '"save_freq": 2',
        "-n 80": "-n 2",
        r"^run +\d+": "run 2",
        "--types O H": "--types O H --ranks 0",
    }
    frozen = model_files(".pt2")["one_layer"]
    run = PageRun(ROOT / "docs/getting_started.md", folder, rules, skip=["pip install"], frozen=frozen)
    assert len(run()) == 10
    return folder


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The folder of the page about model files: the only `.pt2` that pages freeze, of one layer."""
    folder = copy_example("water", tmp_path_factory.mktemp("compiled"))
    settings = json.loads((folder / "input.json").read_text())
    settings["model"].update(num_channels=2, r_max=3.0, num_interactions=1)
    settings["training"].update(numb_steps=1, disp_freq=1, save_freq=1)
    (folder / "input.json").write_text(json.dumps(settings))
    rules = {
        r"-s data\b": "-s data/data_3",
        # Each would compile again; test_exportable_workflow.py does that, with these commands.
        r"change-bias mace.pt2 (.*)shifted.pt2": r"change-bias model.ckpt.pt \1shifted.pt",
    }
    run = PageRun(ROOT / "docs/frozen_files.md", folder, rules, skip=["dp convert-backend"])
    outputs = run()
    assert len(outputs) == 4
    assert FREEZE in outputs
    return folder


def working_copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_getting_started(started):
    assert (started / "parity.png").stat().st_size > 5000
    assert (started / "lcurve.png").stat().st_size > 5000


def test_model_files(compiled):
    """What the page runs has left what it says; what would compile again, test_exportable_workflow.py runs."""
    assert (compiled / "mace.pt2").exists()
    assert (compiled / "shifted.pt").exists()


def test_command_line(started, compiled, tmp_path):
    """Every session of the page: the commands end as shown, and print what is shown, except for the numbers."""
    folder = working_copy(started, tmp_path)
    shutil.copy(compiled / "mace.pt2", folder)
    rules = {
        r"bench (mace.pth .*--ranks 1 2)": r"bench \1 --steps 1",
        r"-n [48]0\b": "-n 2",
    }
    PageRun(ROOT / "docs/cli.md", folder, rules)()


def test_training(started, tmp_path):
    """Two tasks, one of them frozen, and one trained further."""
    folder = working_copy(started, tmp_path)
    run = PageRun(ROOT / "docs/training.md", folder, {**TRAINING, **SMALL}, skip=["pip install"])
    assert len(run()) == 3
    assert (folder / "pbe.pth").exists()
    state = {
        name: torch.load(folder / name, weights_only=True)["model"] for name in ("multi.pt", "model.ckpt.pt")
    }
    # Trained for two steps from where the task was: closer to it than to any other start.
    moved = [
        (value - state["multi.pt"][key.replace(".Default.", ".pbe.")]).abs().max()
        for key, value in state["model.ckpt.pt"].items()
        if ".descriptor." in key and value.is_floating_point()
    ]
    assert 0 < max(moved) < 0.01


def test_recipes(started, tmp_path):
    folder = working_copy(started, tmp_path)
    shutil.copy(folder / "model.ckpt.pt", folder / "start.pt")
    assert len(PageRun(ROOT / "docs/recipes.md", folder, {})()) == 2


def test_readme(tmp_path, model_files):
    folder = copy_example("water", tmp_path)
    rules = {
        **TRAINING,
        **SMALL,
        "-n 80": "-n 2",
        "-n 4 lmp -in in.lammps": "-n 2 lmp -in in.lammps -var equilibrate 2 -var steps 2",
    }
    frame = {
        "coord": np.load(folder / "data/data_3/set.000/coord.npy")[:1],
        "box": np.load(folder / "data/data_3/set.000/box.npy")[:1],
        "atom_types": np.loadtxt(folder / "data/data_3/type.raw", dtype=int),
    }
    script = re.sub(r"(equilibrate|steps)( +index) \d+", r"\1\2 2", (folder / "in.lammps").read_text())
    frozen = model_files(".pt2")["one_layer"]
    skip = ["make", "pip install"]
    run = PageRun(ROOT / "README.md", folder, rules, skip, script=script, names=frame, frozen=frozen)
    assert len(run()) == 4


def test_inputs_of_dp_gen():
    """What DP-GEN gets is an input once the systems are added, as it does."""
    texts = [
        block.text for block in blocks(ROOT / "docs/recipes.md") if "default_training_param" in block.text
    ]
    settings = json.loads(texts[0])["default_training_param"]
    settings["training"]["training_data"] = {"systems": ["data"], "batch_size": 1}
    normalize(settings)
