"""Convolution and linear map as one Triton operator, in blocks of receivers: numbers, and the memory of an evaluation."""

import contextlib
import itertools
from unittest import mock

import pytest
import torch
from helpers import assert_close, random_frame, tiny_model
from interpreted import interpreted
from tolerances import NATIVE

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels.prepared import Nothing
from deepmd_gnn.kernels.triton import blocks, forces, mixing, operators, reference
from deepmd_gnn.kernels.triton.build import triton_kernels
from deepmd_gnn.kernels.triton.modules import TritonKernels
from deepmd_gnn.kernels.triton.source import generated_module
from deepmd_gnn.kernels.triton.splines import SplineTable


@contextlib.contextmanager
def small_blocks():
    """Blocks of two receivers."""
    with mock.patch.object(blocks, "RECEIVERS", 2), mock.patch.object(blocks, "MULTIPLE", 1):
        yield


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_network_in_blocks_equals_torch_code(dtype):
    """Energies, forces and virials of a network whose kernels run in the interpreter."""
    model = tiny_model(num_channels=3, precision=dtype, max_ell=1, correlation=2)
    coord, atype, cell = random_frame(natoms=4, box_length=5.0)
    tensors = [torch.tensor(values[None]) for values in (coord, atype, cell)]
    model.graphs.for_kernels = True
    graph = model.with_frame_values(model.graphs.of_frames(*tensors), None, 1)
    exact = model.derivatives(graph, tensors[1], 4, 4)
    kernels = triton_kernels(model.energy_model)
    codes = {kernels.geometry.code} | {part.code for part in kernels.convolutions + kernels.contractions}
    assert set(kernels.messages) == {0, 1}
    with (
        kernels.installed(model.energy_model),
        interpreted(mixing, forces, *map(generated_module, codes)),
        mock.patch.object(reference, "interprets", return_value=True),
        small_blocks(),
    ):
        assert [number for _, number in blocks.blocks_of(5)] == [2, 2, 1]
        found = model.derivatives(graph, tensors[1], 4, 4)
    for ours, theirs in zip(found, exact, strict=True):
        assert_close(ours.detach().numpy(), theirs.detach().numpy(), NATIVE[dtype])


@pytest.mark.parametrize("nnode", [0, 1, 64, 8192, 8193, 12289, 100001])
def test_blocks_cover_all_receivers(nnode):
    found = list(blocks.blocks_of(nnode))
    assert sum(number for _, number in found) == nnode
    assert all(first % blocks.MULTIPLE == 0 for first, _ in found)
    assert all(first + number == after for (first, number), (after, _) in itertools.pairwise(found))
    assert max([0, *(number for _, number in found)]) <= blocks.RECEIVERS + blocks.MULTIPLE
    assert len(found) == -(-nnode // blocks.RECEIVERS)
    assert blocks.MULTIPLE % 4 == 0  # kernels read four numbers at a time


def test_where_it_applies():
    """A learned density stands between the convolution and what follows; other maps are modules of their own."""
    model = tiny_model(interaction="RealAgnosticDensityResidual", interaction_first="RealAgnosticResidual")
    kernels = triton_kernels(model.energy_model)
    assert set(kernels.messages) == {0}
    swapped = {(id(parent), name): module for parent, name, module in kernels.swaps(model.energy_model)}
    first, second = model.energy_model.interactions
    assert isinstance(swapped[id(first), "linear"], Nothing)
    assert swapped[id(first), "conv_tp"] is kernels.messages[0]
    assert swapped[id(second), "linear"] is kernels.linears["interactions", 1, "linear"]
    assert swapped[id(second), "conv_tp"] is kernels.convolutions[1]


# --- memory: what an evaluation has at the same time, with kernels that do nothing


class Idle:
    """Stands for a generated module whose kernels do nothing."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        value = getattr(self.module, name)
        return IdleKernel() if callable(value) else value


class IdleKernel:
    """Stands for a kernel; a mock would remember its arguments, and so keep them."""

    def __getitem__(self, grid):
        return lambda *arguments, **options: None


def peak(evaluate):
    """Most bytes that an evaluation has at the same time on a CPU."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        evaluate()
    now = most = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def some_edges(natoms, per_atom):
    """A graph of the right sizes, all of zeros."""
    integers = torch.zeros(natoms * per_atom, dtype=torch.int64)
    types, index = torch.zeros(natoms + 1, dtype=torch.int64), torch.stack([integers, integers])
    vectors = torch.zeros(natoms * per_atom, 3, dtype=torch.float64)
    begin = torch.zeros(natoms + 2, dtype=torch.int64)
    return AtomGraph(types, types, index, vectors, index, "kernels", order=integers, begin=begin)


@pytest.mark.parametrize(("natoms", "most"), [(250, 50e3), (64, 70e3)], ids=["large", "one block"])
def test_memory_of_an_atom(natoms, most):
    """M, 89 edges per atom: what docs/dev/gpu.md says."""
    model = tiny_model(num_channels=128, max_L=1, max_ell=3, correlation=3, precision="float32")
    tables = [
        SplineTable(torch.zeros(1, 8, len(block.conv_tp.paths) * 128, dtype=torch.float64), 0.0, 0.0)
        for block in model.energy_model.interactions
    ]
    TritonKernels(model.energy_model, tables).install(model.energy_model)
    types = torch.zeros(1, natoms, dtype=torch.int64)

    def evaluate():
        model.derivatives(some_edges(natoms, 89), types, natoms, natoms)

    with (
        mock.patch.object(operators, "generated_module", lambda code: Idle(generated_module(code))),
        mock.patch.object(blocks, "generated_module", lambda code: Idle(generated_module(code))),
        mock.patch.object(mixing, "mix_kernel", IdleKernel()),
        mock.patch.object(forces, "forces_kernel", IdleKernel()),
        mock.patch.object(reference, "interprets", return_value=True),
        mock.patch.object(blocks, "RECEIVERS", 4 if natoms > 64 else 8192),
        mock.patch.object(blocks, "MULTIPLE", 1),
    ):
        evaluate()
        found = peak(evaluate) / natoms
    assert 0.8 * most < found < most
