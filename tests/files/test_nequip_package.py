"""Files of the package nequip 0.6 as plain data."""

import shutil

import pytest
import torch
from documented import ROOT

from deepmd_gnn.files.native_file import NotConvertible
from deepmd_gnn.files.nequip_package import NAME, UNREADABLE, plain_settings, read_package_file, weights_of

DATA = ROOT / "tests/data/nequip/files"


@pytest.mark.parametrize(("name", "kind"), [("trained", "weights"), ("deployed.pth", "deployed")])
def test_content(name, kind):
    file = read_package_file(DATA / name)
    assert (file.kind, file.config["r_max"], file.config["type_names"]) == (kind, 4.0, ["H", "O"])
    assert file.state["model.model.func.radial_basis.basis.bessel_weights"].shape == (4,)
    assert (
        file.config["train_idcs"] == UNREADABLE
    )  # a tensor, which the package writes as an object of Python


def test_what_is_missing(tmp_path):
    folder = shutil.copytree(DATA / "trained", tmp_path / "training")
    (folder / "config.yaml").rename(tmp_path / "kept.yaml")
    with pytest.raises(NotConvertible, match=r"no config.yaml is beside it.*give the folder"):
        read_package_file(folder / "best_model.pth")
    assert read_package_file(folder) is None
    (tmp_path / "kept.yaml").rename(folder / "config.yaml")
    (folder / "best_model.pth").unlink()
    with pytest.raises(NotConvertible, match=r"no best_model.pth: train it with nequip 0.6 first"):
        weights_of(folder)


def test_something_else(tmp_path):
    """Weights in another wrapping, and a damaged archive."""
    folder = shutil.copytree(DATA / "trained", tmp_path / "training")
    state = torch.load(folder / "best_model.pth", weights_only=True)
    torch.save({"model": state}, folder / "best_model.pth")
    with pytest.raises(NotConvertible, match=f"is no best_model.pth of {NAME}"):
        read_package_file(folder)
    (tmp_path / "half.pth").write_bytes((DATA / "deployed.pth").read_bytes()[:9000])
    assert read_package_file(tmp_path / "half.pth") is None


def test_settings_that_repeat_each_other(tmp_path):
    lists = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 50)}]\n" for n in range(1, 9)
    )
    found = plain_settings(tmp_path, f"{lists}b: &b [*b]\nc: {{1: yes, ? [1] : 2}}\nd: .inf\n".encode())
    assert len(found["a3"]) == 50
    assert found["c"] == {"1": True}
    for text in (b"[1]", b"a: [", b"\xff", b"a: *none"):
        with pytest.raises(NotConvertible, match="configuration cannot be read as YAML"):
            plain_settings(tmp_path, text)
