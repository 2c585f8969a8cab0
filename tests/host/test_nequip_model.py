"""``"type": "nequip"`` in DeePMD-kit: from an input to files, other elements, MM types, the package's weights."""

import json

import numpy as np
import pytest
import torch
from deepmd_run import base_input, run_dp
from helpers import assert_close, our_results, random_frame, rotation
from nequip_models import SIMPLE, TINY, tiny_nequip
from tolerances import NATIVE
from training_data import write_system

from deepmd_gnn.config.mm_types import is_mm
from deepmd_gnn.nequip import NequipModel
from deepmd_gnn.nn.nequip_names import package_name

EXACT = NATIVE["float64"]
QM_MM = {
    "type_map": ["O", "H", "mH", "OW", "HW"],
    "atomic_energies": {"O": -5.0, "H": -1.25},
    "scale": 30.0,
}
MM = np.array([is_mm(name) for name in QM_MM["type_map"]])


@pytest.mark.parametrize("options", [{}, {"use_sc": False}, {"nonlinearity_type": "norm"}])
@pytest.mark.parametrize("kind", ["eager", "scripted"])
def test_mm_types(kind, options):
    """MM atoms alone have neither energy nor forces, and those that no QM atom sees change nothing."""
    model = tiny_nequip(**QM_MM, **options)
    runner = torch.jit.script(model) if kind == "scripted" else model
    coord, types, cell = random_frame(20, 7.0, ntypes=5)
    out = our_results(runner, coord, np.where(MM[types], types, 3), cell)
    assert np.abs(out["atom_energy"]).max() < 1e-13  # a difference of two equal numbers
    assert not out["force"].any()
    far = coord + [0, 0, 50.0]
    qm = our_results(runner, coord, types, None)
    more = our_results(runner, np.vstack([coord, far]), np.append(types, np.where(MM[types], types, 4)), None)
    assert np.abs(qm["force"]).max() > 1e-3
    assert_close(more["force"][: len(types)], qm["force"], EXACT)
    assert_close(more["energy"], qm["energy"], EXACT)


def test_only_mm_types():
    with pytest.raises(ValueError, match="^nequip model: 'type_map' is .* at least one type"):
        NequipModel(["mH", "OW"])


def test_no_parity_turns_but_does_not_mirror():
    """Features of one parity: rotations change nothing, a mirror image has another energy."""
    model = tiny_nequip(parity=False, l_max=2, num_layers=3)
    coord, atype, cell = random_frame()
    before = our_results(model, coord, atype, cell)["energy"]
    turn = rotation()
    assert_close(our_results(model, coord @ turn.T, atype, cell @ turn.T)["energy"], before, EXACT)
    mirrored = our_results(model, -coord, atype, -cell)["energy"]
    assert abs(float(mirrored[0] - before[0])) > 1e-6


@pytest.mark.parametrize("options", [{}, {"use_sc": False}])
def test_order_of_elements(options):
    """Weights saved for O, H are put into the order H, O; a trained model keeps its energies."""
    model, other = tiny_nequip(**options), tiny_nequip(type_map=["H", "O"], seed=5, **options)
    other.load_state_dict(model.state_dict())
    coord, atype, cell = random_frame()
    found, expected = our_results(other, coord, 1 - atype, cell), our_results(model, coord, atype, cell)
    for key in ("energy", "force"):
        assert_close(found[key], expected[key], EXACT, key)


def test_other_options_are_refused():
    state = tiny_nequip().state_dict()
    with pytest.raises(
        ValueError, match="^nequip model: .* 'r_max' is 4.0 in the file and 6.0 \\(the default\\)"
    ):
        tiny_nequip(r_max=6.0).load_state_dict(state)
    with pytest.raises(ValueError, match="'use_sc' is True in the file and False"):
        tiny_nequip(use_sc=False).load_state_dict(state)


def package_state(model, scale=2.0, shifts=(-3.0, 1.0)):
    """The weights of a model as the package stores them."""
    ours = model.energy_model.state_dict()
    names = [name for name, _ in model.energy_model.named_parameters()]
    state = {f"model.func.{package_name(name)}": ours[name] for name in names}
    state["model.func.per_species_rescale.shifts"] = torch.tensor(shifts, dtype=torch.float64)
    return state | {"scale_by": torch.tensor(scale, dtype=torch.float64)}


def test_weights_of_the_package():
    """Shifts are in units of the scale; what the network gives a lone atom is in E0."""
    source, model = tiny_nequip(scale=2.0), tiny_nequip(seed=9)
    model.take_package_weights(package_state(source))
    lone = source.energy_model.lone_energies().detach()
    assert lone.abs().min() > 1e-3
    assert_close(model.get_out_bias().flatten().numpy(), (torch.tensor([-6.0, 2.0]) + lone).numpy(), EXACT)
    frame = random_frame()
    assert_close(our_results(model, *frame)["force"], our_results(source, *frame)["force"], EXACT)


def test_weights_that_do_not_fit():
    state = package_state(tiny_nequip())
    with pytest.raises(ValueError, match="these are no weights of an energy model of nequip 0.6"):
        tiny_nequip().take_package_weights({"weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="'layer0_convnet.conv.* is of shape .* in the file"):
        tiny_nequip(l_max=0).take_package_weights(state)
    state["model.func.per_species_rescale.scales"] = torch.tensor([1.0, 2.0])
    with pytest.raises(ValueError, match="scales differ between the elements"):
        tiny_nequip().take_package_weights(state)


@pytest.mark.slow
def test_train_freeze_finetune_change_bias(tmp_path):
    """From statistics of the data through every command; elements in another order in fine-tuning."""
    from deepmd.infer import DeepPot

    frames = [random_frame(seed=seed) for seed in range(4)]
    frames = [(coord, frames[0][1], cell) for coord, _, cell in frames]
    data = write_system(tmp_path / "data", frames)
    config = base_input([data], [data], 4)
    network = {
        key: value
        for key, value in TINY.items()
        if key not in ("avg_num_neighbors", "scale", "atomic_energies")
    }
    config["model"] = {"type": "nequip", "type_map": ["O", "H"], **network, **SIMPLE}
    run_dp(tmp_path, "train", config)
    assert "NequIP scale: " in (tmp_path / "train.log").read_text()
    run_dp(tmp_path, "freeze", None, "-o", "model.pth")
    coord, atype, cell = frames[0]
    results = [
        DeepPot(str(tmp_path / name)).eval(coord[None], cell[None], kinds)
        for name, kinds in (("model.pth", atype), ("model.ckpt.pt", atype))
    ]
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, EXACT)
    run_dp(tmp_path, "change-bias", None, "model.ckpt.pt", "-s", data, "-o", "changed.pt")
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    config["model"]["type_map"] = ["H", "O"]
    config["training"]["numb_steps"] = 1
    run_dp(tuned, "train", config, "--finetune", str(tmp_path / "model.ckpt.pt"))
    assert DeepPot(str(tuned / "model.ckpt.pt")).get_type_map() == ["H", "O"]
    assert json.loads((tuned / "input.json").read_text())["model"]["type"] == "nequip"
