"""Frame parameters: the values of charge, spin and other quantities, in every form of input."""

import logging

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES
from helpers import random_frame, tiny_model

from deepmd_gnn.config.embeddings import features
from deepmd_gnn.host.frame_values import Defaults, FrameValues, frame_features
from deepmd_gnn.host.inference_graphs import neighbor_graph

CHARGED = ARCHITECTURES["charged"].options
STATES = torch.tensor([[1.0, 2.0, 0.5], [-3.0, 0.0, 0.1]], dtype=torch.float64)


@pytest.fixture
def model():
    return tiny_model(**CHARGED)


def two_frames():
    frames = [random_frame(seed=seed) for seed in range(2)]
    coord, atype, cell = (np.stack(part) for part in zip(*frames, strict=True))
    return torch.tensor(coord), torch.as_tensor(atype), torch.tensor(cell).reshape(2, 9)


def test_what_the_host_asks(model):
    assert (model.get_dim_fparam(), model.has_default_fparam()) == (3, True)
    assert model.get_default_fparam() == [0.0, 1.0, 0.3]
    assert isinstance(model.get_default_fparam(), Defaults)
    assert model.get_default_fparam().cpu().numpy().tolist() == [0.0, 1.0, 0.3]
    plain = tiny_model()
    assert (plain.get_dim_fparam(), plain.has_default_fparam(), plain.get_default_fparam()) == (0, False, None)  # fmt: skip
    assert frame_features(plain) == []


def test_defaults_are_said_once(model, caplog):
    frames = two_frames()
    with caplog.at_level(logging.WARNING):
        first, second = model(*frames), model(*frames)
    given = model(*frames, torch.tensor([[0.0, 1.0, 0.3]] * 2, dtype=torch.float64))
    for found in (first, second, given):
        assert torch.equal(found["energy"], first["energy"])
    said = [record.getMessage() for record in caplog.records if "no fparam was given" in record.getMessage()]
    assert said == [
        "mace model: no fparam was given, so frames have the defaults: total_charge 0.0, total_spin 1.0, temperature 0.3"
    ]


def test_one_row_for_all_frames(model):
    frames = two_frames()
    one, both = model(*frames, STATES[:1]), model(*frames, STATES[:1].expand(2, 3))
    assert torch.equal(one["energy"], both["energy"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[5.0, 1, 0]], r"total_charge is 5\.0? in frame 0 \(column 0 .*a whole number from -4 to 4"),
        ([[0.5, 1, 0]], r"total_charge is 0\.5 in frame 0"),
        ([[0.0, 5, 0]], r"total_spin is 5\.0? in frame 0 \(column 1 .*from 0 to 4"),
        ([[0.0, 1, float("inf")]], "temperature is inf in frame 0 .*a finite number"),
        ([[0.0, 1]], "fparam has 2 values for 1 frames, but each frame needs 3: total_charge, total_spin, temp"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("scripted", [False, True])
def test_refused(values, words, scripted):
    given = FrameValues(features(CHARGED["embeddings"]))
    check = torch.jit.script(given) if scripted else given
    with pytest.raises((ValueError, torch.jit.Error), match=words):
        check(torch.tensor(values), 1, torch.device("cpu"))


def test_without_defaults_every_frame_needs_values():
    given = FrameValues(features({"pressure": {"type": "continuous", "emb_dim": 2}}))
    assert not given.has_defaults
    with pytest.raises(ValueError, match=r"depends on pressure, and no values were given.*fparam\.npy"):
        given(None, 1, torch.device("cpu"))


def test_torchscript(model, tmp_path):
    frames = two_frames()
    torch.jit.script(model).save(str(tmp_path / "model.pth"))
    loaded = torch.jit.load(str(tmp_path / "model.pth"))
    expected = model(*frames, STATES)
    for key, value in loaded(*frames, STATES).items():
        assert torch.allclose(value.detach(), expected[key].detach(), rtol=0, atol=1e-12), key
    assert torch.allclose(loaded(*frames)["energy"], model(*frames)["energy"], rtol=0, atol=1e-12)


def test_edge_list(model):
    """The form that exported files and the exportable trainer evaluate; bad values give no number."""
    coord, atype, box = two_frames()
    graph = neighbor_graph(model, coord, atype, box)
    inputs = (atype.flatten(), graph.n_node, graph.n_node, graph.edge_index, graph.edge_vec, graph.edge_mask)
    expected = model(coord, atype, box, STATES)
    found = model.forward_common_lower_graph(*inputs, fparam=STATES)
    assert torch.allclose(found["energy_redu"], expected["energy"], rtol=0, atol=1e-12)
    assert torch.allclose(found["energy_derv_r"].reshape(2, -1, 3), expected["force"], rtol=0, atol=1e-12)
    bad = model.forward_common_lower_graph(*inputs, fparam=STATES.clone().fill_(7.0))
    assert bool(bad["energy_redu"].isnan().all())


def test_hessian_and_features(model):
    coord, atype, box = two_frames()
    whole = model.forward_embedding(coord, atype, box, STATES)["descriptor"]
    alone = model.forward_embedding(coord[1:], atype[1:], box[1:], STATES[1:])["descriptor"]
    assert torch.allclose(whole[1:], alone, rtol=0, atol=1e-12)
    model.enable_hessian()
    found = model(coord[:1, :4], atype[:1, :4], box[:1], STATES[:1])
    assert found["hessian"].shape == (1, 12, 12)
    with pytest.raises(NotImplementedError, match="depends on total_charge, total_spin, temperature"):
        model.get_dp_atomic_model().descriptor(coord, atype, atype[..., None], atype)


def test_fit_of_energies_sees_the_values(model):
    """What the regression of E0 subtracts is the prediction in the frame's own state."""
    coord, atype, box = two_frames()
    found = model.predict_atomic_outputs_for_stat(coord.numpy(), atype.numpy(), box.numpy(), STATES.numpy())
    assert torch.allclose(found["energy"].sum(dim=1), model(coord, atype, box, STATES)["energy"])


def test_storage(model):
    again = type(model).deserialize(model.serialize()).eval()
    frames = two_frames()
    assert torch.equal(again(*frames, STATES)["energy"], model(*frames, STATES)["energy"])
