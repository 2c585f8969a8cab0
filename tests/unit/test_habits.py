"""Habits of the project: one version, declared dependencies, the changelog gate, developer pages that name real files."""

import re
import runpy
import subprocess
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
