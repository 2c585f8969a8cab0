"""`deepmd-gnn doctor`: each line is ok or says what to do."""

import json

import pytest

from deepmd_gnn.cli import main
from deepmd_gnn.commands import doctor
from deepmd_gnn.tools import machine


@pytest.fixture
def without_programs(monkeypatch):
    """Neither LAMMPS, which takes seconds to start, nor a compiler is asked."""
    monkeypatch.setattr(
        machine, "lammps", lambda: [machine.Finding("LAMMPS", None, "lmp was not found", "x")]
    )
    monkeypatch.setattr(doctor, "_kernels", list)


def test_lines(without_programs, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("DP_PLUGIN_PATH", raising=False)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok    packages" in out
    assert "-     LAMMPS" in out


def test_what_is_wrong_says_what_to_do(without_programs, capsys, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("DP_PLUGIN_PATH", "/somewhere.so")
    assert main(["doctor", "--json"]) == 1
    wrong = {one["name"]: one["advice"] for one in json.loads(capsys.readouterr().out) if one["ok"] is False}
    assert "export OMP_NUM_THREADS" in wrong["threads"]
    assert "unset DP_PLUGIN_PATH" in wrong["plugin"]
