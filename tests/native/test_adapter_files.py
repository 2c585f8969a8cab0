"""Adapters alone, and the model that they make with their foundation."""

import pytest
import torch
from helpers import tiny_model

from deepmd_gnn.mace import MaceModel
from deepmd_gnn.native.adapter_files import put_on, take_out
from deepmd_gnn.native.conversion import model_section, save_checkpoint
from deepmd_gnn.native.writer import load_checkpoint


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A foundation, and a checkpoint whose adapters and E0 have changed."""
    root = tmp_path_factory.mktemp("adapters")
    model = tiny_model(seed=3)
    save_checkpoint(model, root / "foundation.pt")
    section = {**model_section(model), "adapters": {"rank": 2, "parts": ["interactions", "readouts"]}}
    trained = MaceModel.deserialize({**model.serialize(), **section})
    trained.adapters.has_weights = True
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for right in trained.adapters.right.values():
            right.copy_(torch.randn(right.shape, generator=generator))
        trained.out_bias.add_(1.5)
    save_checkpoint(trained.eval(), root / "trained.pt")
    return root


def test_round_trip(files, tmp_path):
    """The same numbers, bit for bit, in a checkpoint with whole weights; the file of adapters has no weights of the network."""
    take_out(files / "trained.pt", tmp_path / "a.pt")
    tensors = torch.load(tmp_path / "a.pt", weights_only=True)["adapters"]
    assert {name.split(".")[0] for name in tensors} == {"left", "right"}
    put_on(tmp_path / "a.pt", files / "foundation.pt", tmp_path / "b.pt")
    made, trained = load_checkpoint(tmp_path / "b.pt"), load_checkpoint(files / "trained.pt")
    assert made.adapters is None
    assert torch.equal(made.out_bias, trained.out_bias)
    foundation = load_checkpoint(files / "foundation.pt")
    changed = 0
    for (name, weight), other, before in zip(
        made.energy_model.named_parameters(),
        trained.energy_model.parameters(),
        foundation.energy_model.parameters(),
        strict=True,
    ):
        assert torch.equal(weight, other), name
        changed += not torch.equal(weight, before)
    assert changed == len(trained.adapters.blocks)


def test_refused(files, tmp_path):
    with pytest.raises(ValueError, match="has no adapters"):
        take_out(files / "foundation.pt", tmp_path / "a.pt")
    take_out(files / "trained.pt", tmp_path / "a.pt")
    save_checkpoint(tiny_model(seed=4), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="was trained on other weights than those of .*other.pt"):
        put_on(tmp_path / "a.pt", tmp_path / "other.pt", tmp_path / "b.pt")
    with pytest.raises(ValueError, match="is no file of adapters"):
        put_on(files / "trained.pt", files / "foundation.pt", tmp_path / "b.pt")
