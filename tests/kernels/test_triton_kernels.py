"""Triton kernels: their reference against the torch code, the kernels against the reference, what Triton compiles."""

import subprocess
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from architectures import architectures
from helpers import TINY, assert_close, random_frame, tiny_model
from interpreted import interpreted
from resources import registers_and_stack
from tolerances import NATIVE

from deepmd_gnn.host import device_inference
from deepmd_gnn.kernels.cpu.convolution_code import convolution_shape
from deepmd_gnn.kernels.install import described
from deepmd_gnn.kernels.triton import (
    contraction_code,
    convolution_code,
    linking,
    mixing,
    mixing_kernel,
    operators,
    reference,
)
from deepmd_gnn.kernels.triton.build import triton_kernels
from deepmd_gnn.kernels.triton.mixing import TritonLinear
from deepmd_gnn.kernels.triton.modules import TritonKernels
from deepmd_gnn.kernels.triton.programs import compiled
from deepmd_gnn.kernels.triton.source import generated_module
from deepmd_gnn.kernels.triton.splines import SplineTable, interpolate, spline_table
from deepmd_gnn.nn.linear import Linear

OPTIONS = architectures("triton")


def close(found, expected, tolerance):
    assert_close(*(np.asarray(torch.as_tensor(values).detach()) for values in (found, expected)), tolerance)


def some_graph(model, natoms=8):
    coord, atype, cell = random_frame(natoms=natoms, box_length=5.0)
    tensors = (torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None]))
    model.graphs.for_kernels = True
    return model.with_frame_values(model.graphs.of_frames(*tensors), None, 1), tensors[1]


@pytest.mark.parametrize("name", OPTIONS)
def test_reference_equals_torch_code(name):
    """Energies and derivatives of a whole network whose modules call the operators."""
    model = tiny_model(**OPTIONS[name])
    precision = OPTIONS[name].get("precision", "float64")
    graph, atype = some_graph(model)
    natoms = atype.shape[1]
    exact = model.derivatives(graph, atype, natoms, natoms)
    kernels = triton_kernels(model.energy_model)
    assert isinstance(kernels, TritonKernels)
    with kernels.installed(model.energy_model):
        found = model.derivatives(graph, atype, natoms, natoms)
    for ours, theirs in zip(found, exact, strict=True):
        close(ours, theirs, NATIVE[precision])


def test_without_kernels():
    model = tiny_model(interaction="RealAgnosticAttResidual", apply_cutoff=False)
    assert "attentive" in triton_kernels(model.energy_model)


def test_spline_goes_through_the_values():
    nodes = np.linspace(0.0, 3.0, 31)
    spacing = nodes[1]
    slopes, curvatures = np.cos(nodes[[0, -1]]) * spacing, -np.sin(nodes[[0, -1]]) * spacing**2
    found = interpolate(np.sin(nodes)[:, None], slopes[:, None], curvatures[:, None])
    table = torch.from_numpy(found)
    bins = torch.arange(30)
    from deepmd_gnn.kernels.triton.splines import evaluate

    for t in (0.0, 0.3, 1.0):
        value, slope = evaluate(table, bins, t)
        at = nodes[:-1] + t * spacing
        np.testing.assert_allclose(value[:, 0], np.sin(at), atol=1e-9)
        np.testing.assert_allclose(slope[:, 0] / spacing, np.cos(at), atol=1e-7)


def test_table_grows_until_it_is_fine():
    model = tiny_model()
    table = spline_table(model.energy_model, model.energy_model.interactions[1])
    assert table.fine(torch.float64)
    assert table.nodes > 1024


# --- the kernels themselves, in Triton's interpreter


