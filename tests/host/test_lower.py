"""The interfaces with a host's neighbour list give the numbers of ``forward``."""

import inspect

import pytest
import torch
from conformance import assert_equal
from deepmd.pt.model.model.ener_model import EnergyModel
from deepmd.pt_expt.model.ener_model import EnergyModel as ExportableModel
from helpers import assert_close, extended, folded, random_frame, self_send, tiny_model
from lammps_cases import NoExchange
from tolerances import NATIVE

from deepmd_gnn.host.lowers import Lowers
from deepmd_gnn.kernels.tables.scripted import tabulate


def in_lower(model, lower, comm_dict=None, mapping=True):
    """Results of ``forward_lower`` under the names of ``forward``."""
    coord, atype, owner, nlist = lower
    out = model.forward_lower(
        coord, atype, nlist, owner if mapping else None, None, None, True, comm_dict, None
    )
    return folded(out, owner, nlist.shape[1])


@pytest.mark.parametrize(
    ("host", "name"),
    [
        (EnergyModel, "forward"),
        (EnergyModel, "forward_lower"),
        (EnergyModel, "forward_common_lower"),
        (ExportableModel, "forward_common_lower_graph"),
    ],
)
def test_arguments_are_the_hosts(host, name):
    """Its C++ interface hands over arguments by their place."""
    ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (Lowers, host))
    assert list(ours)[: len(theirs)] == list(theirs)
    # What we add has a default.
    assert all(ours[key].default is not inspect.Parameter.empty for key in list(ours)[len(theirs) :])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("skin", [0.0, 1.5])
@pytest.mark.parametrize("nf", [1, 2])
def test_padded_shuffled_list(layers, skin, nf):
    model = tiny_model(num_interactions=layers)
    whole, lower = extended([random_frame(seed=s) for s in range(nf)], model.get_rcut() + skin)
    coord, atype, owner, nlist = lower
    shuffled = nlist[:, :, torch.randperm(nlist.shape[2])]
    assert_equal(in_lower(model, (coord, atype, owner, shuffled)), model(*whole, do_atomic_virial=True))


def test_common_names():
    model = tiny_model()
    whole, (coord, atype, owner, nlist) = extended([random_frame()], model.get_rcut())
    inner = model.forward_common_lower(coord, atype, nlist, owner)
    outer = model.forward_lower(coord, atype, nlist, owner, do_atomic_virial=True)
    assert torch.equal(inner["energy_derv_r"].squeeze(2), outer["extended_force"])
    assert torch.equal(inner["energy_derv_c"].squeeze(2), outer["extended_virial"])
    assert {v.dtype for k, v in inner.items() if k != "mask"} == {torch.float64}


def staged(model):
    """The same model with tables, and all its layers in stages, as a `.pth` of many atoms."""
    tabulate(model)
    for product in model.energy_model.products:
        product.symmetric_contractions.fewest = 0
    return model


@pytest.mark.parametrize("kind", ["eager", "scripted", "scripted, in stages"])
@pytest.mark.parametrize("layers", [2, 3])
def test_exchange_with_oneself_equals_mapping(kind, layers):
    model = tiny_model(num_interactions=layers, max_L=2)
    model = staged(model) if "stages" in kind else model
    whole, lower = extended([random_frame()], model.get_rcut())
    expected = model(*whole, do_atomic_virial=True)
    keep_alive, comm = self_send(12, lower[2])
    runner = model if kind == "eager" else torch.jit.script(model)
    # A mapping that points nowhere must not be read: the C++ interface hands over freed memory.
    nonsense = lower[2] + 10**6
    coord, atype, owner, nlist = lower
    out = runner.forward_lower(coord, atype, nlist, nonsense, None, None, True, comm, None)
    assert_equal(folded(out, owner, 12), expected)
    assert len(keep_alive) > 0


def test_without_the_exchange_the_numbers_change():
    """The test above can fail: zero features on the ghosts give other forces."""
    model = tiny_model()
    whole, lower = extended([random_frame()], model.get_rcut())
    _, comm = self_send(12, lower[2])

    model.energy_model.exchange = NoExchange()
    out = in_lower(model, lower, comm)
    with pytest.raises(AssertionError, match="relative deviation"):
        assert_equal(out, tiny_model()(*whole, do_atomic_virial=True))


def test_missing_mapping_is_refused():
    model = tiny_model()
    _, (coord, atype, _, nlist) = extended([random_frame()], model.get_rcut())
    with pytest.raises(ValueError, match="need a mapping"):
        model.forward_lower(coord, atype, nlist)


def test_several_frames_with_communication_are_refused():
    """The host's lists are those of one frame."""
    model = tiny_model()
    _, lower = extended([random_frame(seed=s) for s in range(2)], model.get_rcut())
    _, comm = self_send(12, lower[2][:1])
    with pytest.raises(ValueError, match="communication tensors need exactly one frame"):
        in_lower(model, lower, comm)


@pytest.mark.parametrize("made", [lambda model: model, staged], ids=["plain", "in stages"])
@pytest.mark.parametrize("nghost", [0, 3])
def test_rank_without_atoms(nghost, made):
    """Ranks without owned atoms, with and without ghosts, run the same code and exchanges."""
    model = torch.jit.script(made(tiny_model()))
    _, comm = self_send(nghost, torch.zeros(1, nghost, dtype=torch.int64))
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
