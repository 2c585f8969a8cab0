"""Libraries and memory of compiled files, and evaluations that are repeated, as far as no GPU is needed."""

import logging
import sys

import pytest
import torch
import torch._inductor.config as inductor_config
from helpers import random_frame, tiny_model
from interpreted import interpreted

from deepmd_gnn.graph.atom_graph import with_edge_vec
from deepmd_gnn.graph.compilation import compilation, compiling
from deepmd_gnn.kernels.cpu import compiler, library, memory
from deepmd_gnn.kernels.cpu.library import Library
from deepmd_gnn.kernels.cpu.targets import Machine
from deepmd_gnn.kernels.triton import probe_kernel, replay
from deepmd_gnn.kernels.triton.replay import Replay

# --- C++ --------------------------------------------------------------------------------------------------------


class Compiler:
    """In the place of the compiler: keeps what it is given."""

    def __init__(self, sources, flags):
        self.sources, self.flags = sources, flags

    def object(self, name, *options):
        return library.Path(f"{name}.o")

    def made(self, name, inputs, *options):
        return library.Path(name)

    def archive(self, name, objects):
        return library.Path(f"/made/lib{name}.a")


@pytest.fixture
def made(monkeypatch):
    """Nothing is compiled; functions of the library note their arguments and give a status."""

    class Functions(dict):
        calls, status = [], 0

        def __missing__(self, name):
            return lambda *values: self.calls.append((name, [value.value for value in values])) or self.status

    functions = Functions()
    monkeypatch.setattr(library, "Compiled", Compiler)
    monkeypatch.setattr(library.ctypes, "CDLL", lambda path: functions)
    return functions


def test_source_of_a_library(made):
    """Precision, vectors, a case for every layer, and the features of the CPU that are asked for."""
    machine = Machine(32, 10, ("-mavx2",), ("avx2", "fma"))
    built = Library(
        ["struct Convolution0 {};", "struct Contraction0 {};"], "// mixing", 2, torch.float32, machine, 1
    )
    assert built.lanes == 8
    text = built.compiled.sources["kernels"]
    assert text.startswith("typedef float T;\n#define VECTOR_BYTES 32\n")
    assert "struct Contraction0" in text
    assert "@" not in text.replace("@ ", "")
    for layer in range(2):
        assert text.count(f"case {layer}: call(static_cast<mace::Convolution{layer}*>") == 2
    assert text.count("case 0: call(static_cast<mace::Contraction0*>") == 2
    assert "Contraction1" not in text  # a network may have fewer of them than layers
    assert "case 2:" not in text
    assert "CPUs with avx2, fma, which" in text
    assert "@T@" not in built.compiled.sources["shim"]
    assert built.compiled.flags == ("-mavx2",)


def test_calls_hand_over_the_data_of_tensors(made):
    built = Library([], "", 1, torch.float64, Machine(16, 10, (), ()), 1)
    x, empty = torch.rand(3, dtype=torch.float64), torch.zeros(0)
    built.call("mace_contract", 1, x, empty, 2.5)
    assert made.calls == [("mace_contract", [1, x.data_ptr(), None, 2.5])]
    with pytest.raises(AssertionError):
        built.call("mace_contract", torch.rand(3, 2).t())
    made.status = 1
    with pytest.raises(
        RuntimeError, match="mace_contract failed: no such layer, or not the CPU it was compiled for"
    ):
        built.call("mace_contract", 7)


def test_results_leave_the_memory_that_a_file_keeps():
    value = torch.rand(4, 3).t()
    assert memory.results({"a": value})["a"] is value
    with compiling(keeps_memory=True):
        found = memory.results({"a": value})["a"]
    assert torch.equal(found, value)
    assert found.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()


@pytest.mark.parametrize(("name", "option"), [("g++ 12", False), ("Debian clang 14", True)])
def test_libraries_that_clang_adds_are_left_out(name, option, monkeypatch):
    monkeypatch.setattr(compiler, "Compiled", Compiler)
    monkeypatch.setattr(compiler, "compiler_name", lambda: name)
    assert compiler.cpu_guard(Machine(16, 10, (), ())).endswith("--as-needed") == option


@pytest.mark.parametrize(("platform", "links"), [("linux", True), ("darwin", False)])
def test_memory_is_linked_where_the_linker_can(platform, links, monkeypatch):
    monkeypatch.setattr(compiler, "Compiled", Compiler)
    monkeypatch.setattr(sys, "platform", platform)
    config = inductor_config.aot_inductor
    before = list(config.custom_op_libs or [])
    with memory.kept_memory():
        assert compilation().keeps_memory == links
        added = [entry for entry in config.custom_op_libs or [] if entry not in before]
        assert ["--wrap=aoti_torch_empty_strided" in entry for entry in added] == [True] * links
        assert (memory.result._opoverload in config.custom_ops_to_c_shims) == links
    assert not compilation().keeps_memory
    assert list(config.custom_op_libs or []) == before


# --- GPU --------------------------------------------------------------------------------------------------------


