"""The interfaces with a host's neighbour list give the numbers of ``forward``."""

import pytest
import torch
from helpers import assert_close, extended, random_frame, tiny_model
from lammps_cases import NoExchange
from tolerances import NATIVE


def folded(model, lower, comm_dict=None, mapping=True):
    coord, atype, owner, nlist = lower
    out = model.forward_lower(
        coord, atype, nlist, owner if mapping else None, None, None, True, comm_dict, None
    )
    nf, nloc = nlist.shape[:2]
    for key, width in (("extended_force", 3), ("extended_virial", 9)):
        index = owner.unsqueeze(2).expand(-1, -1, width)
        out[key] = torch.zeros(nf, nloc, width, dtype=torch.float64).scatter_add(1, index, out[key])
    return out


def assert_same(out, whole):
    names = {
        "energy": "energy",
        "atom_energy": "atom_energy",
        "extended_force": "force",
        "virial": "virial",
        "extended_virial": "atom_virial",
    }
    for ours, theirs in names.items():
        assert_close(out[ours].numpy(), whole[theirs].detach().numpy(), NATIVE["float64"], ours)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("skin", [0.0, 1.5])
@pytest.mark.parametrize("nf", [1, 2])
def test_padded_shuffled_list(layers, skin, nf):
    model = tiny_model(num_interactions=layers)
    whole, lower = extended([random_frame(seed=s) for s in range(nf)], model.get_rcut() + skin)
    coord, atype, owner, nlist = lower
    shuffled = nlist[:, :, torch.randperm(nlist.shape[2])]
    assert_same(folded(model, (coord, atype, owner, shuffled)), model(*whole, do_atomic_virial=True))


def test_common_names():
    model = tiny_model()
    whole, (coord, atype, owner, nlist) = extended([random_frame()], model.get_rcut())
    inner = model.forward_common_lower(coord, atype, nlist, owner)
    outer = model.forward_lower(coord, atype, nlist, owner, do_atomic_virial=True)
    assert torch.equal(inner["energy_derv_r"].squeeze(2), outer["extended_force"])
    assert torch.equal(inner["energy_derv_c"].squeeze(2), outer["extended_virial"])
    assert {v.dtype for k, v in inner.items() if k != "mask"} == {torch.float64}


def self_send(nall, nloc, owner):
    """One rank that sends to itself: ghosts are filled from their owners by the host's own operator."""
    rows = owner[0, nloc:].to(torch.int32).contiguous()
    one = torch.ones(1, dtype=torch.int32)
    return rows, {
        "send_list": torch.tensor([rows.data_ptr()], dtype=torch.int64),
        "send_proc": one * 0,
        "recv_proc": one * 0,
        "send_num": one * (nall - nloc),
        "recv_num": one * (nall - nloc),
        "communicator": torch.zeros(1, dtype=torch.int64),
    }


@pytest.mark.parametrize("kind", ["eager", "scripted"])
@pytest.mark.parametrize("layers", [2, 3])
def test_exchange_with_oneself_equals_mapping(kind, layers):
    model = tiny_model(num_interactions=layers, max_L=2)
    whole, lower = extended([random_frame()], model.get_rcut())
    expected = model(*whole, do_atomic_virial=True)
    keep_alive, comm = self_send(
        lower[0].shape[1] if lower[0].dim() == 3 else lower[1].shape[1], 12, lower[2]
    )
    runner = torch.jit.script(model) if kind == "scripted" else model
    # A mapping that points nowhere must not be read: the C++ interface hands over freed memory.
    nonsense = lower[2] + 10**6
    coord, atype, owner, nlist = lower
    out = runner.forward_lower(coord, atype, nlist, nonsense, None, None, True, comm, None)
    for key, width in (("extended_force", 3), ("extended_virial", 9)):
        index = owner.unsqueeze(2).expand(-1, -1, width)
        out[key] = torch.zeros(1, 12, width, dtype=torch.float64).scatter_add(1, index, out[key])
    assert_same(out, expected)
    assert len(keep_alive) > 0


def test_without_the_exchange_the_numbers_change():
    """The test above can fail: zero features on the ghosts give other forces."""
    model = tiny_model()
    whole, lower = extended([random_frame()], model.get_rcut())
    _, comm = self_send(lower[1].shape[1], 12, lower[2])

    model.energy_model.exchange = NoExchange()
    out = folded(model, lower, comm)
    with pytest.raises(AssertionError, match="relative deviation"):
        assert_same(out, tiny_model()(*whole, do_atomic_virial=True))


def test_missing_mapping_is_refused():
    model = tiny_model()
    _, (coord, atype, _, nlist) = extended([random_frame()], model.get_rcut())
    with pytest.raises(ValueError, match="need a mapping"):
        model.forward_lower(coord, atype, nlist)


def test_several_frames_with_communication_are_refused():
    """The host's lists are those of one frame."""
    model = tiny_model()
    _, lower = extended([random_frame(seed=s) for s in range(2)], model.get_rcut())
    _, comm = self_send(lower[1].shape[1], 12, lower[2][:1])
    with pytest.raises(ValueError, match="communication tensors need exactly one frame"):
        folded(model, lower, comm)


@pytest.mark.parametrize("nghost", [0, 3])
def test_rank_without_atoms(nghost):
    """Ranks without owned atoms, with and without ghosts, run the same code and exchanges."""
    model = torch.jit.script(tiny_model())
    _, comm = self_send(nghost, nghost, torch.zeros(1, nghost, dtype=torch.int64))
    comm["recv_num"] += nghost  # announced, but nothing is sent: the features do not matter here
    coord = torch.rand(1, nghost, 3, dtype=torch.float64)
    out = model.forward_lower(
        coord,
        torch.zeros(1, nghost, dtype=torch.int64),
        torch.zeros(1, 0, 5, dtype=torch.int64),
        None,
        None,
        None,
        True,
        comm,
        None,
    )
    assert out["energy"].tolist() == [[0.0]]
    assert out["extended_force"].shape == (1, nghost, 3)
    assert not out["extended_force"].any()


def test_embedding_is_natives_node_features():
    from helpers import native_results

    model = tiny_model()
    coord, atype, cell = random_frame()
    features = model.forward_embedding(
        torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None])
    )
    assert_close(
        features["descriptor"][0].numpy(),
        native_results(model, coord, atype, cell)["features"],
        NATIVE["float64"],
    )
    assert features["atomic_feature"].shape == (1, 12, 4)
    assert torch.equal(features["atomic_feature"], features["descriptor"][:, :, -4:])
    with pytest.raises(RuntimeError, match="eval mode"):
        model.train().forward_embedding(torch.tensor(coord[None]), torch.tensor(atype[None]))
