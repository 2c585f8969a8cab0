"""No hidden CPU: everything that evaluates and trains runs on a device that does not mix with the CPU, with the CPU's numbers."""

import contextlib
from pathlib import Path

import pytest
import torch
import torch._inductor.config as inductor_config
from architectures import architectures
from deepmd.pt_expt.utils import env
from helpers import extended, random_frame, tiny_model
from other_device import DEVICE, OtherTensor, other_device, to_cpu, to_device, to_other_device
from training_data import loss_of, sampled_frames

from deepmd_gnn.graph.arrangement import arrange_in_chunks, chunks_of, in_chunks
from deepmd_gnn.graph.compilation import compilation
from deepmd_gnn.host.freezing import whole_exports
from deepmd_gnn.kernels import install as freezing
from deepmd_gnn.kernels.cpu.generated import radial_tables
from deepmd_gnn.kernels.tables.lookup import Tables
from deepmd_gnn.kernels.triton import linking

OPTIONS = architectures("training")
ARCHITECTURES = OPTIONS | {
    "float32": {"precision": "float32"},
    "excluded": {"pair_exclude_types": [[0, 1]], "atom_exclude_types": [0]},
    "SO(3), gaussian": {"use_so3": True, "radial_type": "gaussian", "distance_transform": "Soft"},
}
TRAINED = OPTIONS | {"cuEquivariance": {"enable_cueq": True}}


def batch(periodic=True):
    coord, atype, cell = random_frame(natoms=9)
    box = torch.tensor(cell).reshape(1, 9) if periodic else None
    return torch.tensor(coord).unsqueeze(0), torch.tensor(atype).unsqueeze(0), box


def assert_equal(on_device, on_cpu):
    assert on_device.keys() == on_cpu.keys()
    for name, value in on_cpu.items():
        assert isinstance(on_device[name], OtherTensor), name
        torch.testing.assert_close(to_cpu(on_device[name]), value, rtol=1e-12, atol=1e-12, msg=name)


def test_tensors_of_two_devices_do_not_mix(monkeypatch):
    with other_device(monkeypatch):
        there, here = to_device(torch.ones(3)), torch.ones(3)
        with pytest.raises(RuntimeError, match="a tensor of the CPU"):
            there + here
        assert (there * 2.0).device == DEVICE
        assert torch.zeros(2, device=DEVICE).device == DEVICE
        assert torch.tensor([1, 2], device=DEVICE).device == DEVICE


@pytest.mark.parametrize("periodic", [True, False], ids=["periodic", "molecule"])
@pytest.mark.parametrize("option", ARCHITECTURES)
def test_evaluation(option, periodic, monkeypatch):
    model = tiny_model(**ARCHITECTURES[option])
    frames = batch(periodic)
    on_cpu = model(*frames, do_atomic_virial=True)
    with other_device(monkeypatch):
        on_device = to_other_device(model)(*to_device(frames), do_atomic_virial=True)
    assert_equal(on_device, on_cpu)


@pytest.mark.parametrize("option", TRAINED)
def test_gradients_of_training(option, monkeypatch):
    model = tiny_model(**TRAINED[option]).train()

    def gradients(frames, move):
        out = model(*frames)
        loss_of(*(out[name] for name in ("energy", "force", "virial")), move).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    on_cpu = gradients(batch(), lambda tensor: tensor)
    with other_device(monkeypatch):
        to_other_device(model)
        assert_equal(gradients(to_device(batch()), to_device), on_cpu)
    assert ("_cuequivariance" in model.__dict__) == (option == "cuEquivariance")


def test_list_of_neighbors(monkeypatch):
    model = tiny_model()
    _, (coord, atype, owner, nlist) = extended([random_frame()], model.get_rcut())
    lower = (coord, atype, nlist, owner)

    def evaluate(inputs):
        return model.forward_lower(*inputs, do_atomic_virial=True)

    on_cpu = evaluate(lower)
    with other_device(monkeypatch):
        to_other_device(model)
        assert_equal(evaluate(to_device(lower)), on_cpu)
        # LAMMPS on one rank hands over both: nothing is exchanged. (An empty dictionary would end an exchange.)
        found = model.forward_lower(*to_device(lower), do_atomic_virial=True, comm_dict={})
        assert_equal(found, on_cpu)