def layer_of(dtype, channels=3, paths_at_a_time=None, monkeypatch=None, **options):
    """Kernels of one layer with vectors as features, for tables of random numbers."""
    model = tiny_model(num_channels=channels, precision=dtype, **options)
    if paths_at_a_time:
        monkeypatch.setattr(convolution_code, "PAIRS", paths_at_a_time)
        monkeypatch.setattr(convolution_code, "ACCUMULATORS", paths_at_a_time)
    tables = [
        SplineTable(
            torch.rand(1, 12, len(interaction.conv_tp.paths) * channels, dtype=torch.float64), 0.0, 0.0
        )
        for interaction in model.energy_model.interactions
    ]
    return model, TritonKernels(model.energy_model, tables)


def both_ways(module, operator, *inputs):
    """Results of an operator by its reference and by its kernels."""
    expected = operator(*inputs)
    with pytest.MonkeyPatch.context() as patch, interpreted(module):
        patch.setattr(reference, "interprets", lambda: True)
        found = operator(*inputs)
    single = isinstance(found, torch.Tensor)
    return list(zip([found] if single else found, [expected] if single else expected, strict=True))


def assert_equal(pairs, dtype):
    for found, expected in pairs:
        assert found.dtype == expected.dtype
        close(found, expected, NATIVE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("split", [None, 8], ids=["together", "paths split"])
def test_convolution(dtype, split, monkeypatch):
    model, kernels = layer_of(dtype, 3, split, monkeypatch, max_ell=3)
    graph = some_graph(model, natoms=3)[0]
    graph = graph._replace(
        order=graph.order[:9], begin=graph.begin.clamp(max=8)
    )  # one edge belongs to nobody
    inputs = (graph.edge_vec, graph.edge_index, graph.sender_types, graph.order, kernels.geometry.code)
    pairs = both_ways(generated_module(kernels.geometry.code), operators.geometry, *inputs)
    used = generated_module(kernels.geometry.code).HARMONICS + 11
    assert_equal([(pairs[0][0][:, :used], pairs[0][1][:, :used]), *pairs[1:]], dtype)
    geometry = [expected for _, expected in pairs]
    for layer, senders in ((0, False), (1, True)):
        conv = kernels.convolutions[layer]
        module = generated_module(conv.code)
        assert module.GROUPS == 1 or split
        sent = torch.randn(graph.sender_types.shape[0], module.COMPONENTS, 3, dtype=conv.table.dtype)
        inputs = (graph.edge_vec, sent, *geometry, graph.order, graph.begin, conv.table, conv.code)
        out = both_ways(module, operators.convolve, *inputs)
        assert_equal(out, dtype)
        gradient = torch.randn_like(out[0][1])
        pairs = both_ways(module, operators.convolve_backward, gradient, *inputs, senders)
        assert_equal(pairs, dtype)
        assert not pairs[0][0][graph.order[8:]].any()


def test_shape_of_a_convolution():
    """Scalars and a vector, with scalars: what is coupled to what, with which coefficient."""
    coupling = np.zeros((4, 1 + 3))
    coupling[0, 0] = 2.0  # a scalar with the first harmonic
    coupling[1, 1], coupling[2, 2], coupling[3, 3] = 3.0, 4.0, 5.0  # and with the components of the vector
    shape = convolution_shape(coupling, [1], [(0, 1), (0, 3)])
    assert (shape.components, shape.width) == (1, 4)
    assert [path.coupling for path in shape.paths] == [
        {(0, 0): {0: 2.0}},
        {(0, 1): {1: 3.0}, (0, 2): {2: 4.0}, (0, 3): {3: 5.0}},
    ]


def test_paths_are_split(monkeypatch):
    _, kernels = layer_of("float64", 3, 8, monkeypatch, max_ell=3)
    assert generated_module(kernels.convolutions[1].code).GROUPS > 1


@pytest.mark.parametrize(("dtype", "most", "groups"), [("float32", 160, 1), ("float64", 20, 4)])
def test_contraction(dtype, most, groups, monkeypatch):
    """In one kernel, and in several that add to one another."""
    monkeypatch.setattr(contraction_code, "MONOMIALS", most)
    _, kernels = layer_of(dtype, 3, max_ell=2, correlation=3)
    contraction = kernels.contractions[0]
    module = generated_module(contraction.code)
    assert groups == module.PARTS
    features = torch.randn(2, module.COMPONENTS, 3, dtype=contraction.coefficients.dtype)
    inputs = (features, contraction.coefficients, torch.tensor([1, 0]), contraction.code)
    out = both_ways(module, operators.contract, *inputs)
    assert_equal(out, dtype)
    gradient = torch.randn_like(out[0][1])
    assert_equal(both_ways(module, operators.contract_backward, gradient, *inputs), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_maps(dtype):
    """One with a matrix for all elements, one with a matrix per element; both read a part of the components only."""
    model = tiny_model(num_channels=20, precision=dtype, num_interactions=3)
    block = model.energy_model.interactions[1]
    one_hot = torch.eye(2, dtype=model.energy_model.dtype)[torch.tensor([1, 0, 1])]
    for linear in (block.linear, block.skip_tp):
        assert isinstance(linear, Linear)
        made = TritonLinear(linear, 0.5)
        components = made.backward_begins.shape[0]  # one more than it reads
        features = torch.randn(3, components, 20, dtype=one_hot.dtype)
        close(made(features, one_hot), linear(features, one_hot) * 0.5, NATIVE[dtype])
        elements = one_hot if linear.ntypes else one_hot.new_empty(0)
        forward = (made.matrices, made.begins, made.paths)
        backward = (made.backward_matrices, made.backward_begins, made.backward_paths)
        inputs = (features, *forward, *backward, elements, made.width)
        out = both_ways(mixing, mixing.mix, *inputs)
        assert_equal(out, dtype)
        gradient = torch.randn_like(out[0][1])
        assert_equal(
            both_ways(mixing, mixing.mix, gradient, *backward, *forward, elements, components), dtype
        )


# --- what Triton makes of them, without a GPU


SIZES = {"S": {"num_channels": 64, "max_L": 0}, "M": {"num_channels": 128, "max_L": 1}}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "capability"), [("S", 80), ("M", 90)])
def test_nothing_spills(size, capability):
    """Kernels of both sizes, compiled for an A100 or an H100, keep everything in registers."""
    model = tiny_model(max_ell=3, correlation=3, precision="float32", **SIZES[size])
    kernels = linking.kernels_of(triton_kernels(model.energy_model))
    found = [registers_and_stack(kernel, capability) for kernel in kernels]
    assert all(0 < registers <= 255 for registers, _ in found)
    assert [stack for _, stack in found] == [0] * len(found)


