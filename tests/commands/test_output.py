"""What the commands ask of the rest and what they print, without models: results are made up."""

import argparse
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from deepmd_gnn.commands import bench, check, convert, freeze, info, plot
from deepmd_gnn.commands.parsers import add_command, add_json_argument, add_structure_arguments
from deepmd_gnn.tools.checks import Results
from deepmd_gnn.tools.lammps import LammpsError, Programs, Speed

MODEL = {
    "head": None, "type": "mace", "type_map": ["O", "H"], "r_max": 4.0, "precision": "float64", "architecture": None
}  # fmt: skip


def parsed(command, *words):
    """Arguments of a command, as the main parser hands them over."""
    parser = argparse.ArgumentParser()
    command.add_parsers(parser.add_subparsers(required=True))
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(autouse=True)
def _no_files(monkeypatch):
    """Every file holds this model, and LAMMPS is not installed."""
    monkeypatch.setattr("deepmd_gnn.files.summary.summarise", lambda path: {"models": [MODEL], "kind": "pt"})
    monkeypatch.setattr("deepmd_gnn.tools.lammps.find_programs", lambda: Programs(None, None))


@pytest.fixture
def stand_in(monkeypatch):
    """Put functions in the place of a module that would import torch."""
    return lambda module, **functions: monkeypatch.setitem(
        sys.modules, f"deepmd_gnn.{module}", SimpleNamespace(**functions)
    )


# --- parsers ----------------------------------------------------------------------------------------------------


def test_arguments_that_commands_share():
    subparsers = argparse.ArgumentParser().add_subparsers()
    parser = add_command(subparsers, "look", "look at it", "examples:\n  look   here\n", "Look at it.")
    add_structure_arguments(parser)
    add_json_argument(parser)
    assert parser.format_help().endswith("examples:\n  look   here\n")  # lines as they are
    found = vars(parser.parse_args([]))
    assert found == {"structure": None, "frame": 0, "types": None, "head": None, "json": False}
    words = ["-s", "a.cif", "--frame", "2", "--types", "O", "H", "--head", "water", "--json"]
    found = parser.parse_args(words)
    assert (str(found.structure), found.frame, found.types) == ("a.cif", 2, ["O", "H"])
    assert (found.head, found.json) == ("water", True)


# --- check ------------------------------------------------------------------------------------------------------


def tethered(structure):
    """Σ |x|² / 2: the derivatives are right, but the energy depends on where the atoms are."""
    x = structure.coord
    virial = -x[:, :, None] * x[:, None, :]
    energy = 0.5 * np.square(x).sum(axis=1)
    return Results(float(energy.sum()), -x, virial.sum(axis=0), energy, virial)


def test_checks_that_fail_are_counted(monkeypatch, capsys):
    monkeypatch.setattr("deepmd_gnn.tools.evaluation.load_evaluation", lambda file, head: tethered)
    assert check.run(parsed(check, "check", "m.pth")) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("m.pth, float64, on ")
    words = {line.split()[1]: line for line in lines if line.startswith(("pass", "FAIL", "not run "))}
    assert words["forces"].startswith("pass    forces")
    assert words["translation"].startswith("FAIL    translation")
    assert "not run ranks        lmp was not found" in "\n".join(lines)
    outcomes = [line.split()[0] for line in lines if line.startswith(("pass", "FAIL"))]
    failed = outcomes.count("FAIL")
    assert lines[-1] == f"{outcomes.count('pass')} passed, {failed} failed, 1 not run"
    assert check.run(parsed(check, "check", "m.pth", "--json", "--ranks", "0")) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["passed"]
    assert sum(one["passed"] is False for one in answer["checks"]) == failed
    assert answer["checks"][-1]["reason"] == "--ranks 0"


# --- bench ------------------------------------------------------------------------------------------------------


