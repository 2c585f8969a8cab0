"""MACE as a descriptor of DeePMD-kit's models: its features, what the host differentiates, storage, sharing and refusals."""

import copy

import numpy as np
import pytest
import torch
from deepmd.pt.model.descriptor import BaseDescriptor
from deepmd.pt.model.model import get_model
from deepmd.pt_expt.model import get_model as exportable_model
from deepmd.utils.path import DPPath
from descriptors import DESCRIPTOR, descriptor, model, section
from helpers import (
    assert_close,
    extended,
    folded,
    native_results,
    our_results,
    random_frame,
    rotation,
    self_send,
    tiny_model,
)
from tolerances import FINITE_DIFFERENCE, NATIVE, RANKS

from deepmd_gnn.host.descriptor import GraphDescriptor
from deepmd_gnn.host.descriptor_answers import NotExported
from deepmd_gnn.mace_descriptor import MaceDescriptor


def features(made, coord, atype, cell):
    """Scalars (nloc, ·) and vectors (nloc, ·, 3) of a frame."""
    (_, _, _), (ext_coord, ext_atype, mapping, nlist) = extended([(coord, atype, cell)], made.get_rcut())
    found = made(ext_coord, ext_atype, nlist[:, :, : made.room], mapping)
    return found[0][0].detach().numpy(), found[1][0].detach().numpy()


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_features_are_those_of_native_mace(precision):
    """Scalars and vectors of both layers, in the order of the host."""
    coord, atype, cell = random_frame()
    options = {k: v for k, v in DESCRIPTOR.items() if k not in ("type", "sel")}
    native = native_results(tiny_model(**options, precision=precision), coord, atype, cell)["features"]
    scalars, vectors = features(descriptor(precision=precision), coord, atype, cell)
    layers = native.reshape(len(atype), 2, 16)  # 4x0e + 4x1o, twice
    assert_close(scalars, layers[:, :, :4].reshape(len(atype), 8), NATIVE[precision], "scalars")
    assert_close(vectors, layers[:, :, 4:].reshape(len(atype), 8, 3), NATIVE[precision], "vectors")


def test_answers():
    made = descriptor()
    assert isinstance(made, GraphDescriptor)
    assert BaseDescriptor.get_class_by_type("mace") is MaceDescriptor
    assert (made.get_dim_out(), made.get_dim_emb(), made.get_ntypes()) == (8, 8, 2)
    assert made.get_sel() == [151]
    assert made.has_message_passing()
    assert not descriptor(num_interactions=1).has_message_passing()


@pytest.mark.parametrize("parity", ["O(3)", "SO(3)"])
def test_scalars_stay_and_vectors_turn(parity):
    even = {"use_so3": True, "hidden_irreps": "4x0e + 4x1e", "num_channels": None, "max_L": None}
    made = descriptor(**(even if parity == "SO(3)" else {}))
    coord, atype, cell = random_frame()
    turn = rotation()
    scalars, vectors = features(made, coord, atype, cell)
    turned_scalars, turned_vectors = features(made, coord @ turn.T, atype, cell @ turn.T)
    assert_close(turned_scalars, scalars, 1e-10, "scalars")
    assert_close(turned_vectors, vectors @ turn.T, 1e-10, "vectors")


@pytest.mark.parametrize("scripted", [False, True])
def test_forces_and_virial_are_derivatives(scripted):
    """Forces by displacements, the virial by a strain, with ghosts."""
    made = model()
    made = torch.jit.script(made) if scripted else made
    coord, atype, cell = random_frame()
    result = our_results(made, coord, atype, cell)

    def energy(moved, box):
        return our_results(made, moved, atype, box)["energy"][0]

    step, rng = 1e-4, np.random.default_rng(0)
    direction = rng.normal(size=coord.shape)
    slope = (energy(coord + step * direction, cell) - energy(coord - step * direction, cell)) / (2 * step)
    assert_close(-np.sum(result["force"] * direction), slope, FINITE_DIFFERENCE, "force")
    strain = rng.normal(size=(3, 3))
    more, less = np.eye(3) + step * strain, np.eye(3) - step * strain
    slope = (energy(coord @ more, cell @ more) - energy(coord @ less, cell @ less)) / (2 * step)
    assert_close(-np.sum(result["virial"].reshape(3, 3) * strain), slope, FINITE_DIFFERENCE, "virial")


def test_exchange_gives_what_folding_gives():
    """A rank that sends its ghosts to itself, as LAMMPS does, and images folded onto their owners."""
    made = model()
    (coord, atype, box), (ext_coord, ext_atype, mapping, nlist) = extended([random_frame()], made.get_rcut())
    expected = made(coord, atype, box, do_atomic_virial=True)
    _kept, comm = self_send(atype.shape[1], mapping)
    for mapped, lists in ((None, comm), (mapping, comm), (mapping, None)):
        out = made.forward_lower(ext_coord, ext_atype, nlist, mapped, do_atomic_virial=True, comm_dict=lists)
        for name, value in folded(out, mapping, atype.shape[1]).items():
            if name != "atom_virial":
                assert_close(value.numpy(), expected[name].detach().numpy(), RANKS["float64"], name)


