"""Run what a page of the documentation says: its files, commands, inputs and Python, in order, in a folder.

What a fence is, its kind tells:

- after a line "`name`:" a file of that name, of any kind;
- ``sh``: commands, one a line;
- ``console``: commands behind ``$``, and below each what it prints;
- ``python`` without a name: a program;
- ``lammps`` without a name: lines that take the place of their like in the last LAMMPS input;
- ``json``: parts of inputs, which test_examples.py checks;
- ``text``: output.
"""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from deepmd.main import main as dp
from deepmd_run import working_directory

from deepmd_gnn.cli import main as deepmd_gnn

ROOT = Path(__file__).parents[1]
KINDS = {"sh", "console", "python", "lammps", "json", "text", "xml", "c"}
_FENCE = re.compile(
    r"(?:^`(?P<name>[^`\n]+)`:\n\n)?^```(?P<kind>[^`\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
# The freeze that several pages have; test_documented.py runs it with docs/frozen_files.md.
FREEZE = "dp --pt-expt freeze -o mace.pt2"
_NUMBER = re.compile(r"[-+]?\d[\d,.]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One fence."""

    kind: str
    name: str | None
    text: str


def blocks(page):
    """All fences of a page."""
    return [Block(match["kind"], match["name"], match["text"]) for match in _FENCE.finditer(page.read_text())]


def pages():
    """All pages, by their path in the repository."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")]
    return {str(page.relative_to(ROOT)): page for page in found}


def commands(text):
    """Lines of a shell fence, without comments."""
    lines = [line.split("  #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def sessions(text):
    """Commands of a console fence, each with what it prints."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a console fence begins with a command"
    return [tuple(part.partition("\n")[::2]) for part in parts[1:]]


def is_runnable(block):
    return bool(block.name) or block.kind in ("sh", "console", "python", "lammps")


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


class PageRun:
    """A page that is run in a folder.

    Parameters
    ----------
    page : Path
        The Markdown file.
    folder : Path
        Has what the page takes for granted.
    shorten : dict
        Rules of :class:`Shortened` for files, commands and programs.
    skip : tuple of str
        Beginnings of commands that are tested elsewhere.
    before : dict
        Beginning of a command → a function that does what the page asks of the reader in words.
    script : str
        The LAMMPS input to which the page's lines belong if it has none of its own.
    names : dict
        What a program of the page takes for granted.
    frozen : Path
        A file that :data:`FREEZE` of this page leaves, to spare a minute of compilation.
    """

    def __init__(self, page, folder, shorten, skip=(), before=None, script=None, names=None, frozen=None):
        self.page, self.folder, self.skip = page, folder, tuple(skip)
        self.before, self.script, self.names = before or {}, script, names or {}
        self.frozen = frozen
        self.shorten, self.outputs, self.inputs = Shortened(shorten), {}, []

    def __call__(self):
        """Run all fences; returns the commands that were run and their outputs (of `dp` nothing)."""
        skipped = set()
        for block in blocks(self.page):
            text = self.shorten(block.text)
            if block.name:
                self._write(block, text)
            elif block.kind == "python":
                self._program(text)
            elif block.kind == "lammps":
                self.inputs.append(with_lines(self.script, text))
            for line, shown in self._commands(block, text):
                if line.startswith(self.skip):
                    skipped |= {beginning for beginning in self.skip if line.startswith(beginning)}
                    continue
                for beginning, function in self.before.items():
                    if line.startswith(beginning):
                        function(self.folder)
                self.outputs[line] = self._run_command(line, shown)
        self._run_inputs()
        self.shorten.check()
        assert skipped == set(self.skip), "the page has no such commands"
        return self.outputs

    @staticmethod
    def _commands(block, text):
        if block.name:
            return []
        if block.kind == "console":
            return sessions(text)
        return [(line, "") for line in _joined(commands(text))] if block.kind == "sh" else []

    def _write(self, block, text):
        (self.folder / block.name).write_text(text)
        if block.kind == "lammps":
            self.script = text

    def _program(self, text):
        if "lammps_library" in text:  # once MPI has started, this process can freeze no more
            subprocess.run([sys.executable, "-c", text], cwd=self.folder, check=True, timeout=300)
            return
        with working_directory(self.folder), contextlib.redirect_stdout(io.StringIO()):
            exec(compile(text, str(self.page), "exec"), {"__name__": "__documented__", **self.names})

    def _run_command(self, line, shown):
        if self.frozen is None or line != FREEZE:
            return run_command(line, self.folder, shown)
        assert (self.folder / "checkpoint").exists(), f"{line}: there is nothing to freeze"
        shutil.copy(self.frozen, self.folder / line.split()[-1])
        return ""

    def _run_inputs(self):
        """All inputs made of the page's lines in one process, to spare the start of LAMMPS."""
        if self.inputs:
            (self.folder / "in.lines").write_text("clear\n".join(self.inputs))
            run_command("lmp -in in.lines", self.folder)


def copy_example(name, root, frames=2):
    """Copy an example below a folder, with few frames of each of its systems."""
    folder = root / "examples" / name
    shutil.copytree(ROOT / "examples" / name, folder)
    for path in folder.glob("data/*/set.*/*.npy"):
        np.save(path, np.load(path)[:frames])
    return folder


def with_lines(script, lines):
    """A LAMMPS input with other lines: a pair style and coefficients in place of its own, others before the run."""
    if "pair_style" in lines:
        for word in ("pair_style", "pair_coeff"):
            if word in lines:
                script = re.sub(rf"^{word}\b.*\n", "", script, flags=re.MULTILINE)
        mark = "pair_coeff" if re.search(r"^pair_coeff", script, re.MULTILINE) else "run"
    else:
        mark = "run"
    before, word, after = re.split(rf"^({mark})\b", script, maxsplit=1, flags=re.MULTILINE)
    return before + lines + word + after


def _joined(lines):
    """Lines that set variables stay together with those that use them."""
    if any(re.match(r"(export )?\w+=", line) for line in lines):
        return ["\n".join(lines)]
    return lines


def run_command(line, folder, shown=""):
    """Run a command; `dp` and `deepmd-gnn` in this process, to spare their imports.

    Parameters
    ----------
    line : str
        For bash.
    folder : Path
        Where it runs.
    shown : str
        What the page shows of its output; nothing means that anything may come.
    """
    words = shlex.split(line)
    plain = not any(sign in line for sign in ("&", "|", ";", "\n", "$"))
    output = io.StringIO()
    if plain and words[0] == "dp":
        with working_directory(folder):
            dp([*words[1:], "--log-path", "dp.log"])
    elif plain and words[0] == "deepmd-gnn":
        with (
            working_directory(folder),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            status = deepmd_gnn(words[1:])
        assert status == ("deepmd-gnn: error:" in shown), f"{line}\n{output.getvalue()}"
    else:
        output.write(_in_shell(line, folder))
    if shown.strip():
        assert_like(output.getvalue(), shown, line)
    return output.getvalue()


def _in_shell(line, folder):
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    with patch.dict(os.environ, variables):
        done = subprocess.run(["bash", "-euc", line], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def _shape(line):
    """A line without its numbers, the size of files, what a machine's processor can do and how many layers a model has."""
    line = re.sub(r"^(Compiled for|.* and many \(program with exchange:).*", r"\1", line)
    line = _NUMBER.sub("#", line)
    line = " ".join(re.sub(r"# [kMG]?B\b", "# B", line).split())
    return re.sub(r"#( #)+", "#", line)


def assert_like(output, shown, what):
    """What a page shows is the output, or whole paragraphs of it, except for numbers."""
    expected = [_shape(line) for line in shown.strip().splitlines()]
    found = [_shape(line) for line in output.strip().splitlines()]
    assert expected[0] in found, f"{what}: {expected[0]!r} is not in\n{output}"
    begin = found.index(expected[0])
    end = begin + len(expected)
    assert found[begin:end] == expected, f"{what}: the page shows something else than\n{output}"
    assert not any(found[end : end + 1]), f"{what}: the page does not show the whole paragraph of\n{output}"