def test_speeds_are_those_of_the_measured_time(monkeypatch, capsys):
    monkeypatch.setattr(bench, "_in_python", lambda *arguments: {"seconds": 0.5, "memory_mb": 100.0})
    words = ["bench", "m.pth", "--timestep", "2.0", "--ranks", "0", "3", "--replicate", "1", "1", "2"]
    assert bench.run(parsed(bench, *words, "--json")) == 0
    python, lammps = json.loads(capsys.readouterr().out)
    # 2 fs every half second, in ns per day.
    assert python["ns_per_day"] == pytest.approx(2e-6 * 2 * 86400)
    assert python["atom_steps_per_second"] == python["natoms"] / 0.5
    assert (lammps["with"], lammps["not_run"]) == ("LAMMPS, 3 ranks", "lmp was not found")
    assert "seconds" not in lammps
    assert bench.run(parsed(bench, *words)) == 0
    header, _, titles, first, second = capsys.readouterr().out.splitlines()
    assert header.startswith(f"{python['natoms']} atoms: ")
    rate = f"{python['natoms'] / 0.5:.4g}"
    assert titles.split()[:4] == ["file", "with", "s/step", "ns/day"]
    assert first.split() == ["m.pth", "Python", "0.5", "0.346", rate, "100"]
    assert second.endswith("not run: lmp was not found")


@pytest.mark.parametrize("fails", [True, False])
def test_lammps_gets_the_settings(fails, monkeypatch, capsys):
    asked = {}

    def speed(file, structure, ranks, folder, programs, **settings):
        asked.update(settings, ranks=ranks)
        if fails:
            raise LammpsError("LAMMPS on 1 rank(s) ended with 1: lost atoms")
        return Speed(0.25, 50.0)

    monkeypatch.setattr(bench, "_in_python", lambda *arguments: {"seconds": 0.5, "memory_mb": 100.0})
    monkeypatch.setattr("deepmd_gnn.tools.lammps.find_programs", lambda: Programs("lmp", None))
    monkeypatch.setattr("deepmd_gnn.tools.lammps.speed", speed)
    code = bench.run(parsed(bench, "bench", "m.pth", "--steps", "7", "--temperature", "20", "--json"))
    assert code == int(fails)
    # Atoms that were made up do not move.
    assert asked == {"steps": 7, "timestep": 1e-9, "temperature": 20.0, "ranks": 1}
    row = json.loads(capsys.readouterr().out)[1]
    assert row.get("error", "").endswith("lost atoms") == fails
    assert row.get("seconds") == (None if fails else 0.25)


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--timestep", "-1"], ["--ranks", "1", "-2"]])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="must be above 0"):
        bench.run(parsed(bench, "bench", "m.pth", *wrong))


# --- convert, export and freeze ---------------------------------------------------------------------------------


def test_converting_gets_what_was_asked_for(stand_in, monkeypatch, capsys):
    calls = []

    def convert_file(*arguments, **options):
        calls.append((arguments, options))
        return SimpleNamespace(type_map=["H", "O"], rcut=4.5, config=SimpleNamespace(precision="float32"))

    stand_in("native.conversion", convert=convert_file)
    source = {"file": "a.model", "head": "x", "sha256": "12ab"}
    stand_in("files.summary", summarise=lambda path: {"source": source, "training": None, "next": "lmp"})
    words = [
        "convert",
        "a.model",
        "-o",
        "b.pth",
        "--elements",
        "H, O",
        "--head",
        "x",
        "--sel",
        "9",
        "--trust",
    ]
    assert convert.run_convert(parsed(convert, *words)) == 0
    expected = (
        ("a.model", Path("b.pth"), "x", ["H", "O"], None, 9),
        {"trust": True, "architecture": None, "cpu": None},
    )
    assert calls == [expected]
    assert capsys.readouterr().out == (
        "a.model -> b.pth: elements H O, cutoff 4.5 Å, float32\nfrom a.model, head x, sha256 12ab\n"
        "next: deepmd-gnn check b.pth\n      lmp\n"
    )
    exported = []
    stand_in("native.writer", export_native=lambda *arguments: exported.append(arguments))
    assert convert.run_export(parsed(convert, "export", "a.pt", "-o", "b.model", "--branch", "w")) == 0
    assert exported == [("a.pt", "b.model", "w")]


