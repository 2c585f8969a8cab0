"""Generated pages are up to date, links between pages lead somewhere, and commands in a line of text have the right words.

The commands in fences are run by tests/system/test_documented.py and test_documented_runs.py.
"""

import argparse
import ast
import re
import runpy
import shlex
from pathlib import Path

import pytest
from documented import pages

ROOT = Path(__file__).parents[2]


def test_parameters_page_is_current():
    page = runpy.run_path(str(ROOT / "docs/make_parameters.py"))["page"]
    assert (ROOT / "docs/parameters.md").read_text() == page(), "run python docs/make_parameters.py"


def test_documented_messages_exist():
    """What the troubleshooting page says in the name of this package is what its code says."""
    source = "".join(path.read_text() for path in ROOT.glob("deepmd_gnn/**/*.py"))
    # Neighbouring literals are one text; what stands in braces or behind % depends on the input.
    source = re.sub(r"[\"']\s*\n\s*f?[\"']", "", source)
    page = (ROOT / "docs/troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    ours = [
        message
        for message in messages
        if message.startswith(("mace model:", "deepmd-gnn", "was ", "is ", "holds "))
    ]
    assert len(ours) > 15
    for message in ours:
        parts = [part.strip(" '") for part in message.split("…")]
        for part in filter(None, parts):
            assert part in source, f"{message}: the code does not say {part!r}"


# Messages to programmers, or about what no user does.
INTERNAL = (
    "communication tensors need exactly one frame",
    "ghost atoms need a mapping",
    "embeddings need eval mode",
    "no case embedding",
    "no generated kernels",
    "evaluation is ",  # an argument in Python
    "generated kernels exist inside a",
    "failed: no such layer",
    "a graph has mode",
    "a graph of mode",
    "no model of type",  # nothing of a user's says which
    "this file ",  # and then what is documented as "was written by"
)


def raised_messages():
    """Texts of all exceptions, their literal parts in order, with the name of the exception."""
    for path in ROOT.glob("deepmd_gnn/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                constants = [
                    part.value for part in ast.walk(node.exc.args[0]) if isinstance(part, ast.Constant)
                ]
                name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
                yield name, [text for text in constants if isinstance(text, str)]


def test_every_message_about_input_is_documented():
    """All that begin with "mace model:", and all about files of models."""
    page = (ROOT / "docs/troubleshooting.md").read_text()
    found, missing = 0, []
    for name, parts in raised_messages():
        if name != "ModelFileError" and "mace model:" not in "".join(parts[:1]):
            continue
        # A part is words enough to search for, without what quotes a value.
        texts = [text for part in parts for text in part.split("{}")]
        words = [text.replace("mace model:", "").strip(" :;.,'\"()") for text in texts]
        words = [part for part in words if len(part) >= 8]
        if not words or any(part.startswith(text.strip()) for part in words for text in INTERNAL):
            continue
        found += 1
        if not any(part[:25] in page for part in words):
            missing.append(parts)
    assert not missing
    assert found > 30


def test_links_lead_somewhere():
    for source in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", source.read_text()):
            if "://" not in target:
                assert (source.parent / target).exists(), f"{source.relative_to(ROOT)} links to {target}"


def inline_commands():
    """Whole commands in running text: no ellipsis, no words in capitals that stand for others."""
    for source in pages().values():
        if source.name == "CHANGELOG.md":
            continue
        text = re.sub(r"^```.*?^```", "", source.read_text(), flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`((?:dp|deepmd-gnn) [^`]+)`", text):
            if not re.search(r"--print-completion|…|\.\.\.|\[|\b[A-Z]{3,}\b", span):
                yield pytest.param(span, id=f"{source.relative_to(ROOT)}: {span}")


@pytest.mark.parametrize("command", list(inline_commands()))
def test_commands_in_the_text_have_the_right_words(command):
    """Subcommands and options exist. Words that a sentence leaves out (`dp --pt freeze`) are no mistake."""
    from deepmd.main import main_parser

    from deepmd_gnn.cli import build_parser

    program, *words = shlex.split(command)
    parser = build_parser() if program == "deepmd-gnn" else main_parser()
    options = set(parser._option_string_actions)
    plain = [word for word in words if not word.startswith("-")]
    for word in plain:
        nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not nested:
            break
        assert word in nested[0].choices, f"{program} has no command {word}"
        parser = nested[0].choices[word]
        options |= set(parser._option_string_actions)
    assert {word for word in words if word.startswith("-") and len(word) > 1} <= options


def test_commands_of_contributing_exist():
    """CONTRIBUTING.md and README.md: targets of make, folders of tests and markers."""
    makefile = (ROOT / "Makefile").read_text()
    for page in ("CONTRIBUTING.md", "README.md"):
        for target in re.findall(r"^make (\w+)", (ROOT / page).read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"
    text = (ROOT / "CONTRIBUTING.md").read_text()
    markers = re.search(
        r"^markers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )[1]
    for expression in re.findall(r'-m "([^"]+)"', text):
        assert all(
            f'"{name}:' in markers for name in re.findall(r"\w+", expression) if name not in ("not", "and")
        )
    for folder in re.findall(r"\btests/\w+\b(?!\.)", text):
        assert (ROOT / folder).is_dir() or folder in ("tests/documented", "tests/tolerances")


def test_benchmarks_that_pages_name_have_these_options():
    """performance.md, training.md and others: the scripts are there, and know the options."""
    found = 0
    for source in pages().values():
        for script, rest in re.findall(r"python (benchmarks/\w+\.py)((?:\s+[^\s`#]+)*)", source.read_text()):
            code = (ROOT / script).read_text()
            for option in re.findall(r"(?<!\S)--[\w-]+", rest):
                assert f'"{option}"' in code, f"{source.name}: {script} has no {option}"
            found += 1
    assert found > 4
