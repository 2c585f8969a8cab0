"""Files of the other plugin deepmd-gnn are told from ours, and read as plain data; who wrote damaged ones is not guessed."""

import torch
from documented import ROOT
from helpers import tiny_model

from deepmd_gnn.files.archives import opened
from deepmd_gnn.files.plugin_file import read_plugin_file
from deepmd_gnn.files.plugin_marks import plugin_kind
from deepmd_gnn.native.conversion import save_checkpoint

DATA = ROOT / "tests/data/plugin"


def test_content():
    file = read_plugin_file(DATA / "0.2.0_mm.pth")
    assert (file.kind, file.type, list(file.models)) == ("pth", "mace", ["Default"])
    model = file.models["Default"]
    assert (model.type_map, model.sel, model.section["sel"]) == (["O", "H", "OW", "HW"], 20, 20)
    assert model.module.name == "ScaleShiftMACE"
    checkpoint = read_plugin_file(DATA / "0.1.4_mm.pt").models["Default"]
    ours = {name: tensor.shape for name, tensor in checkpoint.module.named_tensors()}
    theirs = {name: tensor.shape for name, tensor in model.module.named_tensors()}
    assert ours == {name: shape for name, shape in theirs.items() if name in ours}
    assert len(ours) > 50


def test_own_files_are_not_taken_for_its(tmp_path):
    save_checkpoint(tiny_model(), tmp_path / "own.pt")
    torch.jit.script(tiny_model()).save(tmp_path / "own.pth")
    for path in [
        tmp_path / "own.pt",
        tmp_path / "own.pth",
        *ROOT.glob("tests/data/versions/*/model.pt"),
        *ROOT.glob("tests/data/versions/*/model.pth"),
    ]:
        with opened(path) as archive:
            assert plugin_kind(archive) is None, path
        assert read_plugin_file(path) is None


def test_other_files(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"no archive")
    assert read_plugin_file(tmp_path / "x.pt") is None
    assert read_plugin_file(tmp_path / "missing.pt") is None
