"""The notebooks run from the first cell to the last, and have no outputs in the repository."""

import json
import shutil
import subprocess
import sys

import pytest
from documented import ROOT, Shortened

pytestmark = pytest.mark.usefixtures("preloaded")

NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


def cells(notebook, kind):
    """Texts of all cells of a kind."""
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored(path):
    """Format 4.5 asks for a kind, an id and metadata of every cell, and for outputs and a count of those with code."""
    notebook = json.loads(path.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        code = {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
        assert {key: cell[key] for key in cell if key not in ("id", "cell_type", "source")} == {
            "metadata": {},
            **code,
        }


@pytest.fixture
def folder(tmp_path):
    """A folder of notebooks beside the examples and tests that they read."""
    for name in ("acac", "water"):
        shutil.copytree(ROOT / "examples" / name, tmp_path / "examples" / name)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/data").symlink_to(ROOT / "tests/data")
    folder = tmp_path / "examples/notebooks"
    folder.mkdir()
    return folder


def run(name, folder, rules, check):
    """Run the code of all cells, shortened, in one process, and then a line that looks at what they left."""
    notebook = json.loads((ROOT / f"examples/notebooks/{name}.ipynb").read_text())
    shorten = Shortened(rules)
    (folder / f"{name}.py").write_text("\n".join([*map(shorten, cells(notebook, "code")), check]))
    shorten.check()
    done = subprocess.run(
        [sys.executable, f"{name}.py"], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


@pytest.mark.slow
@pytest.mark.lammps
def test_from_xyz_to_md(folder):
    run(
        "xyz_to_md",
        folder,
        {
            r'num_channels": \d+': 'num_channels": 2',
            r'max_L": 1': 'max_L": 0',
            r'r_max": 3.5': 'r_max": 3.0',
            r'numb_steps": \d+': 'numb_steps": 4',
            r'disp_freq": \d+': 'disp_freq": 2',
            r'command\("run 5"\)': 'command("run 1")',
        },
        "assert 0.9 < middles[g.argmax()] < 1.1 and Path('rdf.png').stat().st_size > 5000",
    )


@pytest.mark.slow
def test_fine_tuning(folder):
    rules = {
        r"batch_size\": \d+": 'batch_size": 1',
        r"numb_steps=\d+": "numb_steps=30",
        r"_freq=\d+": "_freq=30",
        r"npy\"\)\[:20\]": 'npy")[:4]',
    }
    run("fine_tuning", folder, rules, "assert after < 0.7 * before")
