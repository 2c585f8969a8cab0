"""Training with cuEquivariance: the same numbers and gradients, the same checkpoints, and a clear error without it."""

import importlib.util

import numpy as np
import pytest
import torch
from architectures import architectures
from deepmd_run import base_input, run_dp
from helpers import assert_close, native_model, random_frame, tiny_model
from mace.cli import convert_cueq_e3nn, convert_e3nn_cueq
from native_models import default_dtype
from tolerances import LOSS
from torch.fx.experimental.proxy_tensor import make_fx
from training_data import composition_frames, write_system

from deepmd_gnn import mace_network as cuequivariance
from deepmd_gnn.host.compiled_training import vectorised
from deepmd_gnn.mace_network import CuEquivarianceEvaluator

ARCHITECTURES = architectures("cuequivariance")


def gradients(model):
    coord, atype, cell = random_frame(box_length=5.5)
    model.train()
    model.zero_grad()
    out = model(torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None]))
    loss = out["energy"].sum() + 10.0 * out["force"].square().sum() + out["virial"].square().sum()
    loss.backward()
    return {key: value.detach() for key, value in out.items()}, {
        k: p.grad for k, p in model.named_parameters()
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_numbers_and_gradients(architecture):
    plain = tiny_model(**ARCHITECTURES[architecture])
    model = tiny_model(**ARCHITECTURES[architecture], enable_cueq=True)
    expected, their_gradients = gradients(plain)
    actual, our_gradients = gradients(model)
    assert "_cuequivariance" in model.__dict__
    for key in ("energy", "force", "virial"):
        assert_close(actual[key].numpy(), expected[key].numpy(), LOSS, key)
    for name, gradient in their_gradients.items():
        assert_close(our_gradients[name].numpy(), gradient.numpy(), LOSS, name)
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_layout_is_the_one_of_native_conversion():
    """Both ways: our rearrangement equals native's converter, whose inverse gives our weights back."""
    model = tiny_model(atomic_energies=[0.0, 0.0])
    arranged = CuEquivarianceEvaluator(model.config, model.energy_model).arrange(model.energy_model)
    with default_dtype():
        converted = convert_e3nn_cueq.run(native_model(model), device="cpu", return_model=True)
        returned = convert_cueq_e3nn.run(converted, device="cpu", return_model=True)
    theirs = dict(converted.named_parameters())
    assert theirs.keys() == arranged.keys()
    for name, value in arranged.items():
        torch.testing.assert_close(value, theirs[name].reshape(value.shape), rtol=0, atol=LOSS)
    back = dict(returned.named_parameters())
    for name, value in model.energy_model.named_parameters():
        torch.testing.assert_close(back[name].reshape(value.shape), value, rtol=0, atol=LOSS)


def test_evaluation_does_not_use_it(monkeypatch):
    monkeypatch.setattr(cuequivariance, "build_cuequivariance", None)
    model = tiny_model(enable_cueq=True)
    coord, atype, cell = random_frame()
    inputs = torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None])
    scripted = torch.jit.script(model)
    torch.testing.assert_close(model(*inputs)["force"], scripted(*inputs)["force"], rtol=0, atol=1e-10)


def missing(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *a: None if name.startswith("cuequivariance") else found(name, *a),
    )


def test_missing_package_is_explained(monkeypatch):
    missing(monkeypatch)
    model = tiny_model(enable_cueq=True)
    with pytest.raises(ImportError, match=r"enable_cueq.*cuequivariance.*pip install .\.\[cueq\]"):
        gradients(model)


@pytest.mark.slow
def test_training_resumes_without_it_and_freezes(monkeypatch, tmp_path):
    data = write_system(tmp_path / "a", composition_frames(6, 4, 0, box_length=4.5))
    config = base_input([data], None, steps=2, batch_size=4)
    config["model"]["enable_cueq"] = True
    (tmp_path / "with").mkdir()
    run_dp(tmp_path / "with", "train", config)
    del config["model"]["enable_cueq"]
    (tmp_path / "without").mkdir()
    run_dp(tmp_path / "without", "train", config)
    states = [
        torch.load(tmp_path / name / "model.ckpt.pt", weights_only=True)["model"]
        for name in ("with", "without")
    ]
    for name, value in states[0].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(value, states[1][name], rtol=0, atol=1e-7, msg=name)

    missing(monkeypatch)
    run_dp(tmp_path / "with", "freeze", None, "-o", "m.pth")
    config["training"]["numb_steps"] = 3
    run_dp(tmp_path / "without", "train", config, "--restart", str(tmp_path / "with" / "model.ckpt.pt"))
    assert np.isfinite(np.loadtxt(tmp_path / "without" / "lcurve.out")[-1]).all()


def test_compiled_training_has_our_code(monkeypatch, caplog):
    """cuEquivariance cannot be compiled with second derivatives: the log says so, and the numbers are the same."""
    monkeypatch.setattr(cuequivariance, "build_cuequivariance", None)
    model = tiny_model(enable_cueq=True).train()
    expected = tiny_model().train()
    coord, atype, cell = random_frame()
    graph = model.graphs.of_frames(*(torch.tensor(x[None]) for x in (coord, atype, cell)))
    count = torch.tensor([len(atype)])
    edges = (torch.tensor(atype), count, count, graph.edge_index[:, 1:] - 1, graph.edge_vec.detach()[1:])
    inputs = (*edges, torch.ones(len(edges[4]), dtype=torch.bool))

    def step(*inputs):
        return model.forward_common_lower_graph(*inputs)["energy_derv_r"]

    traced = make_fx(step, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
    found = expected.forward_common_lower_graph(*inputs)["energy_derv_r"]
    torch.testing.assert_close(traced(*inputs), found, rtol=0, atol=1e-10)
    compiled = vectorised(lambda model, **options: (torch.nn.Identity(), {}))
    with caplog.at_level("WARNING"):
        compiled(model)
    assert "enable_cueq: not used together with enable_compile" in caplog.text
