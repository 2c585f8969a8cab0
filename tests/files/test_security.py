"""SECURITY.md, line by line: what reading each kind of file runs, and what refuses to be run."""

import io
import json
import pickle
import shutil
import time
import zipfile
from pathlib import Path

import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import run_dp, working_directory
from helpers import tiny_model
from lammps_cases import freeze

from deepmd_gnn.cli import main
from deepmd_gnn.files.backend_guard import check_file
from deepmd_gnn.native.conversion import save_checkpoint


class Touch:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Overwriting(torch.nn.Module):
    """A program that overwrites a file when it is asked for its description."""

    versions: dict[str, str]

    def __init__(self):
        super().__init__()
        self.versions = {"a": "b"}
        self.model_def_script = "{}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def get_model_def_script(self) -> str:
        content = torch.from_file("victim.txt", True, 8, dtype=torch.uint8).fill_(88)
        return "{}" if int(content.sum()) > 0 else ""  # TorchScript leaves out what nobody reads


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim.txt"
    with working_directory(tmp_path):
        yield path


def run(command, path, *options):
    suffix = {"export": ".model", "freeze": ".pth", "convert": ".pt"}.get(command)
    output = ["-o", str(path.with_name(f"out{suffix}"))] if suffix else []
    return main([command, str(path), *output, *options])


@pytest.fixture(scope="module")
def files(tmp_path_factory, model_files):
    """A model file of every kind but `.pt2`."""
    folder = tmp_path_factory.mktemp("files")
    model = tiny_model()
    save_checkpoint(model, folder / "m.pt")
    freeze(model, folder / "m.pth")
    shutil.copy(model_files(".pte")["one_layer"], folder / "m.pte")
    return folder