@pytest.mark.parametrize(
    ("options", "evaluation", "cpu"),
    [([], "kernels", None), (["--no-kernels"], "tables", None), (["--no-tables"], "networks", None),
     (["--no-kernels", "--no-tables"], "networks", None), (["--cpu", "x86-64-v3"], "kernels", "x86-64-v3")],
)  # fmt: skip
def test_freezing_with_a_choice_of_evaluation(options, evaluation, cpu, stand_in, tmp_path, capsys):
    calls = []
    stand_in("host.freeze", freeze=lambda *arguments: calls.append(arguments))
    words = ["freeze", tmp_path / "a.pt", "-o", tmp_path / "b.pt2", "--head", "w", *options]
    assert freeze.run(parsed(freeze, *words)) == 0
    assert calls == [(tmp_path / "a.pt", tmp_path / "b.pt2", "w", evaluation, cpu)]
    assert capsys.readouterr().out == f"{tmp_path / 'a.pt'} -> {tmp_path / 'b.pt2'}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.pt", "-o", "b.pb"], r"b.pb: the output must be named .pth, .pt2 or .pte"),
        (["a.pt", "-o", "b.pth", "--no-tables"], r"b.pth: --no-tables is for a .pt2; a .pth has no tables"),
        (["a.pt", "-o", "b.pte", "--no-kernels"], r"--no-kernels is for a .pt2; a .pte has no kernels"),
        (
            ["a.pt", "-o", "b.pth", "--cpu", "generic"],
            r"b.pth: --cpu is for a .pt2; other files are not compiled",
        ),
        (
            ["a.pt", "-o", "b.pt2", "--cpu", "haswell"],
            r"--cpu is 'haswell'; it must be one of native, generic, x86-64-v3, x86",
        ),
    ],
)
def test_freezes_that_cannot_be(words, message, stand_in):
    stand_in("host.freeze", freeze=None)
    with pytest.raises(ValueError, match=message):
        freeze.run(parsed(freeze, "freeze", *words))


def test_frozen_files_are_not_frozen_again(stand_in, monkeypatch):
    stand_in("host.freeze", freeze=None)
    frozen = {"kind": "pth", "kind_name": "frozen model (.pth)"}
    monkeypatch.setattr("deepmd_gnn.files.summary.summarise", lambda path: frozen)
    with pytest.raises(ValueError, match=r"a.pth: is a frozen model \(.pth\), not a checkpoint; `dp convert"):
        freeze.run(parsed(freeze, "freeze", "a.pth", "-o", "b.pte"))


# --- info -------------------------------------------------------------------------------------------------------


def described(**changes):
    summary = {
        "file": "m.pt", "size_bytes": 1_234_567, "kind_name": "checkpoint (.pt)", "evaluation": "Python",
        "lammps": "no", "atomic_virial": True, "compiled_for": {}, "versions": None, "training": None,
        "radial_tables": None, "warnings": [], "source": None, "next": "dp --pt freeze",
        "models": [{**MODEL, "parameters": 12345, "avg_num_neighbors": 8.0, "scale": 1.5, "pair_exclude_types": [],
                    "atom_exclude_types": [], "atomic_energies": {"O": -5.0, "H": -1.25}}],
    }  # fmt: skip
    return summary | changes


def shown(summary, monkeypatch, capsys):
    """Lines by their names."""
    monkeypatch.setattr(info, "summarise", lambda path: summary)
    assert info.run(parsed(info, "info", "m.pt")) == 0
    text = capsys.readouterr().out
    return dict(line.strip().split("  ", 1) for line in text.splitlines() if "  " in line.strip()), text


