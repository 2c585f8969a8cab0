"""The posterior of the last layer in models: only beside its own weights, and numbers of the model do not notice it."""

import json
import logging

import pytest
import torch
from helpers import random_frame, tiny_model
from toy_network import ToyModel

from deepmd_gnn.files.weight_checksum import weight_checksum
from deepmd_gnn.host.checkpoint_files import looking_first
from deepmd_gnn.host.stored_uncertainty import forget_uncertainty
from deepmd_gnn.host.uncertainty import Uncertain
from deepmd_gnn.nn.uncertainty import TENSORS


def inputs():
    coord, types, cell = random_frame()
    return torch.tensor(coord[None]), torch.as_tensor(types)[None], torch.tensor(cell.reshape(1, 9))


def with_posterior(model):
    """State of a model with a posterior."""
    state = dict(model.state_dict())
    number = model.last_layer_size
    factor = torch.randn(number, number, dtype=torch.float64)
    text = json.dumps({"weights": weight_checksum(state)}).encode()
    values = (factor, factor[:3].clone(), torch.tensor(2.0, dtype=torch.float64), torch.tensor(list(text), dtype=torch.int32))  # fmt: skip
    state.update({f"uncertainty.{name}": value for name, value in zip(TENSORS, values, strict=True)})
    return state


def test_models_without_it_are_as_before():
    model = tiny_model()
    assert not [name for name in model.state_dict() if name.startswith("uncertainty")]
    assert not model.has_uncertainty()
    with pytest.raises(RuntimeError, match="no uncertainty is stored with this model"):
        model.forward_uncertainty(*inputs())


def test_numbers_of_the_model_are_the_same_to_the_bit():
    plain, model = tiny_model(precision="float32"), tiny_model(precision="float32")
    model.load_state_dict(with_posterior(plain))
    assert model.has_uncertainty()
    for name, value in plain(*inputs()).items():
        assert torch.equal(value, model(*inputs())[name]), name


def test_it_travels_with_the_model():
    """Through a checkpoint, the host's portable form (.pt2), and TorchScript (.pth), into which checkpoints are loaded too."""
    model = tiny_model()
    state = with_posterior(model)
    model.load_state_dict(dict(state))
    expected = model.forward_uncertainty(*inputs(), None, True, True)
    again = type(model).deserialize(model.serialize()).eval()
    scripted = torch.jit.script(tiny_model())
    assert not scripted.has_uncertainty()
    scripted.load_state_dict(dict(model.state_dict()), strict=False)
    for other in (again, scripted):
        assert other.has_uncertainty()
        found = other.forward_uncertainty(*inputs(), None, True, True)
        for name, value in expected.items():
            assert torch.allclose(value, found[name], rtol=1e-10), name
    assert set(found) == {"energy_std", "atom_energy_std", "force_std", "energy_std_gradient"}


def test_a_model_that_had_one_forgets_it(caplog):
    model = tiny_model()
    model.load_state_dict(with_posterior(model))
    model.load_state_dict(dict(tiny_model().state_dict()))
    assert not model.has_uncertainty()
    assert not caplog.records


def test_it_is_not_saved_with_other_weights(caplog):
    model = tiny_model()
    model.load_state_dict(with_posterior(model))
    with torch.no_grad():
        next(model.parameters()).mul_(1.001)
    assert not [name for name in model.state_dict() if name.startswith("uncertainty")]
    assert "the weights have changed since the uncertainty was made" in caplog.text


@pytest.mark.parametrize("name", ["out_bias", "energy_model.scale", "energy_model.readouts.0.linear.weight"])
def test_it_is_not_loaded_with_other_weights(name, caplog):
    model = tiny_model()
    state = with_posterior(model)
    name = name.replace("energy_model.", "fitting_net.")
    state[name] = state[name] * 1.001
    model.load_state_dict(state)
    assert not model.has_uncertainty()
    assert "an uncertainty of other weights" in caplog.text


def test_what_cannot_be_read_is_left_out():
    model = tiny_model()
    state = with_posterior(model)
    state["uncertainty.description"] = state["uncertainty.description"][:-1]
    model.load_state_dict(state)
    assert not model.has_uncertainty()


def test_other_elements_and_trainings_drop_it(caplog):
    model = tiny_model()
    model.load_state_dict(with_posterior(model))
    model.change_type_map(["H", "O", "C"])
    assert not model.has_uncertainty()
    assert "the elements are others" in caplog.text

    class Trainer:
        rank, multi_task = 1, False

        def __init__(self):
            self.model = tiny_model()
            self.model.load_state_dict(with_posterior(self.model))

    trainer = Trainer()
    with caplog.at_level(logging.WARNING):
        looking_first(lambda self: None)(trainer)
    assert not trainer.model.has_uncertainty()
    assert "weights of the file that the training starts from" in caplog.text
    caplog.clear()
    forget_uncertainty(trainer.model, "nothing to forget")
    assert not caplog.records


def test_networks_that_do_not_tell_their_features():
    toy = ToyModel(["O", "H"]).eval()
    assert isinstance(toy, Uncertain)
    assert toy.get_last_layer_size() == 0
    with pytest.raises(NotImplementedError):
        toy.forward_last_layer(*inputs())
    assert torch.jit.script(toy).get_last_layer_size() == 0


def test_training_mode_is_refused():
    model = tiny_model()
    model.load_state_dict(with_posterior(model))
    with pytest.raises(RuntimeError, match="eval mode"):
        model.train().forward_uncertainty(*inputs())
