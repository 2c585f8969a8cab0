"""Output files: whole or absent, and nothing else than files is written."""

import logging
import os
import stat

import pytest
import torch
from helpers import tiny_model

from deepmd_gnn import convert, export_native
from deepmd_gnn.cli import main
from deepmd_gnn.files.whole_file import host_file, whole_file
from deepmd_gnn.native.conversion import save_checkpoint


def write(path, text="new"):
    with whole_file(path) as unfinished:
        unfinished.write_text(text)


def test_the_host_logs_the_final_name(tmp_path, caplog):
    log = logging.getLogger("deepmd.pt_expt.entrypoints.main")
    with caplog.at_level(logging.INFO), host_file(tmp_path / "m.pt2") as unfinished:
        unfinished.write_text("x")
        log.warning("Requested lower_kind=%r is being OVERRIDDEN", "nlist")
        log.info("Saved frozen model to %s (lower_kind=%s)", unfinished, "graph")
    assert caplog.messages == [f"Saved frozen model to {tmp_path / 'm.pt2'} (lower_kind=graph)"]
    assert not log.filters


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_are_kept(mode, tmp_path):
    path = tmp_path / "m.pt"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_new_files_follow_the_mask(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "m.pt")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m.pt").stat().st_mode) == 0o640


@pytest.mark.parametrize("exists", [True, False])
def test_links_stay_links(exists, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "real.pt", tmp_path / "link.pt"
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["real.pt"]


def test_devices_pipes_and_folders_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="mace model: cannot write .*not a file"):
            write(path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@pytest.mark.parametrize("mode", [0o444, 0o644])
def test_write_protected_files_are_refused(mode, tmp_path, monkeypatch):
    """For root, too, if nobody may write."""
    path = tmp_path / "m.pt"
    path.write_text("old")
    path.chmod(mode)
    monkeypatch.setattr(os, "access", lambda *arguments: mode == 0o444)
    with pytest.raises(PermissionError, match="write-protected"):
        write(path)
    assert path.read_text() == "old"


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "x.pt"
    save_checkpoint(tiny_model(), path)
    return path


@pytest.mark.parametrize("command", ["export", "convert", "freeze"])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "link"])
def test_output_is_the_input(command, linked, checkpoint, tmp_path, capsys):
    source = tmp_path / {"export": "x.model", "convert": "y.pt", "freeze": "x.pth"}[command]
    checkpoint.rename(source)
    before = source.read_bytes()
    output = source
    if linked:
        output = tmp_path / f"link{source.suffix}"
        output.symlink_to(source)
    assert main([command, str(source), "-o", str(output)]) == 1
    assert "is the input" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_architecture_is_the_output(checkpoint, tmp_path):
    with pytest.raises(ValueError, match="is the input"):
        convert(tmp_path / "weights.pt", checkpoint, architecture=checkpoint)


def test_a_training_is_no_output_of_convert(checkpoint, tmp_path, capsys):
    """What convert wrote itself is replaced, also with an input beside it that the user has changed, which stays."""
    export_native(checkpoint, tmp_path / "x.model")
    command = ["convert", str(tmp_path / "x.model"), "-o"]
    output, input_file = tmp_path / "y.pt", tmp_path / "y.json"
    for _ in range(2):
        assert main([*command, str(output)]) == 0
        input_file.write_text("mine")
    assert input_file.read_text() == "mine"
    trained = torch.load(output)
    torch.save({**trained, "optimizer": {"state": {}, "param_groups": []}}, output)
    for path in (output, checkpoint):
        before = path.read_bytes()
        assert main([*command, str(path)]) == 1
        assert f"{path}: is there already, and not what" in capsys.readouterr().err
        assert path.read_bytes() == before


def test_export_over_another_native_model(checkpoint, tmp_path):
    (tmp_path / "foundation.model").write_text("published")
    with pytest.raises(ValueError, match=r"foundation.model: is there already"):
        export_native(checkpoint, tmp_path / "foundation.model")
    assert (tmp_path / "foundation.model").read_text() == "published"


def cut_short(path, *_, **__):
    """A writer that is stopped half-way."""
    with open(path, "w") as file:
        file.write("half")
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("backend", "name"), [("dpmodel", "x.dp"), ("dpmodel", "x.yaml"), ("pytorch", "x.pth")]
)
def test_converted_backends_are_whole_or_absent(backend, name, tmp_path, monkeypatch):
    """Only of our models; ``dp convert-backend`` asks for the signature."""
    from deepmd.backend.dpmodel import DPModelBackend
    from deepmd.backend.pytorch import PyTorchBackend

    module = {"dpmodel": "deepmd.dpmodel.utils.serialization.save_dp_model",
              "pytorch": "deepmd.pt.utils.serialization.deserialize_to_file"}[backend]  # fmt: skip
    monkeypatch.setattr(module, cut_short)
    hook = {"dpmodel": DPModelBackend, "pytorch": PyTorchBackend}[backend]().deserialize_hook
    path = tmp_path / name
    path.write_text("whole")
    with pytest.raises(KeyboardInterrupt):
        hook(str(path), {"model": {"type": "mace"}})
    assert path.read_text() == "whole"
    with pytest.raises(KeyboardInterrupt):
        hook(str(path), {"model": {"type": "standard"}})
    assert path.read_text() == "half"


def test_changed_biases_are_whole_or_absent(checkpoint, tmp_path, monkeypatch):
    """Also under the host's own name for them, and of the kind of file that is read."""
    from argparse import Namespace

    from deepmd.backend.pytorch import PyTorchBackend

    def main_of_host(flags):
        cut_short(flags.output or flags.INPUT.replace(".pt", "_updated.pt"))

    monkeypatch.setattr("deepmd.pt.entrypoints.main.main", main_of_host)
    run = PyTorchBackend().entry_point_hook
    before = checkpoint.read_bytes()
    for output in (None, str(checkpoint)):
        with pytest.raises(KeyboardInterrupt):
            run(Namespace(command="change-bias", INPUT=str(checkpoint), output=output))
    assert checkpoint.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]
    with pytest.raises(ValueError, match=r"y.pth does not end in .pt"):
        run(Namespace(command="change-bias", INPUT=str(checkpoint), output=str(tmp_path / "y.pth")))


@pytest.mark.parametrize("name", ["x.pt", "x.pth", "x", "x.MODEL.gz"])
def test_export_to_another_suffix(name, checkpoint, tmp_path):
    before = checkpoint.read_bytes()
    with pytest.raises(ValueError, match=r"must end in \.model"):
        export_native(checkpoint, tmp_path / name)
    assert checkpoint.read_bytes() == before
    assert "optimizer" in torch.load(checkpoint)
