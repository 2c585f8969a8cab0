"""The neighbour search for GPUs against the one in torch, in Triton's interpreter; and that Triton compiles it."""

import functools
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
from helpers import random_frame, tiny_model
from interpreted import interpreted
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.interpreter import GridExecutor, InterpretedFunction

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.builders import drop_pairs, make_graph
from deepmd_gnn.graph.neighbor_search import NeighborPairs
from deepmd_gnn.host import inputs as mace_graphs
from deepmd_gnn.kernels.triton import neighbor_kernels, neighbors, support
from deepmd_gnn.kernels.triton.graphs import graph_on_device
from deepmd_gnn.kernels.triton.neighbors import bins_per_frame

R_MAX = 3.3  # no float32
CELLS = {
    "large": np.diag([7.0, 10.5, 14.0]),
    "one bin": np.eye(3) * 3.5,
    "smaller than the cutoff": np.eye(3) * 3.1,
    "thin": np.diag([1.7, 8.0, 5.0]),
    "triclinic": np.array([[7.0, 0, 0], [3.4, 6.0, 0], [-2.5, 2.9, 5.0]]),
    "left handed": np.array([[0, 4.0, 0], [6.5, 0, 0], [0, 1.0, 7.0]]),
    "very skewed": np.array([[6.0, 0, 0], [7.0, 6.0, 0], [-9.0, 3.0, 6.0]]),
    "free": None,
}
MANY_IMAGES = ("smaller than the cutoff", "thin", "very skewed")
SPILLS = re.compile(r"STACK:(\d+).*?LOCAL:(\d+)")


@pytest.fixture(autouse=True)
def _interpreter(request):
    if {"compiled", "gpu"} & set(request.keywords):
        yield
    else:
        with interpreted(neighbor_kernels):
            yield


def frames(cell, natoms=3, seed=45):
    """Two frames of different cells, atoms outside of them, one of no element."""
    rng = np.random.default_rng(seed)
    cells = np.stack([np.eye(3) * 4.0] * 2 if cell is None else [cell, 1.1 * cell])
    coord = (rng.random((2, natoms, 3)) + rng.integers(-2, 3, (2, natoms, 3)) * (cell is not None)) @ cells
    atype = rng.integers(0, 2, (2, natoms))
    atype[1, 1] = -1
    return torch.tensor(coord), torch.tensor(atype), None if cell is None else torch.tensor(cells)


def in_torch(coord, atype, box, r_max=R_MAX):
    center, neighbor, vectors = NeighborPairs(r_max)(coord, atype, box)
    types = atype.reshape(-1)
    return make_graph(types, types, neighbor, center, vectors, torch.stack([neighbor, center]), r_max)


def edges_of(graph):
    """Receiver, sender and vector of the edges, sorted."""
    vectors = graph.edge_vec.detach()
    table = np.column_stack([graph.edge_index.flip(0).T, vectors])
    return table[np.lexsort(np.column_stack([graph.edge_index.flip(0).T, vectors.round(decimals=7)]).T[::-1])]


def assert_same(found, expected):
    assert len(expected.edge_vec) > 2
    np.testing.assert_allclose(edges_of(found), edges_of(expected), rtol=0, atol=1e-12)
    assert torch.equal(found.node_types, expected.node_types)
    assert torch.equal(found.sender_types, expected.sender_types)
    assert torch.equal(found.edge_atoms, found.edge_index)


@pytest.mark.parametrize("name", CELLS)
def test_same_edges_as_in_torch(name):
    batch = frames(CELLS[name], natoms=2 if name in MANY_IMAGES else 3)
    found, expected = graph_on_device(*batch, R_MAX, 2), in_torch(*batch)
    assert_same(found, expected)
    assert torch.equal(found.edge_vec[0], expected.edge_vec[0])
    receiver = found.edge_index[1]
    assert torch.equal(found.order, torch.arange(len(receiver)))
    assert torch.equal(found.begin, torch.searchsorted(receiver, torch.arange(len(found.node_types) + 1)))
    assert torch.equal(receiver, receiver.sort()[0])


def test_atoms_flying_apart():
    coord = [[0.0, 0, 0], [1.0, 0, 0], [1e9, 1e9, -1e9], [1e9 + 1, 1e9, -1e9]]
    batch = torch.tensor([coord], dtype=torch.float64), torch.zeros(1, 4, dtype=torch.int64), None
    assert_same(graph_on_device(*batch, R_MAX, 1), in_torch(*batch))


@pytest.mark.parametrize("shape", [(0, 3), (1, 0), (1, 1)])
@pytest.mark.parametrize("periodic", [True, False])
def test_nothing_to_find(shape, periodic):
    """No frame, no atom, an atom alone: only the guard's edge is left."""
    box = 20.0 * torch.eye(3, dtype=torch.float64).repeat(shape[0], 1, 1) if periodic else None
    atype = torch.zeros(shape, dtype=torch.int64)
    found = graph_on_device(torch.zeros(*shape, 3, dtype=torch.float64), atype, box, R_MAX, 1)
    assert found.edge_index.tolist() == [[0], [0]]
    assert found.begin.tolist() == [0] + [1] * (atype.numel() + 1)
    assert found.node_types.tolist() == [0] * (atype.numel() + 1)


