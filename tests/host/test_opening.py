"""Files of our own open without alarms of torch and of the host."""

import logging

import pytest
import torch
from deepmd.infer import DeepPot
from helpers import tiny_model

from deepmd_gnn.files.torch_fixes import opening_directly
from deepmd_gnn.host.opening import without_alarm
from deepmd_gnn.native.conversion import save_checkpoint


def test_checkpoint_lacks_nothing(tmp_path, caplog):
    save_checkpoint(tiny_model(), tmp_path / "m.pt")
    with caplog.at_level(logging.WARNING):
        DeepPot(str(tmp_path / "m.pt"))
    assert "missing keys" not in caplog.text


def test_exported_program_of_another_name(tmp_path, caplog, recwarn):
    program = torch.export.export(torch.nn.Linear(2, 1), (torch.zeros(3, 2),))
    torch.export.save(program, tmp_path / "m.pt2")
    path = (tmp_path / "m.pt2").rename(tmp_path / "m.pte")
    caplog.clear()
    load = torch.export.load
    with opening_directly():
        loaded = torch.export.load(path)
    assert torch.export.load is load
    assert not caplog.records
    assert not [one for one in recwarn if "not writable" in str(one.message)]
    assert loaded.module()(torch.ones(3, 2)).shape == (3, 1)


def test_other_files_are_left_to_the_host(tmp_path):
    load = torch.export.load
    (tmp_path / "m.pte").touch()
    assert without_alarm(lambda path: torch.export.load)(str(tmp_path / "m.pte")) is load


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".pt2", ".pte"])
def test_frozen_files(suffix, model_files, caplog):
    with caplog.at_level(logging.WARNING):
        DeepPot(str(model_files(suffix)["two_layers"]))
    assert "outdated" not in caplog.text
    assert "Unable to load" not in caplog.text
