"""Generated pages are up to date, links between pages lead somewhere, and commands in a line of text have the right words.

The commands in fences are run by tests/system/test_documented.py and test_documented_runs.py.
"""

import argparse
import ast
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
from documented import pages

ROOT = Path(__file__).parents[2]


def test_parameters_page_is_current():
    made = runpy.run_path(str(ROOT / "docs/make_parameters.py"))
    assert (ROOT / "docs/parameters.md").read_text() == made["page"](), "run python docs/make_parameters.py"
    nequip = (ROOT / "docs/nequip.md").read_text()
    assert nequip == made["nequip_page"](nequip), "run python docs/make_parameters.py"


# What stands for a value in a message.
HOLE = "\0"


def said(node):
    """Text of an expression, with holes where values are; None if it is no text."""
    if isinstance(node, ast.Constant):
        return re.sub(r"%[\d.]*[sdfg]", HOLE, node.value) if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [said(node.left), said(node.right)]
        return None if parts == [None, None] else "".join(HOLE if part is None else part for part in parts)
    return None


def of_any_model(text):
    """The text with MACE in place of a type of model, or of its title, that is a value."""
    return re.sub(f"^{HOLE} ", "MACE ", re.sub(f"^{HOLE} model:", "mace model:", text))


def nodes():
    """All nodes of the package's syntax trees."""
    for path in ROOT.glob("deepmd_gnn/**/*.py"):
        yield from ast.walk(ast.parse(path.read_text()))


def documented_messages():
    """First columns of the tables, as patterns: dots stand for values."""
    page = (ROOT / "docs/troubleshooting.md").read_text()
    for row in re.findall(r"^\| (.*?) \|", page, re.MULTILINE):
        for message in re.findall(r"`([^`]+)`", row):
            parts = [part.strip(" '") for part in message.split("…")]
            yield message, re.compile(".*".join(re.escape(part) for part in parts if part), re.DOTALL)


def test_documented_messages_exist():
    """What the troubleshooting page says in the name of this package is a message of its code, from begin to end."""
    texts = {of_any_model(text) for text in map(said, nodes()) if text}
    begins = ("mace model:", "MACE ", "deepmd-gnn", "was ", "is ", "holds ")
    ours = [(message, shape) for message, shape in documented_messages() if message.startswith(begins)]
    assert len(ours) > 70
    assert [message for message, shape in ours if not any(map(shape.search, texts))] == []


# Messages to programmers, or about what no user does.
INTERNAL = (
    "communication tensors need exactly one frame",
    "ghost atoms need a mapping",
    "embeddings need eval mode",
    "uncertainties need eval mode",
    "no case embedding",
    "no generated kernels",
    f"evaluation is {HOLE}",  # an argument in Python
    f"cpu is {HOLE}",  # the same; the command says it first
    "generated kernels exist inside a",
    "failed: no such layer",
    "a graph has mode",
    "a graph of mode",
    "no model of type",  # nothing of a user's says which
    f"this file {HOLE}",  # and then what is documented as "was written by"
)


def test_every_message_about_input_is_documented():
    """All that begin with "mace model:", and all about files of models."""
    shapes = [shape for message, shape in documented_messages() if len(message) > 8]
    found, missing = 0, []
    for node in nodes():
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
            continue
        text = said(node.exc.args[0])
        name = getattr(node.exc.func, "id", "")
        text = None if text is None else of_any_model(text)
        if text is None or not (
            name == "ModelFileError" or text.startswith(("mace model:", "nequip model:"))
        ):
            continue
        bare = re.sub(rf"mace model:|[{HOLE} :().]", "", text)
        if not bare or any(words in text for words in INTERNAL):  # another message, handed on
            continue
        found += 1
        if not any(shape.search(text) for shape in shapes):
            missing.append(text)
    assert missing == []
    assert found > 60


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


def test_lists_for_assistants_lead_somewhere():
    """Pages that AGENTS.md and llms.txt name exist, and the latter has every page for users."""
    for page in re.findall(r"`(docs/[\w/.]+)`", (ROOT / "AGENTS.md").read_text()):
        assert (ROOT / page).exists(), page
    listed = set(re.findall(r"\]\(([\w/.]+)\)", (ROOT / "docs/llms.txt").read_text()))
    written = {page.name for page in ROOT.glob("docs/*.md")}
    others = {"index.md", "architecture.md", "api.md", "contributing.md", "changelog.md", "security.md"}
    assert listed == written - others


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


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "README.md"])
def test_targets_of_make_exist(page):
    """``make -n`` says what it would do, or that there is no such target."""
    targets = re.findall(r"^make ([\w-]+)", (ROOT / page).read_text(), re.MULTILINE)
    assert targets
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_markers_and_folders_of_contributing_exist(pytestconfig):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    markers = {line.split(":")[0] for line in pytestconfig.getini("markers")}
    for expression in re.findall(r'-m "([^"]+)"', text):
        assert set(re.findall(r"\w+", expression)) - {"not", "and"} <= markers
    for path in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def options_of(script):
    """Options of a script's parser, from its syntax tree: to import it would take seconds."""
    calls = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call)]
    adds = [call for call in calls if getattr(call.func, "attr", "") == "add_argument"]
    return {part.value for call in adds for part in call.args if isinstance(part, ast.Constant)}


def test_benchmarks_that_pages_name_have_these_options():
    """performance.md, training.md and others: the scripts are there, and know the options."""
    found = 0
    for source in pages().values():
        for script, rest in re.findall(r"python (benchmarks/\w+\.py)((?:\s+[^\s`#]+)*)", source.read_text()):
            options = set(re.findall(r"(?<!\S)--[\w-]+", rest))
            assert options <= options_of(ROOT / script), f"{source.name}: {script}"
            found += 1
    assert found > 4
