"""The command `deepmd-gnn`: exit codes, help, and what it says about files that are no models."""

import argparse
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from deepmd_gnn import __version__
from deepmd_gnn.cli import build_parser, main


def run(capsys, *arguments):
    """Exit code, stdout and stderr."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def leaves(parser, name=()):
    """All commands with their parsers."""
    nested = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not nested:
        yield name, parser
    for action in nested:
        for key, child in action.choices.items():
            yield from leaves(child, (*name, key))


COMMANDS = dict(leaves(build_parser()))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_a_function(command, capsys):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert "deepmd-gnn " + " ".join(command) in out
    assert callable(COMMANDS[command].get_default("func"))


@pytest.mark.parametrize("command", [(), *COMMANDS], ids=" ".join)
def test_help_has_examples_that_parse(command, capsys):
    out = run(capsys, *command, "--help")[1]
    examples = [line.strip() for line in out.splitlines() if line.startswith("  deepmd-gnn ")]
    assert examples
    for example in examples:
        words = example.split("  ")[0].split()[1:]
        assert callable(build_parser().parse_args(words).func)


def test_documented_commands_parse():
    page = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    documented = re.findall(r"^\$ deepmd-gnn (.*)$", page, re.MULTILINE)
    assert {"info", "plot"} <= {line.split()[0] for line in documented}
    for line in documented:
        assert callable(build_parser().parse_args(line.split()).func)


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys\nfrom deepmd_gnn.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'deepmd', 'matplotlib', 'mace'} & set(sys.modules)\nassert not heavy, heavy"
    )
    for arguments in (["--help"], ["--version"], ["bench", "--help"], ["plot", "parity", "--help"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell, capsys):
    code, out, _ = run(capsys, "--print-completion", shell)
    assert code == 0
    assert all(name in out for name in ("bench", "check", "lcurve", "--structure"))


def test_module_runs():
    command = [sys.executable, "-m", "deepmd_gnn", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ)
    assert result.stdout.strip() == f"deepmd-gnn {__version__}"


@pytest.mark.parametrize("arguments", [["nothing"], ["info"], ["info", "a.pt", "--no-such-option"], ["plot"]])
def test_wrong_usage_exits_with_2(arguments, capsys):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert "usage:" in err
    assert out == ""


def test_without_a_command_it_helps(capsys):
    code, out, err = run(capsys)
    assert code == 0
    assert "commands:" in out
    assert err == ""


def test_completion_without_shtab_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("deepmd_gnn.cli.find_spec", lambda name: None)
    code, out, err = run(capsys, "--print-completion", "bash")
    assert code == 1
    assert "pip install shtab" in err
    assert out == ""


def bad_files():
    """Name → (writer, words of the message)."""

    def archive(*members, content="{}"):
        def write(path):
            with zipfile.ZipFile(path, "w") as file:
                for member in members:
                    file.writestr(member, content)

        return write

    def truncated(path):
        torch.save({"model": {}, "x": torch.zeros(1000)}, path)
        path.write_bytes(path.read_bytes()[:2000])

    def checkpoint(section, **state):
        extra = {"model_params": section, "train_infos": {"step": 1}}
        return lambda path: torch.save({"model": {"_extra_state": extra, **state}, "optimizer": {}}, path)

    def scripted(path):
        torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))

    mace = {"type": "mace", "type_map": ["O", "H"], "r_max": 4.0}
    return {
        "folder": (lambda path: path.mkdir(), "is a folder"),
        "missing": (lambda path: None, "no such file"),
        "empty": (lambda path: path.touch(), "is empty"),
        "text": (lambda path: path.write_text("step rmse\n"), "not a PyTorch archive"),
        "truncated": (truncated, "truncated"),
        "other zip": (archive("notes.txt"), "not a PyTorch one"),
        "broken checkpoint": (archive("m/data.pkl", "m/version"), "cannot be read"),
        "python objects": (lambda path: torch.save(torch.nn.Linear(1, 1), path), "Python objects"),
        "tensor": (lambda path: torch.save(torch.zeros(3), path), "not a checkpoint of `dp train`"),
        "state only": (lambda path: torch.save({"model": {"w": torch.zeros(3)}}, path), "no model section"),
        "no heads": (checkpoint({"model_dict": {}}), "(type: none)"),
        "broken section": (checkpoint("mace"), "cannot be read"),
        "other model": (checkpoint({"type": "dpa3", "type_map": ["O"]}), "no MACE or NequIP model (type: dpa3)"),
        "standard model": (checkpoint({"type_map": ["O"], "descriptor": {}}), "(type: standard)"),
        "without weights": (checkpoint(mace), "out_bias"),
        "unknown option": (
            checkpoint({**mace, "from_the_future": 1}, **{"model.Default.out_bias": torch.zeros(1, 2, 1)}),
            "another version of deepmd-gnn: mace model: unknown key 'from_the_future'",
        ),
        "other TorchScript": (scripted, "not a model frozen by `dp freeze`"),
        "other program": (archive("m/models/model.json"), "not one of `dp --pt-expt freeze`"),
        "broken program": (archive("m/models/model.json", "m/extra/metadata.json", "m/extra/model.json"), "no MACE or NequIP model"),
        "not JSON": (archive("m/models/model.json", "m/extra/metadata.json", content="{"), "cannot be read"),
    }  # fmt: skip


@pytest.mark.parametrize("name", bad_files())
def test_info_on_what_is_no_model(name, tmp_path, capsys):
    """Exit code 1 and one line that names the file and what was found."""
    path = tmp_path / "file.pt"
    write, words = bad_files()[name]
    write(path)
    code, out, err = run(capsys, "info", path)
    assert code == 1
    assert out == ""
    message = err.strip().splitlines()[-1]
    assert message.startswith("deepmd-gnn: error: ")
    assert str(path) in message
    assert words in message
