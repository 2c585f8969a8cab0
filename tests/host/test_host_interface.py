"""What DeePMD-kit asks a model about itself: answers of the same form as its own energy model's."""

import numpy as np
import pytest
import torch
from deepmd.dpmodel.utils.nlist import extend_coord_with_ghosts
from deepmd.dpmodel.utils.region import normalize_coord
from deepmd.infer import DeepPot
from deepmd.pt.model.model import get_model
from deepmd_run import run_dp
from e3nn.o3 import Irreps
from helpers import assert_close, random_frame, tiny_model
from tolerances import NATIVE
from toy_network import ToyModel

from deepmd_gnn.host.embedding import ExtendedFeatures
from deepmd_gnn.host.interface import HostInterface
from deepmd_gnn.host.model_size import parameter_counts
from deepmd_gnn.host.observed_types import note_in_checkpoint, observed_record
from deepmd_gnn.native.conversion import save_checkpoint

PUBLIC = ["atom_energy", "energy", "force", "virial", "atom_virial", "mask"]


@pytest.fixture(scope="module")
def own():
    """An energy model of DeePMD-kit's own."""
    descriptor = {
        "type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [20, 20], "neuron": [2, 4], "axis_neuron": 2
    }  # fmt: skip
    return get_model({"type_map": ["O", "H"], "descriptor": descriptor, "fitting_net": {"neuron": [4]}})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model = tiny_model()
    save_checkpoint(model, folder / "m.pt")
    torch.jit.script(model).save(str(folder / "m.pth"))
    return folder


def test_outputs_are_defined_as_in_the_hosts_model(own):
    model = tiny_model()
    ours, theirs = model.translated_output_def(), own.translated_output_def()
    assert list(ours) == list(theirs) == PUBLIC
    for name, definition in theirs.items():
        assert vars(ours[name]) == vars(definition), name
    inner = model.model_output_def().get_data()
    assert inner.keys() == own.model_output_def().get_data().keys()
    coord, atype, cell = random_frame()
    out = model(
        torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None]), do_atomic_virial=True
    )
    assert sorted(out) == sorted(ours)


def test_hessian_is_defined():
    model = tiny_model(hessian_mode=True)
    assert list(model.translated_output_def()) == [*PUBLIC, "hessian"]


def test_selected_types(own):
    assert tiny_model().get_sel_type() == own.get_sel_type() == [0, 1]
    without = tiny_model(atom_exclude_types=[0])
    assert without.get_sel_type() == [1]
    assert torch.jit.script(without).get_sel_type() == [1]


QUESTIONS = ("get_", "has_", "is_", "need_", "mixed_types", "model_output_type")


def test_scripted_models_answer_what_the_hosts_do(own):
    """Questions of the C++ interface: all that the host's own model answers, with answers of the same type."""
    # Of the host's Python alone, and the distance that is no number there if it is unknown.
    others = {"get_fitting_net", "get_default_chg_spin", "get_min_nbor_dist", "get_model_def_script"}
    theirs, ours = torch.jit.script(own), torch.jit.script(ToyModel(["O", "H"]))
    questions = {name for name in theirs._c._method_names() if name.startswith(QUESTIONS)} - others
    assert len(questions) > 15
    for name in sorted(questions):
        assert hasattr(HostInterface, name)
        found, expected = (getattr(scripted, name)() for scripted in (ours, theirs))
        assert type(found) is type(expected), name


def test_size(files):
    network = tiny_model().energy_model
    readouts = sum(parameter.numel() for parameter in network.readouts.parameters())
    total = sum(parameter.numel() for parameter in network.parameters())
    expected = {"descriptor": total - readouts, "fitting-net": readouts, "total": total}
    assert parameter_counts(tiny_model()) == expected
    for name in ("m.pt", "m.pth"):
        assert DeepPot(str(files / name)).get_model_size() == expected


def test_size_of_the_hosts_models_is_theirs(own, tmp_path):
    torch.jit.script(own).save(str(tmp_path / "own.pth"))
    size = DeepPot(str(tmp_path / "own.pth")).get_model_size()
    assert size["total"] == size["descriptor"] + size["fitting-net"]


def test_compress_says_what_to_do(files, tmp_path):
    with pytest.raises(NotImplementedError, match=r"Freeze to \.pt2 instead"):
        run_dp(tmp_path, "compress", None, "-i", str(files / "m.pth"), "-o", "small.pth")
    assert not (tmp_path / "small.pth").exists()


