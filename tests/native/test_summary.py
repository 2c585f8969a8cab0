"""What is said of a native file is what the model made of it has."""

import pytest
import torch
from native_models import native

from deepmd_gnn import load_mace
from deepmd_gnn.native.summary import native_lines, summarise_native


def test_heads_and_energies(tmp_path):
    torch.save(native(heads=["pbe", "r2scan"]), tmp_path / "x.model")
    summary = summarise_native(tmp_path / "x.model")
    assert summary["heads"] == ["pbe", "r2scan"]
    for head in summary["heads"]:
        model = load_mace(tmp_path / "x.model", head=head)
        assert list(summary["atomic_energies"][head].values()) == pytest.approx(
            model.out_bias.flatten().tolist()
        )
    assert summary["r_max"] == model.rcut
    assert summary["next"].endswith("-o x.pt2 --head pbe")
    assert native_lines(summary)["Heads"] == "pbe r2scan"


def test_other_files(tmp_path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "x.pt")
    assert summarise_native(tmp_path / "x.pt") is None
    assert summarise_native(tmp_path / "nothing.pt") is None