def test_dipoles_and_polarizabilities_turn_with_the_structure():
    coord, atype, cell = random_frame()
    turn = rotation()
    dipole, polar = model("dipole"), model("polar")
    before = our_results(dipole, coord, atype, cell)["global_dipole"]
    after = our_results(dipole, coord @ turn.T, atype, cell @ turn.T)["global_dipole"]
    assert_close(after, turn @ before, 1e-10, "dipole")
    assert np.abs(before).max() > 1e-4
    before = our_results(polar, coord, atype, cell)["global_polar"].reshape(3, 3)
    after = our_results(polar, coord @ turn.T, atype, cell @ turn.T)["global_polar"].reshape(3, 3)
    assert_close(after, turn @ before @ turn.T, 1e-10, "polarizability")
    assert_close(before, before.T, 1e-10, "symmetry")


def test_dipoles_need_vectors():
    with pytest.raises(ValueError, match='have no vectors.*"max_L": 1'):
        model("dipole", max_L=0)
    with pytest.raises(ValueError, match='"num_interactions": 2 or more'):
        model("polar", num_interactions=1)
    assert model("dipole", keep_last_layer_irreps=False).get_descriptor().get_dim_emb() == 4


@pytest.mark.parametrize("scripted", [False, True])
def test_no_neighbour_is_left_out(scripted):
    """Exactly as many neighbours as there is room for are taken; one more is an error, not another energy."""
    coord, atype, cell = random_frame()
    expected = our_results(model(), coord, atype, cell)["energy"]
    (_, _, _), (_, _, _, nlist) = extended([(coord, atype, cell)], DESCRIPTOR["r_max"])
    most = int((nlist >= 0).sum(dim=2).max())
    for room in (most, most - 1):
        made = model(sel=room)
        made = torch.jit.script(made) if scripted else made
        if room == most:
            assert our_results(made, coord, atype, cell)["energy"] == pytest.approx(expected, abs=1e-12)
        else:
            with pytest.raises(Exception, match=f"more than {room} neighbours within 4"):
                our_results(made, coord, atype, cell)


def test_excluded_pairs():
    """As in "type": "mace", and as DeePMD-kit's own key, which takes them out of the list."""
    coord, atype, cell = random_frame()
    ours = our_results(model(exclude_types=[[0, 1]]), coord, atype, cell)["energy"]
    hosts = get_model({**section(), "pair_exclude_types": [[0, 1]]}).eval()
    assert ours == pytest.approx(our_results(hosts, coord, atype, cell)["energy"], abs=1e-12)
    assert ours != pytest.approx(our_results(model(), coord, atype, cell)["energy"], abs=1e-6)


def test_padding_and_small_systems():
    made = torch.jit.script(model())
    coord, atype, cell = random_frame()
    alone = our_results(made, coord, atype, cell)
    padded = our_results(made, np.vstack([coord, coord[:2] + 0.1]), [*atype, -1, -1], cell)
    assert padded["energy"] == pytest.approx(alone["energy"], abs=1e-12)
    lone = our_results(made, [[1.0, 2.0, 3.0]], [1], None)
    assert np.isfinite(lone["energy"]).all()
    assert not lone["force"].any()
    empty = made(torch.zeros(1, 0, 3, dtype=torch.float64), torch.zeros(1, 0, dtype=torch.int64), None)
    assert empty["energy"].tolist() == [[0.0]]


def test_a_rank_without_anything_is_refused():
    made = model()
    comm = self_send(0, torch.zeros(1, 0, dtype=torch.int64))[1]
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="neither atoms nor ghosts"):
        made.forward_lower(torch.zeros(1, 0, 3), nothing, nothing.view(1, 0, 0), None, comm_dict=comm)


def test_statistics(tmp_path):
    """The mean number of neighbours, from the data and then from the file; with excluded pairs it is another."""
    coord, atype, cell = random_frame()
    sample = {
        "coord": torch.tensor(coord[None]),
        "atype": torch.tensor(atype[None]),
        "box": cell.reshape(1, 9),
    }
    (_, _, _), (_, _, _, nlist) = extended([(coord, atype, cell)], DESCRIPTOR["r_max"])
    path = DPPath(str(tmp_path), "a")
    made = descriptor(avg_num_neighbors="auto")
    made.compute_input_stats(lambda: [sample], path)
    assert float(made.network.avg_num_neighbors) == pytest.approx(int((nlist >= 0).sum()) / 12)

    def never():
        raise AssertionError("the file has them")

    again = descriptor(avg_num_neighbors="auto")
    again.compute_input_stats(never, path)
    assert torch.equal(again.get_stat_mean_and_stddev()[0], made.get_stat_mean_and_stddev()[0])
    fewer = descriptor(avg_num_neighbors="auto", exclude_types=[[0, 1]])
    fewer.compute_input_stats([sample], path)
    assert float(fewer.network.avg_num_neighbors) < float(made.network.avg_num_neighbors)


