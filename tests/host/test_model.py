"""What a model of the host has whatever its network, and what the host's code needs of options."""

import ast
import json

import pytest
import torch
from helpers import TINY
from toy_network import ToyConfig, ToyModel

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.host import model as host_model
from deepmd_gnn.host.protocol import Options


def model_of(type_map=("O", "H"), **options):
    return ToyModel(list(type_map), **{"avg_num_neighbors": 8.0, "scale": 1.3, **options}).eval()


# --- options ----------------------------------------------------------------------------------------------------


def promised():
    return {name for name in vars(Options) if not name.startswith("_")}


@pytest.mark.parametrize(
    "options",
    [ToyConfig(), MaceConfig(**{k: v for k, v in TINY.items() if k not in ("type", "type_map")})],
    ids=["toy", "mace"],
)
def test_options_make_the_same_options(options):
    assert promised() <= set(dir(options))
    again = type(options)(**json.loads(json.dumps(options.to_dict())))
    assert again.to_dict() == options.to_dict()
    assert again == options


def test_host_reads_no_other_options():
    """Over the syntax trees of host/: what stands behind ``.config`` is in the protocol; stored_options is MACE's own."""
    read = set()
    folder = host_model.__file__.rpartition("/")[0]
    for name in ("bias", "statistics", "model", "storage", "interface", "evaluation", "lowers", "edge_lower"):
        with open(f"{folder}/{name}.py", encoding="utf-8") as file:
            tree = ast.parse(file.read())
        read |= {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config")
        }
    assert read == promised()


# --- models -----------------------------------------------------------------------------------------------------


def test_excluded_types_follow_their_elements():
    model = model_of(["O", "H", "C"], pair_exclude_types=[[0, 1], [2, 2]], atom_exclude_types=[1])
    model.change_type_map(["H", "Cu", "O"])
    assert model.pair_exclude_types == [[2, 0]]
    assert model.atom_exclude_types == [0]
    assert model.atom_counts == [False, True, True]
    assert model.graphs.pair_allowed[0] == [True, True, False]
    assert model.energy_model.atomic_numbers.tolist() == [1, 29, 8]
    stored = bytes(model.network_options.tolist()).decode()
    assert json.loads(stored)["type_map"] == ["H", "Cu", "O"]


def test_new_elements_come_with_the_statistics_of_the_new_data():
    model, other = model_of(), model_of(["C", "H"])
    model.set_out_bias(torch.tensor([-5.0, -1.25]))
    other.set_out_bias(torch.tensor([-30.0, -2.0]))
    model.observed.copy_(torch.tensor([1, 0]))
    other.observed.copy_(torch.tensor([1, 1]))
    model.change_type_map(["C", "H"], other)
    assert model.get_out_bias().flatten().tolist() == [-30.0, -1.25]
    assert model.observed.tolist() == [1, 0]
    assert model.out_std.flatten().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("value", "expected"), [(1.5, 1.5), (None, -1.0), (torch.tensor(0.7), 0.7)])
def test_shortest_distance_may_be_a_number(value, expected):
    model = model_of()
    model.min_nbor_dist = value
    assert model.get_min_nbor_dist() == pytest.approx(expected)
    assert isinstance(model.min_nbor_dist, torch.Tensor)


@pytest.mark.parametrize("training", [True, False])
def test_predictions_for_the_regression_leave_the_mode(training):
    model = model_of().train(training)
    coord, types = torch.rand(2, 3, 3).numpy() * 5, [[0, 1, -1], [1, 1, 0]]
    found = model.predict_atomic_outputs_for_stat(coord, types, None)["energy"]
    assert model.training == training
    assert not found.requires_grad
    assert torch.equal(found, model.eval()(torch.tensor(coord), torch.tensor(types))["atom_energy"])
    assert found[0, 2].item() == 0.0


def test_parts_are_found_as_submodules_are():
    model = model_of()
    assert model.atomic_model.__getattr__("fitting_net").section == "fitting_net"
    assert model.get_descriptor().model is model
    with pytest.raises(AttributeError, match="has no attribute 'spin'"):
        _ = model.spin
