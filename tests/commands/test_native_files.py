"""`deepmd-gnn convert` and `info` tell where a converted model is from, what a native file holds, and what comes next."""

import hashlib
import json
from pathlib import Path

import pytest

from deepmd_gnn.cli import main

DATA = Path(__file__).parents[1] / "data"
MODEL = "v0.3.6_mace02_com1_swa.model"


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_provenance(suffix, tmp_path, capsys):
    output = tmp_path / f"w{suffix}"
    assert main(["convert", str(DATA / MODEL), "-o", str(output)]) == 0
    digest = hashlib.sha256((DATA / MODEL).read_bytes()).hexdigest()
    captured = capsys.readouterr()
    assert f"from {MODEL}, head Default, sha256 {digest}" in captured.out
    assert f"next: deepmd-gnn check {output}" in captured.out
    assert "number of threads" not in captured.err
    assert main(["info", str(output), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["source"] == {"file": MODEL, "sha256": digest, "head": "Default"}
    assert {".pt": "dp --pt-expt freeze -c w.pt", ".pth": "pair_coeff * * H C O"}[suffix] in summary["next"]


@pytest.mark.parametrize(
    "name", [MODEL, "v0.3.6_mace01_swa_compiled.model", "v0.2.0_model_run-1234_swa.model"]
)
def test_info_describes_native_files(name, capsys):
    assert main(["info", str(DATA / name), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["convertible"]
    assert summary["type_map"] == ["H", "C", "O"]
    assert summary["next"].startswith(f"deepmd-gnn convert {name}")
    assert main(["info", str(DATA / name)]) == 0
    assert "model of native MACE (ScaleShiftMACE)" in capsys.readouterr().out
