"""Habits of the project: one version, declared dependencies, the changelog gate, developer pages that name real files."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

from deepmd_gnn import __version__

ROOT = Path(__file__).parents[2]


def test_the_version_is_stated_once():
    assert ProjectMetadata(str(ROOT), PluginManager()).version == __version__
    stated = re.findall(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert stated == [__version__]
    shown = re.findall(r"^Written by +deepmd-gnn ([^\s,]+)", (ROOT / "docs/cli.md").read_text(), re.MULTILINE)
    assert set(shown) == {__version__}


def test_the_changelog_has_this_version_below_an_unreleased_section():
    sections = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert "dev" in __version__ or sections[1] == __version__


def test_who_must_write_a_line_in_the_changelog():
    lacking = runpy.run_path(str(ROOT / ".ci/changelog_gate.py"))["lacking"]
    code = ["deepmd_gnn/nn/energy.py", "tests/config/test_config.py"]
    assert lacking(code, []) == ["deepmd_gnn/nn/energy.py"]
    assert lacking([*code, "CHANGELOG.md"], []) == []
    assert lacking(code, ["", "none"]) == []
    assert lacking(code, ["later"]) == ["deepmd_gnn/nn/energy.py"]
    assert lacking(["docs/index.md", "tests/deepmd_gnn/x.py"], []) == []


@pytest.mark.parametrize(("message", "passes"), [("Faster", False), ("Faster\n\nChangelog: none", True)])
def test_the_gate_reads_a_repository(message, passes, tmp_path):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]

    def git(*arguments):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-b", "main")
    git("commit", "--allow-empty", "-m", "Begin")
    git("checkout", "-b", "work")
    (tmp_path / "deepmd_gnn").mkdir()
    (tmp_path / "deepmd_gnn/mace.py").write_text("")
    git("add", ".")
    git("commit", "-m", message)
    gate = [sys.executable, str(ROOT / ".ci/changelog_gate.py")]
    done = subprocess.run(gate, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == passes, done.stderr
    if not passes:
        assert "deepmd_gnn/mace.py changed since main" in done.stderr
        assert "Changelog: none" in done.stderr


def test_upper_bounds_are_removed():
    relax = runpy.run_path(str(ROOT / ".ci/without_upper_bounds.py"))["without_upper_bounds"]
    found = relax(
        '  "a>=1,<2",\n  "b-c==2.11.*",\n  "d[e]~=1.2",\n  "f==0.4",\n  "g>=3; x == \'1\'",\n  "h>=1",\n'
    )
    expected = '  "a>=1",\n  "b-c>=2.11",\n  "d[e]>=1.2",\n  "f>=0.4",\n  "g>=3; x == \'1\'",\n  "h>=1",\n'
    assert found == expected
    kept = [line for line in relax((ROOT / "pyproject.toml").read_text()).splitlines() if "==2.11" in line]
    assert kept == []


def test_every_dependency_has_a_lower_bound():
    """The job with the oldest ones installs what is written, so that it must be meant."""
    requirements = ProjectMetadata(str(ROOT), PluginManager()).core
    texts = [*requirements.dependencies, *(t for e in requirements.optional_dependencies.values() for t in e)]
    bounds = ("==", ">=", "~=")
    unbounded = [
        text for text in texts if not text.startswith("deepmd-gnn[") and not any(b in text for b in bounds)
    ]
    assert unbounded == []


def rooms_of_page(text):
    """Files in the tables of the architecture page, by room: {"nn": ["linear.py", …]}; "" is the package's own folder."""
    rooms = {}
    for heading, body in re.findall(
        r"^### `(?:deepmd_gnn/|(\w+)/)`.*\n((?:(?!##).*\n)*)", text, re.MULTILINE
    ):
        rows = re.findall(r"^\| ((?:`[^`|]+`(?:, )?)+) \|", body, re.MULTILINE)
        rooms[heading] = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    return rooms


def test_the_architecture_page_has_every_file_once():
    rooms = rooms_of_page((ROOT / "docs/architecture.md").read_text())
    listed = [f"{room}/{name}".lstrip("/") for room, names in rooms.items() for name in names]
    package = ROOT / "deepmd_gnn"
    there = [
        path
        for suffix in ("py", "hpp")
        for path in package.rglob(f"*.{suffix}")
        if path.name != "__init__.py"
    ]
    assert sorted(listed) == sorted(str(path.relative_to(package)) for path in there)


def test_developer_pages_name_files_that_exist():
    """Paths in code spans, whole or from the package on; capitals stand for a name of the reader's choice."""
    missing = set()
    for page in ROOT.glob("docs/dev/**/*.md"):
        for path in re.findall(r"`((?:[\w.]+/)+[\w]+\.(?:py|hpp|yml|toml|md))`", page.read_text()):
            places = (ROOT / path, ROOT / "deepmd_gnn" / path, ROOT / "deepmd_gnn/kernels" / path)
            if not re.search(r"NAME|DEVICE", path) and not any(place.exists() for place in places):
                missing.add(f"{page.name}: {path}")
    assert sorted(missing) == []
