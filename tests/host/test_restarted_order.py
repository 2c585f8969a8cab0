"""A restart goes on with the optimiser, whose state is not put into another order of elements."""

import pytest
import torch
from helpers import tiny_model

from deepmd_gnn.host.checkpoint_files import check_order
from deepmd_gnn.native.conversion import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "m.pt"
    save_checkpoint(tiny_model(), path)
    return path


def test_another_order_is_refused_with_both(checkpoint):
    words = r"trained with type_map \['O', 'H'\], but the model section has \['H', 'O'\].*--init-model"
    with pytest.raises(ValueError, match=words):
        check_order(checkpoint, {"type": "mace", "type_map": ["H", "O"]})


def test_other_networks_are_compared_as_well(tmp_path):
    params = {"type": "nequip", "type_map": ["O", "H"]}
    torch.save({"model": {"_extra_state": {"model_params": params}}}, tmp_path / "n.pt")
    with pytest.raises(ValueError, match=r"nequip model: .*trained with type_map \['O', 'H'\]"):
        check_order(tmp_path / "n.pt", {"type": "nequip", "type_map": ["H", "O"]})


@pytest.mark.parametrize(
    "section",
    [
        {"type": "mace", "type_map": ["O", "H"]},
        {"type": "mace", "type_map": ["O", "C"]},  # refused elsewhere, as for every use of a checkpoint
        {"type": "dpa1", "type_map": ["H", "O"]},
        {"model_dict": {"new": {"type": "mace", "type_map": ["H", "O"]}}},
    ],
)
def test_other_sections_are_left_to_others(checkpoint, section):
    check_order(checkpoint, section)