@pytest.mark.parametrize("tabulated", [False, True], ids=["networks", "tables"])
def test_list_of_edges(tabulated, monkeypatch):
    """What a ``.pt2`` for a GPU is made of."""
    model = tiny_model()
    frames = batch()
    graph = model.graphs.of_frames(*frames)
    count = torch.tensor([9])
    edge_vec = graph.edge_vec[1:]
    edges = (frames[1][0], count, count, graph.edge_index[:, 1:] - 1, edge_vec, torch.ones(len(edge_vec)) > 0)
    tables = Tables(radial_tables(model.energy_model)).installed(model.energy_model)
    with tables if tabulated else contextlib.nullcontext():
        on_cpu = model.forward_common_lower_graph(*edges, do_atomic_virial=True)
        with other_device(monkeypatch):
            to_other_device(model)
            on_device = model.forward_common_lower_graph(*to_device(edges), do_atomic_virial=True)
    assert_equal(on_device, on_cpu)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_kernels_for_both_devices(target, monkeypatch, tmp_path, caplog):
    """Compiling for a GPU, which cannot be run here, is left to the host; this is what we hand to it."""
    seen = {}

    def compile_it(model_file, data, *rest):
        enters = (
            "convolve" in str(inductor_config.aot_inductor.custom_ops_to_c_shims),
            compilation().keeps_memory,
        )
        seen.update(kernels=freezing.calls_kernels(), linked=enters, noted=data["model"]["@kernels"])
        Path(model_file).write_text("compiled", encoding="utf-8")

    monkeypatch.setattr(env, "DEVICE", torch.device(target))
    monkeypatch.setattr(linking, "capability", lambda: 90)
    monkeypatch.setattr("deepmd_gnn.host.freezing.check_file", lambda *_: seen.update(checked=True))
    whole_exports(compile_it)(str(tmp_path / "model.pt2"), {"model": tiny_model().serialize()})
    on_cpu = target == "cpu"
    assert seen.pop("noted").keys() >= ({"tables", "cpu_features" if on_cpu else "capability"})
    assert seen == {"kernels": True, "linked": (True, on_cpu), "checked": True}
    assert "no generated kernels" not in caplog.text


def test_chunks_are_chosen_where_the_graph_is(monkeypatch):
    """A frozen model may run on another device than the one it was frozen on."""
    graph = tiny_model().graphs.of_frames(*batch())
    slots, nnode = 8, len(graph.node_types)
    scripted = torch.jit.script(in_chunks)
    for arrange in (in_chunks, scripted):
        assert len(arrange(graph, slots).chunk_nodes) > 1
    assert len(chunks_of(arrange_in_chunks(graph.edge_index[1], nnode, slots)[2])[0]) > 1
    with other_device(monkeypatch):
        moved = to_device(graph)
        for arrange in (in_chunks, scripted):
            assert arrange(moved, slots).chunk_nodes == [nnode]
        table = arrange_in_chunks(moved.edge_index[1], nnode, slots)[2]
        assert table.device.type == "cpu"
        assert sum(chunks_of(table)[0]) == nnode


def test_default_device():
    """torch's default device, which other programs in the process may set, is not where the model makes its tensors."""
    frames, sample = batch(), sampled_frames()
    coord, atype, owner, nlist = extended([random_frame()], 4.0)[1]
    results = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = tiny_model(avg_num_neighbors="auto", scale="auto")
            model.compute_or_load_stat(lambda: [sample])
            model.change_out_bias([sample])
            whole = model(*frames, do_atomic_virial=True)
            lower = model.forward_lower(coord, atype, nlist, owner)
            graph = model.graphs.of_frames(*frames)
            table = arrange_in_chunks(graph.edge_index[1], len(graph.node_types), 5)[2]
            trained = model.train()(*frames)
            (trained["energy"].sum() + trained["force"].square().sum()).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append([whole, lower, gradients, chunks_of(table)])
    torch.testing.assert_close(*results, rtol=0.0, atol=0.0)


def test_statistics(monkeypatch):
    sample = sampled_frames()
    options = {"avg_num_neighbors": None, "scale": None, "atomic_energies": None}
    here, there = tiny_model(**options), tiny_model(**options)
    before = {name: value.clone() for name, value in here.state_dict().items()}
    here.compute_or_load_stat(lambda: [sample])
    on_cpu = here.state_dict()
    assert sum(not torch.equal(value, before[name]) for name, value in on_cpu.items()) >= 3
    with other_device(monkeypatch):
        to_other_device(there).compute_or_load_stat(lambda: [to_device(sample)])
        assert_equal(there.state_dict(), on_cpu)
