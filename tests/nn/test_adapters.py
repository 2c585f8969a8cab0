"""Adapters of low rank: which weights, how many numbers, and equal to a network with the changed weights."""

import pytest
import torch
from architectures import architectures
from helpers import assert_close, random_frame, tiny_model
from tolerances import NATIVE

from deepmd_gnn.config.adapters import lora
from deepmd_gnn.nn.adapters import LowRankAdapters, key_of, matrices_of

ARCHITECTURES = architectures("lammps")
STRONG = {"scale": 60.0, "avg_num_neighbors": 4.0}


def inputs(natoms=7):
    coord, atype, cell = random_frame(natoms=natoms, box_length=5.0, seed=1)
    return torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None])


def with_adapters(options, **settings):
    """A model with weights of its own, and one that begins to adapt them."""
    base = tiny_model(**STRONG, **options)
    definition = {**base.config.to_dict(), "type_map": base.type_map, "seed": 3}
    definition |= {
        "pair_exclude_types": base.pair_exclude_types,
        "atom_exclude_types": base.atom_exclude_types,
    }
    adapted = type(base)(**definition, lora=settings)
    adapted.load_state_dict(base.state_dict())
    return base, adapted


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_equal_to_changed_weights(name):
    """Energies and forces of the training are those of a model that has the products in its weights, to rounding."""
    base, adapted = with_adapters(ARCHITECTURES[name], rank=2, alpha=3.0)
    frame = inputs()
    before = base(*frame)["energy"]
    with torch.no_grad():
        for right in adapted.adapters.right.values():
            right.normal_()
        own = dict(base.energy_model.named_parameters())
        for weight, blocks in matrices_of(base.energy_model).items():
            left, right = (getattr(adapted.adapters, side)[key_of(weight)] for side in ("left", "right"))
            change, at, to = [], 0, 0
            for width, height in blocks:
                rank = min(2, width, height)
                narrow = left[at : at + width * rank].view(width, rank), right[to : to + rank * height]
                change.append((narrow[0] @ narrow[1].view(rank, height)).flatten())
                at, to = at + width * rank, to + rank * height
            own[weight] += 1.5 * torch.cat(change).view_as(own[weight])
    expected, found = base(*frame), adapted.train()(*frame)
    assert abs(float(expected["energy"] - before)) > 1e-3
    for key in ("energy", "force", "virial"):
        values = (result[key].detach().numpy() for result in (found, expected))
        assert_close(*values, NATIVE["float32" if "32" in name else "float64"], key)


def test_only_adapters_are_trained():
    _, adapted = with_adapters({}, rank=1, parts=["products", "readouts.1"])
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    maps = ["products-0-linear", "products-1-linear", "readouts-1-linear_1", "readouts-1-linear_2"]
    assert trained == {f"adapters.{side}.{name}" for side in ("left", "right") for name in maps}
    adapted.train()(*inputs())["force"].square().sum().backward()
    for name in maps:
        assert adapted.adapters.right[name].grad.any(), name
        assert not adapted.adapters.left[name].grad.any(), name  # as long as the other one is zero


def test_every_map_without_elements_is_found():
    """All parameters, but for those with an axis of elements, of normalisation and of polynomials, and biases."""
    for name, options in ARCHITECTURES.items():
        network = tiny_model(**STRONG, **options).energy_model
        found, elements = matrices_of(network), network.element_axes()
        for weight, blocks in found.items():
            assert sum(width * height for width, height in blocks) == network.get_parameter(weight).numel()
        for weight, _ in network.named_parameters():
            norm = network.get_parameter(weight).dim() == 1 and ".net." in weight
            linear = "symmetric_contractions" not in weight and weight.endswith("weight") and not norm
            left = weight in found or weight in elements or "embedding" in weight
            assert left or not linear, (name, weight)


def test_unknown_part():
    network = tiny_model().energy_model
    with pytest.raises(ValueError, match="'readout' among its parts.*interactions, products, readouts"):
        LowRankAdapters(network, lora({"parts": ["readout"]}))


def test_random_weights_are_not_adapted():
    base = tiny_model()
    adapted = type(base)(**base.config.to_dict(), type_map=base.type_map, lora={})
    with pytest.raises(ValueError, match="--finetune or --init-model"):
        adapted.train()(*inputs())


def test_same_seed_same_adapters():
    drawn = [with_adapters({}, rank=2)[1].adapters.left["readouts-0-linear"] for _ in range(2)]
    assert torch.equal(*drawn)