# --- features of exported files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("options", [{}, {"num_interactions": 1}, {"pair_exclude_types": [[0, 1]]}])
def test_features_of_extended_atoms(options, periodic):
    """From atoms with ghosts, as the interface to .pt2 hands them over, its list cut short: those of the whole frame."""
    model = tiny_model(**options)
    frames = [random_frame(natoms=9, box_length=3.7, spacing=0.9, seed=seed) for seed in (0, 1)]
    coord = np.stack([frame[0] for frame in frames])
    atype = np.stack([frame[1] for frame in frames])
    coord[0, 2] += 2 * frames[0][2][0]  # outside the cell
    atype[1, 8] = -1
    box = np.stack([frame[2].ravel() for frame in frames]) if periodic else None
    inside = coord if box is None else normalize_coord(coord, box.reshape(2, 3, 3))
    extended, kinds, mapping = extend_coord_with_ghosts(inside.reshape(2, -1), atype, box, model.rcut)
    view = ExtendedFeatures(model)
    assert type(model.get_dp_atomic_model()) is ExtendedFeatures
    nlist = torch.zeros(2, 9, 1, dtype=torch.int64)
    inputs = [torch.tensor(np.asarray(value)) for value in (extended.reshape(2, -1, 3), kinds, mapping)]
    features, last, *_ = view.descriptor(inputs[0], inputs[1], nlist, mapping=inputs[2])
    middle = view.fitting_net(features, inputs[1][:, :9], gr=last, g2=None, h2=None, fparam=None, aparam=None)
    expected = model.forward_embedding(
        torch.tensor(coord), torch.tensor(atype), torch.tensor(box) if periodic else None
    )
    assert_close(features.numpy(), expected["descriptor"].numpy(), NATIVE["float64"])
    assert_close(middle["middle_output"].numpy(), expected["atomic_feature"].numpy(), NATIVE["float64"])
    assert not features[1, 8].any()


def test_slices_of_the_page_are_invariant():
    """docs/ase.md: the first columns of each layer do not turn with the structure, the others do."""
    model = tiny_model()
    irreps = Irreps(model.config.hidden_irreps)
    channels, starts = irreps[0].mul, [layer * irreps.dim for layer in range(model.config.num_interactions)]
    coord, atype, _ = random_frame()
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    here, there = (
        model.forward_embedding(torch.tensor(x[None]), torch.tensor(atype[None]))["descriptor"][0].numpy()
        for x in (coord, coord @ (turn * np.linalg.det(turn)))
    )
    invariant = np.zeros(here.shape[1], dtype=bool)
    for start in starts:
        invariant[start : start + channels] = True
    assert_close(there[:, invariant], here[:, invariant], NATIVE["float64"])
    assert np.abs(there - here)[:, ~invariant].max(axis=0).min() > 1e-6


# --- observed elements ------------------------------------------------------------------------------------------


def test_observed_types_are_part_of_the_model():
    model = tiny_model(type_map=["O", "H", "C"], atomic_energies={"O": -5.0, "H": 0.0, "C": -7.0})
    assert model.observed_type is None
    assert model.get_observed_type_list() == ["O", "C"]  # all that is known: those with an E0
    model.observed.copy_(observed_record(["H", "O"], model.type_map))
    assert model.observed_type == ["O", "H"]
    assert torch.jit.script(model).get_observed_type_list() == ["O", "H"]
    assert type(model).deserialize(model.serialize()).observed_type == ["O", "H"]
    model.change_type_map(["H", "C", "O"])
    assert model.observed_type == ["H", "O"]


def test_files_without_a_record_are_read():
    model = tiny_model()
    state = model.state_dict()
    del state["observed"]
    other = tiny_model(seed=2)
    other.load_state_dict(state)
    assert other.observed_type is None


@pytest.mark.parametrize("branch", ["Default", "water"])
def test_checkpoints_name_observed_types_where_the_host_does(branch):
    section = {"type": "mace", "info": {"more": 1}}
    params = section if branch == "Default" else {"model_dict": {branch: section, "other": {"type": "mace"}}}
    state = {"_extra_state": {"model_params": params}}
    note_in_checkpoint(state, f"model.{branch}.", None)
    assert "observed_type" not in section["info"]
    note_in_checkpoint(state, f"model.{branch}.", ["O"])
    assert section["info"] == {"more": 1, "observed_type": ["O"]}
    note_in_checkpoint({}, "", ["O"])  # a model by itself