def test_round_trip():
    made = descriptor(exclude_types=[[0, 0]], freeze=["node_embedding"], seed=None, precision="float32")
    again = BaseDescriptor.deserialize(made.serialize())
    frame = random_frame()
    for ours, theirs in zip(features(made, *frame), features(again, *frame), strict=True):
        assert np.array_equal(ours, theirs)
    assert again.get_sel() == made.get_sel()
    assert not again.network.node_embedding.linear.weight.requires_grad
    newer = {**made.serialize(), "@version": 99, "@versions": {"deepmd-gnn": "99.0"}}
    with pytest.raises(ValueError, match="mace descriptor: this file"):
        BaseDescriptor.deserialize(newer)


def test_other_elements():
    """Elements that are known keep what they give, in any order; a new one starts anew."""
    made, frame = descriptor(exclude_types=[[0, 0]]), random_frame()
    coord, atype, cell = frame
    expected = features(made, *frame)
    changed = copy.deepcopy(made)
    changed.change_type_map(["H", "C", "O"])
    found = features(changed, coord, np.where(atype == 0, 2, 0), cell)
    for ours, theirs in zip(found, expected, strict=True):
        assert_close(ours, theirs, 1e-12)
    assert changed.exclude_types == [[2, 2]]
    assert changed.get_ntypes() == 3


def test_sharing():
    first, second = descriptor(), descriptor(seed=2)
    first.counted, second.counted = [100.0, 10.0], [300.0, 20.0]
    second.share_params(first, 0)
    assert second.network is first.network
    assert float(first.network.avg_num_neighbors) == pytest.approx(400 / 30)
    with pytest.raises(ValueError, match="only level 0"):
        second.share_params(first, 1)
    with pytest.raises(ValueError, match="'r_max' is 4.0 in the other task and 3.0 here"):
        descriptor(r_max=3.0).share_params(first, 0)
    with pytest.raises(ValueError, match="cannot be shared with a model of"):
        first.share_params(tiny_model().get_descriptor(), 0)


def test_weights_of_another_descriptor_are_refused():
    """The cutoff is in no shape; the type map must be the same, too."""
    state = model().state_dict()
    model(seed=5).load_state_dict(state)
    with pytest.raises(ValueError, match="'r_max' is 4.0 in the file and 3.5 here"):
        model(r_max=3.5).load_state_dict(state)
    with pytest.raises(ValueError, match="'type_map' is .* use --finetune"):
        get_model({**section(), "type_map": ["H", "O"]}).load_state_dict(state)


def test_frozen_weights():
    made = model(trainable=False)
    assert not any(p.requires_grad for p in made.get_descriptor().parameters())
    assert any(p.requires_grad for p in made.get_fitting_net().parameters())


def test_what_is_not_here_is_refused():
    with pytest.raises(NotImplementedError, match="dp compress"):
        model().enable_compression()
    for call in (NotExported, NotExported.update_sel, NotExported.deserialize):
        with pytest.raises(NotImplementedError, match="frozen with `dp --pt freeze`"):
            call()
    with pytest.raises(ValueError, match="MM types mH"):
        get_model({**section(), "type_map": ["O", "mH"]})


def test_exportable_backend_refuses():
    with pytest.raises(NotImplementedError, match='"type": "mace" in the model section'):
        exportable_model(section())


def test_beside_another_descriptor():
    """In a hybrid descriptor, features of both stand side by side."""
    other = {
        "type": "se_e2_a",
        "rcut": 4.0,
        "rcut_smth": 1.0,
        "sel": [60, 60],
        "neuron": [2, 4],
        "axis_neuron": 2,
        "seed": 1,
    }
    made = get_model({**section(), "descriptor": {"type": "hybrid", "list": [DESCRIPTOR, other]}}).eval()
    assert made.get_descriptor().get_dim_out() == 8 + 8
    assert np.isfinite(our_results(torch.jit.script(made), *random_frame())["force"]).all()


def test_second_derivatives():
    """For a loss on Hessians."""
    made = get_model({**section(), "hessian_mode": True}).eval()
    coord, atype, _ = random_frame(natoms=4)
    hessian = made(torch.tensor(coord[None]), torch.tensor(atype[None]), None)["hessian"].reshape(12, 12)
    assert_close(hessian.numpy(), hessian.T.numpy(), 1e-10)

    def force(moved):
        return our_results(made, moved, atype, None)["force"]

    step = 1e-4 * np.eye(12)[5].reshape(4, 3)
    slope = (force(coord - step) - force(coord + step)).ravel() / 2e-4
    assert_close(hessian[5].numpy(), slope, 1e-5)
