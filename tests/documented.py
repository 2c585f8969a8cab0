"""Run what a page of the documentation says: its files, commands and Python, in order, in a folder.

A fence after a line "`name`:" is a file of that name. ``sh`` fences are commands, ``python`` fences without a name are
programs. Everything else is output.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from deepmd.main import main as dp
from deepmd_run import working_directory

from deepmd_gnn.cli import main as deepmd_gnn

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(
    r"(?:^`(?P<name>[^`\n]+)`:\n\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fence."""

    kind: str
    name: str | None
    text: str


def blocks(page):
    """All fences of a page."""
    return [Block(match["kind"], match["name"], match["text"]) for match in _FENCE.finditer(page.read_text())]


def commands(text):
    """Lines of a shell fence, without comments."""
    lines = [line.split("  #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def is_runnable(block):
    return bool(block.name) or block.kind in ("sh", "python")


class Shortened:
    """Replaces numbers so that a page runs in seconds; every rule must have been of use at the end."""

    def __init__(self, rules):
        self.rules = [(re.compile(pattern, re.MULTILINE), new) for pattern, new in rules.items()]
        self.used = set()

    def __call__(self, text):
        for pattern, new in self.rules:
            text, count = pattern.subn(new, text)
            if count:
                self.used.add(pattern.pattern)
        return text

    def check(self):
        unused = {pattern.pattern for pattern, _ in self.rules} - self.used
        assert not unused, f"nothing to shorten with {unused}: the page has changed"


def run_page(page, folder, shorten, skip=()):
    """Run a page in a folder.

    Parameters
    ----------
    page : Path
        The Markdown file.
    folder : Path
        Has what the page takes for granted.
    shorten : Shortened
        Applied to files, commands and programs.
    skip : tuple of str
        Beginnings of commands that are tested elsewhere.

    Returns
    -------
    list of str
        The commands that were run.
    """
    done = []
    for block in blocks(page):
        text = shorten(block.text)
        if block.name:
            (folder / block.name).write_text(text)
        elif block.kind == "python":
            with working_directory(folder), contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, str(page), "exec"), {"__name__": "__documented__"})
        elif block.kind == "sh":
            for line in _joined(commands(text)):
                if not line.startswith(skip):
                    run_command(line, folder)
                    done.append(line)
    return done


def _joined(lines):
    """Lines that set variables stay together with those that use them."""
    if any(re.match(r"(export )?\w+=", line) for line in lines):
        return ["\n".join(lines)]
    return lines


def run_command(line, folder):
    """Run a command; `dp` and `deepmd-gnn` in this process, to spare their imports."""
    words = shlex.split(line)
    plain = not any(sign in line for sign in ("&", "|", ";", "\n", "$"))
    if plain and words[0] == "dp":
        with working_directory(folder):
            dp([*words[1:], "--log-path", "dp.log"])
    elif plain and words[0] == "deepmd-gnn":
        with working_directory(folder), contextlib.redirect_stdout(io.StringIO()):
            assert deepmd_gnn(words[1:]) == 0, line
    else:
        variables = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        with patch.dict(os.environ, variables):
            done = subprocess.run(
                ["bash", "-euc", line], cwd=folder, capture_output=True, text=True, timeout=300
            )
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