def test_small_kernels_do_not_spill_in_double_precision():
    _, kernels = layer_of("float64", 4)
    for kernel in linking.kernels_of(kernels):
        if kernel.warps > 1:
            assert [registers_and_stack(kernel, capability)[1] for capability in (80, 90)] == [0, 0]


def test_library_of_launches():
    """What a ``.pt2`` for a GPU links: it compiles without a GPU, and holds the machine code and all functions."""
    _, kernels = layer_of("float32", 4)
    assert mixing_kernel.mix in {kernel.function for kernel in linking.kernels_of(kernels)}
    name, folder = linking.library(kernels, 90).split(" -L")
    archive = Path(folder.strip("'")) / f"lib{name}.a"
    done = subprocess.run(["nm", archive], capture_output=True, text=True, check=True)
    for operator in linking.DECLARATIONS:
        function = f"aoti_torch_cuda_{operator._opoverload.name().split('::')[1]}"
        assert f" T {function}\n" in done.stdout
    assert archive.stat().st_size > sum(
        len(compiled(kernel, 90).image) for kernel in linking.kernels_of(kernels)
    )


# --- where they are used


def test_exported_graph_keeps_the_operators():
    """What a freeze on a machine with a GPU traces on the CPU: the operators, with sizes that are not fixed."""
    model = tiny_model()
    with (
        mock.patch.object(linking, "capability", return_value=90),
        described(model, kernels=True, device="cuda") as description,
    ):
        assert description["triton"]
        samples = sample_inputs(model, 5)
        traced = model.forward_lower_graph_exportable(
            *samples[:10], do_atomic_virial=True, tracing_mode="symbolic", _allow_non_fake_inputs=True
        )
    called = {str(node.target) for node in traced.graph.nodes if "triton" in str(node.target)}
    assert called == {
        f"deepmd_gnn.triton_{name}.default"
        for name in (
            "geometry",
            "convolve_mix",
            "convolve_mix_backward",
            "contract",
            "contract_backward",
            "mix",
            "forces",
        )
    }
    others = sample_inputs(model, 7)
    expected = model.forward_lower_graph_exportable(
        *others[:10], do_atomic_virial=True, tracing_mode="symbolic", _allow_non_fake_inputs=True
    )(*others)
    found = traced(*others)
    for name, value in expected.items():
        close(found[name], value, NATIVE["float64"])


