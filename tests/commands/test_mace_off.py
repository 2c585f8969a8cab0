"""``deepmd-gnn mace-off``, the command of the other plugin: its documented call, here on a file that is there."""

import pytest
import torch
from documented import ROOT

from deepmd_gnn.cli import main
from deepmd_gnn.commands.mace_off import _NAMES
from deepmd_gnn.native import catalogue

MODEL = ROOT / "tests/data/v0.3.6_mace02_com1_swa.model"


def test_convert_a_file(tmp_path, capsys):
    output = tmp_path / "mace_off23_small_dp.pt"
    assert main(["mace-off", "convert", str(output), "--model-path", str(MODEL), "--sel", "64"]) == 0
    assert "is a checkpoint, to train on. For LAMMPS" in capsys.readouterr().err
    section = torch.load(output, weights_only=True)["model"]["_extra_state"]["model_params"]
    assert (section["sel"], section["type_map"]) == (64, ["H", "C", "O"])


def test_published_models(tmp_path, capsys, monkeypatch):
    """Downloading is tested with the catalogue."""
    asked = []
    monkeypatch.setattr(catalogue, "fetch", lambda name: asked.append(name) or MODEL)
    call = ["mace-off", "convert", str(tmp_path / "x.pt"), "--model", "off23_small", "--sel", "64"]
    assert main([*call, "--cache-dir", str(tmp_path / "kept")]) == 0
    assert main(["mace-off", "download", "--model", "small", "--cache-dir", str(tmp_path / "kept")]) == 0
    assert asked == ["mace-off:small"]  # the second time it is in the folder
    kept = capsys.readouterr().out.splitlines()[-1]
    assert (tmp_path / "kept" / "MACE-OFF23_small.model").samefile(kept)
    assert main(["mace-off", "download", "--model", "off24_medium"]) == 1
    assert "give --model-path FILE" in capsys.readouterr().err


def test_cache_folder(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["mace-off", "cache-dir"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'mace'}\n"


def test_sel_is_required(tmp_path):
    with pytest.raises(SystemExit):
        main(["mace-off", "convert", str(tmp_path / "x.pt"), "--model", "small"])


def test_names_are_known_to_mace_torch():
    assert {f"mace-off:{name}" for name in _NAMES.values()} <= {entry.name for entry in catalogue.entries()}