def rewritten(source, target, change):
    """A copy of an archive with other members; `change` gets and returns name and content."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))
    return target


# --- .pth --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["info", "freeze", "export", "convert"])
def test_looking_at_a_pth_runs_nothing(command, victim):
    path = victim.with_name("x.pth")
    torch.jit.save(torch.jit.script(Overwriting()), path)
    victim.write_text("my data\n")
    assert run(command, path) == 1
    assert victim.read_text() == "my data\n"


@pytest.mark.parametrize("command", ["check", "bench"])
def test_what_is_no_model_is_not_run_either(command, victim):
    path = victim.with_name("x.pth")
    torch.jit.save(torch.jit.script(Overwriting()), path)
    victim.write_text("my data\n")
    assert run(command, path, "--ranks", "0") == 1
    assert victim.read_text() == "my data\n"


def test_deepmd_runs_the_program_of_a_pth(victim):
    """The warning in SECURITY.md is no exaggeration, and the tests above can fail."""
    path = victim.with_name("x.pth")
    torch.jit.save(torch.jit.script(Overwriting()), path)
    victim.write_text("my data\n")
    with pytest.raises(Exception, match="get_rcut"):
        DeepPot(str(path))
    assert victim.read_text() == "XXXXXXXX"


@pytest.mark.parametrize("command", ["check", "bench"])
def test_help_says_what_runs_the_model(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "Runs the program in the file" in " ".join(capsys.readouterr().out.split())


# --- .pt ---------------------------------------------------------------------------------------------------------


def test_freezing_runs_no_objects_of_a_checkpoint(victim, files):
    """DeePMD-kit unpickles a checkpoint to tell its kind, before it reads it with care."""
    content = torch.load(files / "m.pt")
    torch.save({**content, "optimizer": Touch(victim)}, "x.pt")
    with pytest.raises(ValueError, match="Python objects"):
        run_dp(victim.parent, "freeze", None, "-c", "x.pt", "-o", "x.pth")
    assert not victim.exists()
    assert not Path("x.pth").exists()


def test_a_pickle_in_front_of_an_archive(victim, files):
    """Torch goes by the beginning of a file, zipfile by its end."""
    stream = io.BytesIO()
    pickle.dump(Touch(victim), stream)
    Path("x.pt").write_bytes(stream.getvalue() + (files / "m.pt").read_bytes())
    for command in ("info", "freeze", "export", "check"):
        assert run(command, victim.with_name("x.pt")) == 1
    with pytest.raises(ValueError, match="not a PyTorch archive"):
        run_dp(victim.parent, "freeze", None, "-c", "x.pt", "-o", "x.pth")
    assert not victim.exists()


def test_options_that_do_not_fit_the_weights(tmp_path, files, capsys):
    """They would decide how much memory a program asks for."""
    content = torch.load(files / "m.pt")
    section = content["model"]["_extra_state"]["model_params"]
    section["hidden_irreps"] = "30000x0e"
    torch.save(content, tmp_path / "x.pt")
    for command in ("info", "freeze", "export", "check", "bench"):
        assert run(command, tmp_path / "x.pt") == 1
        assert "do not fit its weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"), [("gate", "tanh"), ("r_max", 5.5), ("type_map", ["H", "O"]), ("num_cutoff_basis", 9)]
)
def test_options_that_contradict_those_beside_the_weights(option, value, tmp_path, files, capsys):
    """Options that are in no shape."""
    content = torch.load(files / "m.pt")
    content["model"]["_extra_state"]["model_params"][option] = value
    torch.save(content, tmp_path / "x.pt")
    for command in ("info", "freeze"):
        assert run(command, tmp_path / "x.pt") == 1
        assert f"do not fit its weights ('{option}' is {value!r}" in capsys.readouterr().err


def test_a_type_that_is_no_name(tmp_path, files, capsys):
    content = torch.load(files / "m.pt")
    content["model"]["_extra_state"]["model_params"]["type"] = ["mace"]
    torch.save(content, tmp_path / "x.pt")
    assert run("info", tmp_path / "x.pt") == 1
    assert "holds no MACE or NequIP model" in capsys.readouterr().err


def test_control_characters_are_not_printed(tmp_path, files, capsys):
    """A terminal would obey them."""
    content = torch.load(files / "m.pt")
    content["model"]["_extra_state"]["model_params"]["info"] = {"versions": {"torch": "2\x1b[2J"}}
    torch.save(content, tmp_path / "x.pt")
    assert run("info", tmp_path / "x.pt") == 0
    content["model"]["_extra_state"]["model_params"]["\x1b[2J"] = 1
    torch.save(content, tmp_path / "x.pt")
    assert run("info", tmp_path / "x.pt") == 1
    captured = capsys.readouterr()
    assert "2?[2J" in captured.out
    assert "\x1b" not in captured.out + captured.err


# --- .pte and .pt2 -----------------------------------------------------------------------------------------------


def with_pickle(source, target, trap, table):
    stream = io.BytesIO()
    torch.save(Touch(trap), stream)

    def change(name, data):
        if table and name.endswith("_weights_config.json"):
            content = json.loads(data)
            next(iter(content["config"].values()))["use_pickle"] = True
            data = json.dumps(content)
        elif (table and name.endswith("weights/weight_0")) or (
            not table and name.endswith("sample_inputs/model.pt")
        ):
            data = stream.getvalue()
        return name, data

    return rewritten(source, target, change)


@pytest.mark.parametrize("table", [True, False], ids=["weights", "sample inputs"])
def test_exported_programs_with_pickles_are_refused(table, victim, files, capsys):
    path = with_pickle(files / "m.pte", victim.with_name("x.pte"), victim, table)
    for command in ("info", "check", "bench"):
        assert run(command, path) == 1
        assert "x.pte: is refused: " in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"mace model: .*x\.pte: is refused"):
        DeepPot(str(path))
    assert not victim.exists()


def test_pickles_in_exported_programs_would_run(victim, files):
    path = with_pickle(files / "m.pte", victim.with_name("x.pte"), victim, True)
    with pytest.raises(Exception, match=r".*"):
        torch.export.load(path)
    assert victim.exists()


def test_members_outside_the_folder(tmp_path, files, capsys):
    """Torch unpacks a `.pt2` into a temporary folder, names with `..` wherever they lead."""

    def change(name, data):
        place = name.replace("models/model.json", "data/aotinductor/model/../../../../x.so")
        return place, data

    path = rewritten(files / "m.pte", tmp_path / "x.pt2", change)
    for command in ("info", "check", "bench"):
        assert run(command, path) == 1
        assert "would be unpacked outside its folder" in capsys.readouterr().err
    with pytest.raises(ValueError, match="would be unpacked outside"):
        DeepPot(str(path))


def test_nested_programs_are_looked_at(tmp_path, files):
    with zipfile.ZipFile(tmp_path / "inner.pt2", "w") as file:
        file.writestr("../x", b"")
    path = tmp_path / "x.pt2"
    path.write_bytes((files / "m.pte").read_bytes())
    with zipfile.ZipFile(path, "a") as file:
        file.write(tmp_path / "inner.pt2", "model/extra/forward_lower_with_comm.pt2")
    with pytest.raises(ValueError, match="forward_lower_with_comm.pt2: is refused"):
        check_file(path)


DESCRIPTIONS = {
    "deep": "[" * 100_000,
    "a list": "[1, 2]",
    "null": "null",
    "a number": '{"model": 3}',
    "names of types": '{"model": {"type": "mace", "type_map": "OH"}}',
    "variables": '{"model": {"type": "mace", "type_map": ["O"], "r_max": 4.0, "@variables": [1]}}',
}


@pytest.mark.parametrize("table", ["[]", "{}", '{"config": {"a": "b"}}', "[" * 100_000, "\udcff"])
def test_tables_that_are_none(table, tmp_path, files):
    """Not with Python's words for it."""

    def change(name, data):
        text = table.encode(errors="surrogateescape")
        return name, text if name.endswith("_weights_config.json") else data

    path = rewritten(files / "m.pte", tmp_path / "x.pte", change)
    with pytest.raises(ValueError, match=r"mace model: .*x\.pte: is damaged: .*no table of tensors"):
        check_file(path)


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_that_describe_nothing(name, tmp_path, capsys):
    path = tmp_path / "x.pt2"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data/aotinductor/model/x.so", b"")
        file.writestr("m/extra/metadata.json", "{}")
        file.writestr("m/extra/model.json", DESCRIPTIONS[name])
    assert run("info", path) == 1
    message = capsys.readouterr().err
    assert "damaged" in message
    assert not any(words in message for words in ("iterable", "has no attribute", "dictionary update"))