def test_the_kernel_that_is_tried_first():
    result = torch.zeros(3, dtype=torch.int64)
    with interpreted(probe_kernel):
        probe_kernel.answer[(1,)](result)
    assert result.tolist() == [1, 0, 0]


def evaluated(graph, atype, nloc, nall):
    """Sums over the edges of each receiver, by `order` and `begin` alone, as the kernels do, and over all close edges, as torch does."""
    nf = atype.shape[0]
    close = (torch.linalg.norm(graph.edge_vec, dim=1) < 4.0).to(torch.float64)
    sums = torch.zeros(graph.node_types.shape[0], dtype=torch.float64)
    sums.index_add_(0, graph.edge_index[1], close * (2.0 + graph.edge_vec[:, 0]))
    force = torch.zeros(nf * nall, 3, dtype=torch.float64)
    for node in range(1, len(sums)):
        for edge in graph.order[graph.begin[node] : graph.begin[node + 1]].tolist():
            sender, atom = graph.edge_index[0, edge], graph.edge_atoms[0, edge]
            sums[node] += graph.edge_vec[edge].square().sum() * (1 + graph.sender_types[sender])
            force[atom - 1] += graph.edge_vec[edge]
    energy = sums[1:] + graph.node_types[1:] + 10 * atype.reshape(-1)
    return energy.view(nf, nloc, 1), force.view(nf, nall, 3), force.view(nf, nall, 3).repeat(1, 1, 3)


class Graph:
    """As a captured CUDA graph: does with the arrays of the capture what was done then."""

    def __init__(self, captured):
        self.inputs, self.atype, self.result, self.shape = captured

    def replay(self):
        for kept, value in zip(self.result, evaluated(self.inputs, self.atype, *self.shape), strict=True):
            kept.copy_(value)


class Captures(Replay):
    """Captures without a GPU, until memory is out."""

    out_of_memory = False

    def _capture(self, size, graph, atype, nloc, nall):
        if self.out_of_memory:
            raise RuntimeError("out of memory")
        while len(self.captured) >= replay.KEPT:
            self.captured.popitem(last=False)
        inputs = replay.with_room(graph, int(graph.edge_vec.shape[0] * replay.ROOM) + 3)
        types = atype.clone()
        result = tuple(torch.empty_like(value) for value in evaluated(inputs, types, nloc, nall))
        kept = Graph((inputs, types, result, (nloc, nall)))
        self.captured[size] = replay._Captured(kept, inputs, types, result)


@pytest.fixture(scope="module")
def builder():
    builder = tiny_model(max_ell=1, num_channels=2).graphs
    builder.for_kernels = True
    return builder


def graph_of(builder, seed, natoms=4):
    coord, atype, cell = (
        torch.tensor(part)[None] for part in random_frame(natoms=natoms, box_length=5.0, seed=seed)
    )
    graph = builder.of_frames(coord, atype, cell)
    return with_edge_vec(graph, graph.edge_vec.detach()), atype, natoms, natoms


def test_repeated_evaluations(builder):
    """From the third of a size on, whatever the number of edges; what was returned before stays."""
    counted = []
    repeats = Captures(lambda *inputs: counted.append(1) or evaluated(*inputs))
    edges, results, expected = set(), [], []
    for seed in range(6):
        inputs = graph_of(builder, seed)
        edges.add(inputs[0].edge_vec.shape[0])
        results.append(repeats(*inputs))
        expected.append(evaluated(*inputs))
    assert len(edges) > 1
    assert len(counted) == replay.BEFORE_CAPTURE
    for found, values in zip(results, expected, strict=True):
        for one, other in zip(found, values, strict=True):
            assert torch.equal(one, other)


def test_sizes_of_their_own(builder):
    """The last few are kept, and large systems are evaluated as they are."""
    repeats = Captures(evaluated)
    for natoms in (3, 4, 5, 6, 7):
        for seed in range(3):
            inputs = graph_of(builder, seed, natoms)
            for one, other in zip(repeats(*inputs), evaluated(*inputs), strict=True):
                assert torch.equal(one, other)
    assert [size[1] for size in repeats.captured] == [4, 5, 6, 7]


def test_large_systems_are_not_captured(builder, monkeypatch):
    monkeypatch.setattr(replay, "MOST_NODES", 4)
    repeats = Captures(evaluated)
    for seed in range(4):
        repeats(*graph_of(builder, seed))
    assert not repeats.captured


def test_memory_of_captures(builder, monkeypatch):
    """Beyond some atoms only where there is plenty."""
    monkeypatch.setattr(replay, "CHEAP_NODES", 4)
    for free, captured in ((1e5, 0), (1e9, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, 2e9))
        repeats = Captures(evaluated)
        for seed in range(4):
            repeats(*graph_of(builder, seed))
        assert len(repeats.captured) == captured


def test_what_cannot_be_captured_is_evaluated(builder, caplog):
    repeats = Captures(evaluated)
    repeats.out_of_memory = True
    with caplog.at_level(logging.INFO):
        for seed in range(5):
            inputs = graph_of(builder, seed)
            assert torch.equal(repeats(*inputs)[0], evaluated(*inputs)[0])
    assert caplog.text.count("are not captured as a CUDA graph: out of memory") == 1
