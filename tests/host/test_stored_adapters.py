"""Checkpoints with adapters: whole weights for every reader, and the adapters for a restart."""

import json
import logging

import pytest
import torch
from helpers import random_frame, tiny_model

from deepmd_gnn.host.stored_adapters import PREFIX


def inputs():
    coord, atype, cell = random_frame(natoms=6, box_length=5.0, seed=1)
    return torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None])


def new_model(base, **settings):
    definition = {**base.config.to_dict(), "type_map": base.type_map}
    return type(base)(**definition, **settings)


@pytest.fixture
def base():
    return tiny_model(seed=1, scale=60.0, avg_num_neighbors=4.0)


@pytest.fixture
def trained(base):
    """Adapters after some steps, still in training."""
    model = new_model(base, lora={"rank": 2})
    model.load_state_dict(base.state_dict())
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (model(*inputs())["force"] - 1.0).square().mean().backward()
        optimizer.step()
    return model


def energy(model):
    return float(model(*inputs())["energy"].detach())


def test_new_adapters_leave_no_trace(base):
    """The host copies the weights of a file by the names that a fresh model has."""
    model = new_model(base, lora={})
    assert set(model.state_dict()) == set(base.state_dict())


def test_every_reader_has_the_trained_model(base, trained):
    expected, stored = energy(trained), trained.state_dict()
    assert abs(expected - energy(base)) > 1e-2
    plain = new_model(base)
    plain.load_state_dict(stored)
    assert energy(plain) == expected
    readers = {
        "older versions": {k: v for k, v in stored.items() if not k.startswith(PREFIX)},
        "this one": stored,
    }
    for name, tensors in readers.items():
        fresh = new_model(base, lora={"rank": 2})
        fresh.load_state_dict(tensors)
        assert energy(fresh.train()) == expected, name
        assert energy(fresh.eval()) == expected, name
        scripted = torch.jit.script(new_model(base, lora={"rank": 2}))
        scripted.load_state_dict(tensors)
        assert energy(scripted) == expected, name
    assert energy(torch.jit.script(trained)) == expected
    assert energy(trained.eval()) == expected


def test_a_restart_goes_on(base, trained):
    again = new_model(base, lora={"rank": 2})
    again.load_state_dict(trained.state_dict())
    for (name, mine), theirs in zip(again.adapters.state_dict().items(), trained.adapters.state_dict().values(), strict=True):  # fmt: skip
        assert torch.equal(mine, theirs), name


def test_other_adapters_begin_with_merged_weights(base, trained, caplog):
    caplog.set_level(logging.INFO, logger="deepmd.deepmd_gnn")
    other = new_model(base, lora={"rank": 1, "parts": ["readouts"]})
    other.load_state_dict(trained.state_dict())
    assert energy(other.train()) == energy(trained)
    assert other.adapters.is_new()
    assert "of another rank or of other parts; they are merged" in caplog.text


def test_changed_weights_count(base, trained):
    """Of a file whose weights another program has changed, as those of a committee's members."""
    stored = trained.state_dict()
    name = "fitting_net.readouts.0.linear.weight"
    stored[name] = stored[name] * 2.0
    fresh = new_model(base, lora={"rank": 2})
    fresh.load_state_dict(stored)
    plain = new_model(base)
    plain.load_state_dict(stored)
    assert energy(fresh.eval()) == energy(plain)
    assert abs(energy(plain) - energy(trained)) > 1e-3


def test_portable_and_frozen_files_have_whole_weights(base, trained):
    data = trained.serialize()
    assert "adapters" not in data
    assert not [name for name in data["@variables"] if name.startswith(PREFIX)]
    assert energy(type(base).deserialize(data)) == energy(trained)
    assert "adapters" not in json.loads(trained.model_def_script)


def test_other_elements(base, trained):
    """What was trained stays with the elements that stay."""
    expected = energy(trained)
    trained.change_type_map([base.type_map[1], base.type_map[0]])
    coord, atype, cell = inputs()
    assert float(trained.train()(coord, 1 - atype, cell)["energy"].detach()) == pytest.approx(
        expected, rel=1e-12
    )


def test_not_shared(base):
    models = [new_model(base, lora={}), new_model(base)]
    with pytest.raises(ValueError, match="are for one task"):
        models[1].descriptor.share_params(models[0].descriptor, 0)