def test_files_under_the_name_of_another_kind(tmp_path, files, capsys):
    """DeePMD-kit goes by the name; torch then speaks of corrupted files."""
    path = tmp_path / "x.pth"
    path.write_bytes((files / "m.pt").read_bytes())
    assert run("check", path) == 1
    assert (
        "is a checkpoint (.pt), but DeePMD-kit goes by the name. Rename it to x.pt."
        in capsys.readouterr().err
    )


def test_programs_that_torch_cannot_load(tmp_path, files, capsys):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(files / "m.pth") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if "/code/" not in name:
                new.writestr(name, old.read(name))
    assert run("check", path) == 1
    assert "torch cannot load it (Unknown type name" in capsys.readouterr().err


# --- native files ------------------------------------------------------------------------------------------------


def test_shared_modules_are_visited_once(tmp_path, capsys):
    """Thirty levels of two children that are one: a billion modules in 2 kB."""

    class ScaleShiftMACE(torch.nn.Module):
        pass

    globals()["ScaleShiftMACE"] = ScaleShiftMACE
    ScaleShiftMACE.__qualname__ = "ScaleShiftMACE"
    model = torch.nn.Module()
    for _ in range(30):
        parent = torch.nn.Module()
        parent.a = parent.b = model
        model = parent
    top = ScaleShiftMACE()
    top.interactions = model
    torch.save(top, tmp_path / "x.model")
    begin = time.monotonic()
    assert run("convert", tmp_path / "x.model") == 1
    assert time.monotonic() - begin < 5
    assert "has no part" in capsys.readouterr().err


# --- whatever the suffix -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pt", "pth", "pte"])
def test_bombs_are_refused(kind, tmp_path, files, capsys):
    path = tmp_path / f"x.{kind}"
    path.write_bytes((files / f"m.{kind}").read_bytes())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/more", bytes(2**28))
    for command in ("info", "check", "bench", "export", "convert", "freeze"):
        assert run(command, path) == 1
        assert "unpack to" in capsys.readouterr().err
    with pytest.raises(ValueError, match="unpack to"):
        DeepPot(str(path))


@pytest.mark.parametrize("kind", ["pt", "pth", "pte"])
def test_damage_is_noticed_whatever_reads_the_file(kind, tmp_path, files, capsys):
    """One bit of a weight: torch and DeePMD-kit read another number."""
    path = tmp_path / f"x.{kind}"
    with zipfile.ZipFile(files / f"m.{kind}") as archive:
        largest = max(
            (i for i in archive.infolist() if "/data/" in i.filename and i.file_size > 100),
            key=lambda i: i.file_size if "weight" in i.filename or "data/" in i.filename else 0,
        )
        content = archive.read(largest)
    data = bytearray((files / f"m.{kind}").read_bytes())
    data[data.index(content) + len(content) // 2] ^= 4
    path.write_bytes(data)
    for command in ("info", "check", "bench", "export", "convert", "freeze"):
        assert run(command, path) == 1
        assert "is damaged: " in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"mace model: .* is damaged: "):
        DeepPot(str(path))
    with working_directory(tmp_path), pytest.raises(ValueError, match=r"is damaged: "):
        run_dp(tmp_path, "freeze", None, "-c", str(path), "-o", "y.pth")
