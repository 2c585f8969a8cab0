"""`deepmd-gnn check` and `deepmd-gnn bench` on real files."""

import json

import pytest
from deepmd_run import working_directory
from helpers import random_frame, tiny_model
from lammps_cases import STRONG, freeze

from deepmd_gnn.cli import main
from deepmd_gnn.tools.structures import Structure

pytestmark = pytest.mark.usefixtures("preloaded")


@pytest.fixture(scope="module")
def water(tmp_path_factory):
    """A structure of a user, in a folder and a file with unusual names."""
    coord, types, cell = random_frame(24, 7.0, seed=5)
    path = tmp_path_factory.mktemp("my strucüre") / "the last one.data"
    Structure(coord, types, cell, ["O", "H"], "").write_lammps_data(path)
    return path


@pytest.mark.lammps
def test_check_passes(model_files, water, capsys):
    file = model_files(".pth")["two_layers"]
    assert main(["check", str(file), "-s", str(water), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["passed"]
    assert answer["natoms"] == 24
    assert len(answer["checks"]) == 10
    assert all(check["passed"] for check in answer["checks"])
    assert all(0 < check["deviation"] < check["limit"] for check in answer["checks"])


def test_check_finds_that_a_block_jumps_at_the_cutoff(tmp_path, capsys):
    """Native MACE's attentive block does so; the other checks of this file pass."""
    jumping = {"interaction": "RealAgnosticAttResidual", "apply_cutoff": True}
    freeze(tiny_model(**STRONG, **jumping), tmp_path / "m.pth")
    assert main(["check", str(tmp_path / "m.pth"), "--ranks", "0"]) == 1
    out = capsys.readouterr().out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("FAIL")] == [
        "forces",
        "virial",
        "smoothness",
    ]
    assert "apply_cutoff: true with these blocks" in out
    assert "not run ranks        --ranks 0" in out
    assert out.splitlines()[-1] == "6 passed, 3 failed, 1 not run"


@pytest.mark.lammps
def test_bench(model_files, water, tmp_path, capsys):
    """Every file gets its rows; what cannot be run says why."""
    file = model_files(".pth")["two_layers"]
    checkpoint = tmp_path / "model.ckpt.pt"
    from deepmd_gnn.native.conversion import save_checkpoint

    save_checkpoint(tiny_model(), checkpoint)
    command = ["bench", str(file), str(checkpoint), "-s", str(water), "--steps", "4", "--timestep", "0.1"]
    with working_directory(tmp_path):
        assert main([*command, "--ranks", "1", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["with"] for row in rows] == ["Python", "LAMMPS, 1 rank", "LAMMPS, 2 ranks"] * 2
    for row in rows[:4]:
        assert row["natoms"] == 24
        assert row["seconds"] > 0
        assert row["memory_mb"] > 100
        assert row["ns_per_day"] == pytest.approx(86400 / row["seconds"] * 1e-7)
    assert all(row["not_run"] == "LAMMPS runs .pth and .pt2, not .pt" for row in rows[4:])


@pytest.mark.lammps
def test_bench_reports_a_run_that_fails(model_files, tmp_path, capsys):
    """Two atoms in one place: Python and LAMMPS both say so, and the exit code is 1."""
    coord, types, cell = random_frame(6, 6.0)
    coord[1] = coord[0]
    Structure(coord, types, cell, ["O", "H"], "").write_lammps_data(tmp_path / "a.data")
    file = model_files(".pth")["two_layers"]
    assert main(["bench", str(file), "-s", str(tmp_path / "a.data"), "--steps", "1"]) == 1
    out = capsys.readouterr().out
    assert out.count("failed: ") == 2
    assert "two atoms are at the same place" in out


def test_bad_input(model_files, capsys):
    file = str(model_files(".pth")["two_layers"])
    for command, words in (
        (["check", "nothing.pth"], "no such file"),
        (["check", file, "-s", "nothing.cif"], "nothing.cif: no such file"),
        (["check", file, "--head", "water"], "no branch 'water'"),
        (["bench", file, "--steps", "0"], "--steps"),
    ):
        assert main(command) == 1
        assert words in capsys.readouterr().err