def test_numbers_of_a_file(monkeypatch, capsys):
    lines, _ = shown(described(), monkeypatch, capsys)
    assert lines["File"].strip() == "m.pt (1.23 MB)"
    assert lines["Parameters"].strip() == "12,345"
    assert lines["E0"].strip() == "O -5.000000 eV, H -1.250000 eV"
    assert lines["Written by"].strip() == lines["Architecture"].strip() == "not recorded"
    tables = [{"nodes": 100, "error": 1e-7}, {"nodes": 50, "error": 3e-7}]
    training = {"step": 500, "optimizer": False, "ema_decay": 0.999}
    lines, _ = shown(described(size_bytes=12, radial_tables=tables, training=training), monkeypatch, capsys)
    assert lines["File"].strip() == "m.pt (12 B)"
    assert lines["Radial tables"].strip() == "100, 50 distances, largest relative error 3.0e-07"
    assert lines["Training step"].strip() == "500 done"
    assert lines["Restart"].strip() == "no: without optimiser state"
    assert lines["EMA"].strip() == "decay 0.999"


def test_options_that_differ_from_the_default(monkeypatch, capsys):
    from deepmd_gnn.config.mace import MaceConfig

    config = MaceConfig(num_interactions=3, correlation=[3, 2, 1], keep_last_layer_irreps=True).to_dict()
    model = {**described()["models"][0], "architecture": config, "pair_exclude_types": [["O", "H"]]}
    lines, text = shown(described(models=[model]), monkeypatch, capsys)
    assert lines["Layers"].strip().startswith("3: ")
    assert lines["Correlation"].strip() == "3 2 1"
    assert "keep_last_layer_irreps: True" in lines["Other options"]
    assert "use_so3" not in text
    assert lines["Excluded pairs"].strip() == "O–H"


def test_names_of_strangers_do_not_reach_the_terminal(monkeypatch, capsys):
    """It obeys control characters."""
    _, text = shown(described(file="\x1b[31m.pt", warnings=["a\rb"]), monkeypatch, capsys)
    assert "\x1b" not in text
    assert "\r" not in text
    assert "?[31m.pt" in text


# --- plot -------------------------------------------------------------------------------------------------------


def test_figures_are_of_the_kind_of_their_name(tmp_path, capsys):
    (tmp_path / "lcurve.out").write_text("#  step rmse_e_trn lr\n 0 1.0 1e-3\n 1 0.5 5e-4\n")
    command = ["plot", "lcurve", tmp_path / "lcurve.out", "-o"]
    for name, start in (("a.png", b"\x89PNG"), ("a.PDF", b"%PDF")):
        assert plot.run_lcurve(parsed(plot, *command, tmp_path / name)) == 0
        assert (tmp_path / name).read_bytes().startswith(start)
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    with pytest.raises(ValueError, match=r"a\.txt' must end in one of \.png, \.svg, \.pdf"):
        plot.run_lcurve(parsed(plot, *command, tmp_path / "a.txt"))
    assert not (tmp_path / "a.txt").exists()


def test_rows_without_reference_are_counted(tmp_path, capsys):
    """Energies of which one is no label; forces and virials are all there."""
    numbers = np.random.default_rng(0).normal(size=(3, 18))
    for suffix, width in (("e_peratom", 1), ("f", 3), ("v_peratom", 9)):
        rows = numbers[:, : 2 * width].copy()
        rows[1, :width] *= suffix != "e_peratom"
        np.savetxt(tmp_path / f"test.{suffix}.out", rows, header="data: data_e pred_e")
    command = parsed(plot, "plot", "parity", tmp_path / "test", "-o", tmp_path / "a.svg")
    assert plot.run_parity(command) == 0
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    expected = "deepmd-gnn: energy: 1 rows without reference are left out\n"
    assert capsys.readouterr().err == expected
