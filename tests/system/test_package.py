"""What is installed: complete, the same every time it is built, with consistent metadata."""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import metadata, requires
from pathlib import Path

import pytest
import yaml

from deepmd_gnn import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Two builds of wheel and sdist in different places, years apart for the clock of the second."""
    folders = []
    for name in ("first", "second"):
        copy = tmp_path_factory.mktemp(name) / "source"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for entry in tracked.decode().rstrip("\0").split("\0"):
            # What the packages contain, without the data of the examples: it only takes time.
            if not entry.startswith(("examples/", "tests/data/")) and (ROOT / entry).is_file():
                (copy / entry).parent.mkdir(parents=True, exist_ok=True)
                (copy / entry).write_bytes((ROOT / entry).read_bytes())
                os.utime(copy / entry, (1.0e9 + 1e8 * len(folders),) * 2)
        code = (
            "import sys; from hatchling import build as b;"
            "print(b.build_wheel(sys.argv[1])); print(b.build_sdist(sys.argv[1]))"
        )
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        command = [sys.executable, "-c", code, str(copy.parent)]
        subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True)
        folders.append(copy.parent)
    return folders


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_builds_are_reproducible(built, pattern):
    hashes = {hashlib.sha256(next(folder.glob(pattern)).read_bytes()).hexdigest() for folder in built}
    assert len(hashes) == 1


def test_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(next(built[0].glob("*.whl"))) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    sources = [
        *ROOT.glob("deepmd_gnn/**/*.py"),
        *ROOT.glob("deepmd_gnn/**/*.hpp"),
        ROOT / "deepmd_gnn/py.typed",
    ]
    assert names == {str(path.relative_to(ROOT)) for path in sources}
    assert sum(name.endswith(".hpp") for name in names) >= 3


def test_sdist_holds_what_a_user_needs(built):
    with tarfile.open(next(built[0].glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = (
        "pyproject.toml",
        "LICENSE",
        "README.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "CITATION.cff",
        "Makefile",
    )
    assert set(wanted) <= names
    assert {"docs/conf.py", "tests/conftest.py", "deepmd_gnn/py.typed"} <= names
    assert not any("__pycache__" in name or "_build" in name for name in names)


def test_metadata():
    found = metadata("deepmd-gnn")
    assert found["Version"] == __version__
    assert found["License-Expression"] == "LGPL-3.0-or-later"
    assert found["Requires-Python"] == ">=3.10"
    assert any(line.startswith("deepmd-kit") for line in requires("deepmd-gnn"))


def test_pip_check_blames_no_dependency_of_ours():
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert "deepmd-gnn " not in done.stdout, done.stdout


def test_workflow_runs_what_the_checkout_runs():
    """The workflow has one step for it, and that runs all three targets, also where one fails."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step.get("run") for job in workflow["jobs"].values() for step in job["steps"]]
    assert steps.count(".ci/run") == 1


@pytest.mark.parametrize("failing", ["", "lint", "test"])
def test_a_change_must_pass_three_targets(failing, tmp_path):
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$1" >> "{tmp_path}/targets"\n[ "$1" != "{failing}" ]\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([str(ROOT / ".ci/run")], env=environment)
    assert (tmp_path / "targets").read_text().split() == ["lint", "docs", "test"]
    assert done.returncode == (1 if failing else 0)
