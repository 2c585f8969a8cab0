"""What a ``.pt2`` for a GPU calls: the C functions, above a driver that computes on the CPU."""

import pytest
import torch
from emulated_gpu import EmulatedGpu
from helpers import assert_close, random_frame, tiny_model
from tolerances import NATIVE

from deepmd_gnn.kernels.triton import blocks, operators
from deepmd_gnn.kernels.triton.modules import TritonKernels
from deepmd_gnn.kernels.triton.source import generated_module
from deepmd_gnn.kernels.triton.splines import SplineTable


@pytest.fixture(scope="module")
def network():
    """A model, its kernels with tables of random numbers, and a graph of seven receivers."""
    model = tiny_model(num_channels=4, max_ell=2, correlation=2, precision="float64")
    paths = [len(block.conv_tp.paths) for block in model.energy_model.interactions]
    torch.manual_seed(1)
    tables = [SplineTable(torch.rand(1, 12, 4 * n, dtype=torch.float64), 0.0, 0.0) for n in paths]
    coord, atype, cell = (torch.tensor(x[None]) for x in random_frame(natoms=6, box_length=5.0))
    model.graphs.for_kernels = True
    return TritonKernels(model.energy_model, tables), model.graphs.of_frames(coord, atype, cell)


@pytest.fixture(scope="module")
def gpu(network, tmp_path_factory):
    """Blocks of two receivers."""
    return EmulatedGpu(network[0], tmp_path_factory.mktemp("launches"), RECEIVERS=2, MULTIPLE=2)


@pytest.mark.parametrize("layer", [0, 1])
def test_convolution_and_map_in_blocks(network, gpu, layer):
    """All blocks write where they should, forward and backward, and are called with their sizes."""
    kernels, graph = network
    geometry = operators.geometry(
        graph.edge_vec, graph.edge_index, graph.sender_types, graph.order, kernels.geometry.code
    )
    conv, linear = kernels.messages[layer].convolution, kernels.messages[layer].linear
    sent = torch.randn(
        graph.sender_types.shape[0], generated_module(conv.code).COMPONENTS, 4, dtype=gpu.dtype
    )
    edges = (graph.edge_vec, sent, *geometry, graph.order, graph.begin, conv.table)
    backward = (linear.backward_matrices, linear.backward_begins, linear.backward_paths)
    inputs = (*edges, linear.matrices, linear.begins, linear.paths, *backward)
    names = ("vectors", "sent", "packed", "row", "source", "order", "table")
    gpu.arrays = dict(zip(names, (*edges[:6], conv.table), strict=True))
    gpu.launches.clear()
    expected = blocks.convolve_mix(*inputs, conv.code, linear.width)
    result = [(expected.shape, gpu.dtype)]
    (found,) = gpu.call("triton_convolve_mix", inputs, [conv.code, linear.width], result)
    close(found, expected)
    assert gpu.launches == [(name, n) for n in (2, 2, 2, 1) for name in ("forward", "mix")]
    inputs = (torch.randn_like(expected), *edges, *backward)
    for senders in (False, True):
        gpu.launches.clear()
        both = blocks.convolve_mix_backward(*inputs, conv.code, senders)
        results = [(one.shape, one.dtype) for one in both]
        found = gpu.call("triton_convolve_mix_backward", inputs, [conv.code, int(senders)], results)
        for ours, theirs in zip(found, both, strict=True):
            close(ours, theirs)
        kernel = "backward_add" if senders else "backward_none"
        assert gpu.launches == [
            *((name, n) for n in (2, 2, 2, 1) for name in ("mix", kernel)),
            ("edge_gradient", 7),
        ]


def close(found, expected):
    assert_close(found.numpy(), expected.numpy(), NATIVE["float64"])


def test_linear_map(network, gpu):
    """One launch for all atoms."""
    linear = network[0].linears["interactions", 1, "linear_up"]
    gpu.arrays = {}
    features = torch.randn(5, len(linear.backward_begins) - 1, 4, dtype=gpu.dtype)
    backward = (linear.backward_matrices, linear.backward_begins, linear.backward_paths)
    inputs = (features, linear.matrices, linear.begins, linear.paths, *backward, features.new_empty(0))
    expected = linear(features, features)
    (found,) = gpu.call("triton_mix", inputs, [linear.width], [(expected.shape, gpu.dtype)])
    close(found, expected)
    assert gpu.launches[-1] == ("mix", 5)