@pytest.mark.parametrize("nloc", [0, 1, 64, 100, 343, 12288, 10**6, 10**9 + 7])
def test_bins_have_room(nloc):
    """Many bins along a long cell, never more than there is room for."""
    room, side = bins_per_frame(nloc)
    assert max(64, nloc) == room
    assert side**3 <= room < (side + 1) ** 3


def test_many_bins_share_the_room():
    """A cell with more bins than room: they are merged."""
    cell = np.diag([40.0, 60.0, 300.0])
    coord, atype, box = frames(cell, natoms=4)
    coord[:, 2:] = coord[:, :2] + 1.0
    assert_same(graph_on_device(coord, atype, box, R_MAX, 2), in_torch(coord, atype, box))


def test_pairs_that_do_not_see_each_other():
    batch = frames(CELLS["one bin"])
    allowed = torch.eye(2, dtype=torch.bool)
    found = graph_on_device(*batch, R_MAX, 2, allowed)
    expected = in_torch(*batch)
    assert_same(found, drop_pairs(expected, allowed))
    assert len(found.edge_vec) < len(expected.edge_vec)


class InAnotherOrder:
    """Kernel before which the atoms came to their bins in the reverse order, as threads of a GPU may."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(start, bin_of, slot, *rest, **options):
            part = bin_of >= 0
            slot[part] = (start[1:] - start[:-1])[bin_of[part]] - 1 - slot[part]
            self.kernel[grid](start, bin_of, slot, *rest, **options)

        return launch


def test_order_does_not_depend_on_threads(monkeypatch):
    """Nor on how many atoms a program has, or an atom looks at together: more than fit into one here."""
    coord = torch.tensor(np.random.default_rng(2).random((1, 5, 3)) + 0.5)
    batch = coord, torch.zeros(1, 5, dtype=torch.int64), None
    before = graph_on_device(*batch, R_MAX, 2)
    monkeypatch.setattr(neighbors, "_BLOCK", 4)
    monkeypatch.setattr(neighbors, "_CANDIDATES", 2)
    monkeypatch.setattr(neighbor_kernels, "arrive", InAnotherOrder(neighbor_kernels.arrive))
    after = graph_on_device(*batch, R_MAX, 2)
    assert torch.equal(before.edge_index, after.edge_index)
    assert torch.equal(before.edge_vec, after.edge_vec)


@pytest.mark.parametrize("name", ["triclinic", "free"])
def test_derivatives(name):
    """With respect to coordinates and cells; weights that tell the edges apart."""

    def gradients(search):
        coord, atype, box = frames(CELLS[name])
        leaves = [x.requires_grad_(True) for x in (coord, box) if x is not None]
        vectors = search(coord, atype, box).edge_vec
        value = (vectors * torch.tensor([1.0, 2.0, -3.0])).sin().sum()
        return torch.autograd.grad(value, leaves)

    for found, expected in zip(
        gradients(lambda *x: graph_on_device(*x, R_MAX, 2)), gradients(in_torch), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


class Operators(TorchDispatchMode):
    """Names of the operators that would start something on a GPU."""

    IDLE = ("empty", "new_empty", "detach", "view", "slice", "select", "alias", "_unsafe_view")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ not in self.IDLE:
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_launches(monkeypatch):
    """Six kernels, two sums, and a single time for the host to wait."""
    kernels, waits = [], []

    def run(self, *args, grid, warmup, **options):
        kernels.append(self.fn.__name__)
        with _disable_current_modes():
            GridExecutor(self.rewrite(), self.arg_names, grid)(*args, **options)

    tolist = torch.Tensor.tolist
    monkeypatch.setattr(InterpretedFunction, "run", run)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: waits.append(self.shape) or tolist(self))
    batch = frames(CELLS["large"])
    with Operators() as operators:
        graph_on_device(*batch, R_MAX, 2)
    assert kernels == ["prepare", "assign", "arrive", "arrange", "pairs", "pairs"]
    assert operators.names == ["cumsum", "cumsum"]
    assert waits == [(4,)]  # a few numbers: edges, problems with atoms and with the two frames


def spoiled(what):
    coord, atype, box = frames(CELLS["one bin"], natoms=2)
    if what == "degenerate":
        box[1, 2] = box[1, 1]
    elif what == "thinner":
        box[0, 1, 1] = 0.01
    elif what == "out of range":
        atype[0, 1] = 2
    elif what == "same place":
        coord[0, 1], atype[0, :2] = coord[0, 0] + box[0, 1], 0
    else:
        coord[1, 1, 2] = float(what)  # of an atom without an element
    return coord, atype, box


@pytest.mark.parametrize("what", ["nan", "inf", "degenerate", "thinner", "out of range", "same place"])
def test_bad_input_is_refused(what, monkeypatch):
    """By the code in torch, in the same words as on the CPU."""
    monkeypatch.setattr(mace_graphs, "works_on", lambda device: True)
    with pytest.raises(ValueError, match="NaN or infinite" if what in ("nan", "inf") else what):
        tiny_model(r_max=R_MAX)(*spoiled(what))


def test_model(monkeypatch):
    """The same energies and forces from a graph that was found by kernels; float32 coordinates, excluded pairs."""
    model = tiny_model(r_max=R_MAX, pair_exclude_types=[[0, 1]])
    coord, atype, cell = random_frame(natoms=3, box_length=4.5)
    batch = torch.tensor(coord)[None].float(), torch.tensor(atype)[None], torch.tensor(cell.reshape(1, 9))
    expected = model(*batch, do_atomic_virial=True)
    seen = []
    monkeypatch.setattr(mace_graphs, "works_on", lambda device: seen.append(device) or True)
    monkeypatch.setattr(model.graphs, "pairs", None)
    found = model(*batch, do_atomic_virial=True)
    assert seen == [torch.device("cpu")]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)
    model.graphs.for_kernels = True
    assert model.graphs.of_frames(*batch).begin is not None


def test_a_disturbed_parser_is_asked_again():
    """CPython counts the depth of syntax trees for all threads together."""
    left = {"first": 2, "second": 0}

    def task(name):
        if left[name]:
            left[name] -= 1
            raise SystemError("AST constructor recursion depth mismatch (before=33, after=71)")
        return name

    assert support.at_once(functools.partial(task, name) for name in left) == ["first", "second"]

    def other():
        raise SystemError("another one")

    with pytest.raises(SystemError, match="another one"):
        support.at_once([other])


def test_machine_without_triton(caplog):
    """Says once why neighbours are not searched by kernels."""
    support.works_on.cache_clear()
    if torch.cuda.is_available():
        pytest.skip("Triton may work here")
    assert not support.works_on(torch.device("cpu"))
    assert not caplog.text
    assert not support.works_on(torch.device("cuda"))
    assert not support.works_on(torch.device("cuda"))
    assert caplog.text.count("Triton does not work on cuda") == 1
    support.works_on.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", CELLS)
def test_on_a_gpu(name):
    """Where threads run at the same time: the edges of the CPU, the same in every call, and one wait of the host."""
    cell = CELLS[name]
    batch = frames(None if cell is None else 3.0 * cell, natoms=300)
    there = [None if x is None else x.cuda() for x in batch]
    first = graph_on_device(*there, R_MAX, 2)
    with warnings.catch_warnings(record=True) as waits:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")  # which warns that it is new
        again = graph_on_device(*there, R_MAX, 2)
        torch.cuda.set_sync_debug_mode("default")
    assert len([wait for wait in waits if "called a synchronizing" in str(wait.message)]) == 1
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert_same(AtomGraph(*(x.cpu() if isinstance(x, torch.Tensor) else x for x in first)), in_torch(*batch))


POINTERS = {"bins": "*i32", "allowed": "*i1"} | dict.fromkeys(
    ("box", "cells", "coord", "home", "record", "edge_vec", "shift"), "*fp64"
)
NUMBERS = ("nf", "natom", "nheld", "nloc", "ntypes", "side", "room", "nbin", "nedge")
PAIRS = {"R_MAX": R_MAX, "GUARD": 11.6, "BLOCK": 64}
VARIANTS = {
    "prepare": ("prepare", {"R_MAX": R_MAX, "THINNEST": 0.066, "BLOCK": 128}),
    "assign": ("assign", {"BLOCK": 128}),
    "arrive": ("arrive", {"BLOCK": 128}),
    "arrange": ("arrange", {"BLOCK": 128}),
    "count": ("pairs", {**PAIRS, "PERIODIC": True, "FILL": False, **dict.fromkeys(
        ("allowed", "begin", "edge_index", "edge_vec", "order", "shift"))}),
    "fill": ("pairs", {**PAIRS, "PERIODIC": True, "FILL": True}),
}  # fmt: skip


@pytest.mark.compiled
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled(variant, architecture, tmp_path):
    """For two generations of GPUs, without spilled registers, and without fused operations that differ between passes."""
    name, constants = VARIANTS[variant]
    kernel = getattr(neighbor_kernels, name)
    others = [arg for arg in kernel.arg_names if arg not in constants]
    types = {arg: "i32" if arg in NUMBERS else POINTERS.get(arg, "*i64") for arg in others}
    signature = {arg: types.get(arg, "constexpr") for arg in kernel.arg_names}
    source = ASTSource(kernel, signature, constexprs=constants)
    options = {"num_warps": 1, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    assert "fma.rn.f64" not in compiled.asm["ptx"]
    (tmp_path / "kernel.cubin").write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run(
        [tool, "--dump-resource-usage", tmp_path / "kernel.cubin"], capture_output=True, text=True
    )
    assert SPILLS.findall(usage.stdout) == [("0", "0")]