def sample_inputs(model, natoms):
    """Inputs of the host's edge-list lower for one frame."""
    graph, atype = some_graph(model, natoms)
    index = graph.edge_index[:, 1:] - 1
    orders = [torch.argsort(index[end], stable=True) for end in (1, 0)]
    counts = [torch.bincount(index[end], minlength=natoms).cumsum(0) for end in (1, 0)]
    begins = [torch.nn.functional.pad(count, (1, 0)) for count in counts]
    number = torch.tensor([natoms])
    mask = torch.ones(index.shape[1], dtype=torch.bool)
    return (
        atype[0], number, number, index, graph.edge_vec[1:], mask, orders[0], begins[0], orders[1], begins[1],
        None, None, None,
    )  # fmt: skip


def test_python_inference_launches_kernels(tmp_path, monkeypatch):
    """A checkpoint that is opened on a GPU: here the device is the CPU, and the operators evaluate their reference."""
    from deepmd.infer import DeepPot
    from deepmd.pt.train.wrapper import ModelWrapper

    wrapper = ModelWrapper(tiny_model(), model_params=dict(TINY))
    torch.save({"model": wrapper.state_dict()}, tmp_path / "model.pt")
    coord, atype, cell = random_frame(natoms=6)
    inputs = (coord.reshape(1, -1), cell.reshape(1, 9), atype.tolist())
    expected = DeepPot(str(tmp_path / "model.pt")).eval(*inputs, atomic=True)
    monkeypatch.setattr(device_inference, "_on_cuda", lambda model: True)
    monkeypatch.setattr(TritonKernels, "compile", lambda self, device: None)
    pot = DeepPot(str(tmp_path / "model.pt"))
    assert pot.deep_eval.dp.model["Default"].graphs.for_kernels
    for _ in range(4):  # a graph cannot be captured here: the evaluation goes on without
        for found, value in zip(pot.eval(*inputs, atomic=True), expected, strict=True):
            close(torch.tensor(found), torch.tensor(value), NATIVE["float64"])
    descriptor = pot.eval_descriptor(*inputs)
    close(
        torch.tensor(descriptor),
        torch.tensor(DeepPot(str(tmp_path / "model.pt")).eval_descriptor(*inputs)),
        NATIVE["float64"],
    )


def test_python_inference_without_triton(tmp_path, monkeypatch, caplog):
    """Where kernels cannot be compiled the scripted model goes on, and the log says why."""
    from deepmd.infer import DeepPot
    from deepmd.pt.train.wrapper import ModelWrapper

    def fails(self, device):
        raise RuntimeError("Failed to find C compiler")

    wrapper = ModelWrapper(tiny_model(), model_params=dict(TINY))
    torch.save({"model": wrapper.state_dict()}, tmp_path / "model.pt")
    monkeypatch.setattr(device_inference, "_on_cuda", lambda model: True)
    monkeypatch.setattr(TritonKernels, "compile", fails)
    with caplog.at_level("WARNING"):
        pot = DeepPot(str(tmp_path / "model.pt"))
    assert isinstance(pot.deep_eval.dp.model["Default"], torch.jit.ScriptModule)
    assert "Failed to find C compiler" in caplog.text
