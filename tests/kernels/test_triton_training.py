"""Triton kernels of training: references against the torch code, the kernels against the references, what Triton compiles."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import assert_close, random_frame, tiny_model
from interpreted import interpreted
from resources import registers_and_stack
from tolerances import NATIVE

from deepmd_gnn import mace
from deepmd_gnn.kernels.triton import (
    contraction_code,
    mixing,
    reference,
    training_check,
    training_contraction,
    training_contraction_code,
    training_convolution,
    training_convolution_code,
    training_geometry,
    training_launches,
    training_mixing,
    training_mixing_kernel,
    training_modules,
    training_reference,
)
from deepmd_gnn.kernels.triton.programs import Kernel
from deepmd_gnn.kernels.triton.source import generated_module
from deepmd_gnn.kernels.triton.training import TrainingKernels

SIZES = {"S": {"num_channels": 64, "max_L": 0}, "M": {"num_channels": 128, "max_L": 1}}
REAL = {"float32": torch.float32, "float64": torch.float64}


def close(found, expected, tolerance):
    assert_close(*(np.asarray(torch.as_tensor(values).detach()) for values in (found, expected)), tolerance)


def assert_kernels(module, operator, *inputs):
    """Compare an operator's kernels, in the interpreter, with its reference; returns the latter's results."""
    expected = operator(*inputs)
    with pytest.MonkeyPatch.context() as patch, interpreted(module):
        patch.setattr(reference, "interprets", lambda: True)
        # What no kernel writes must not be left to chance.
        patch.setattr(torch, "empty_like", lambda values: torch.full_like(values, float("nan")))
        found = operator(*inputs)
    pairs = (
        [(found, expected)] if isinstance(found, torch.Tensor) else list(zip(found, expected, strict=True))
    )
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        close(ours, theirs, NATIVE[str(ours.dtype).removeprefix("torch.")])
    return expected


def small_graph(model, natoms=4):
    coord, atype, cell = random_frame(natoms=natoms, box_length=5.0)
    model.graphs.for_kernels = True
    graph = model.graphs.of_frames(
        torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None])
    )
    kept = 8  # an interpreter takes its time
    index = graph.edge_index[:, :kept]
    nodes = torch.arange(len(graph.node_types) + 1)
    order = torch.arange(index.shape[1]).flip(0)
    by_receiver = order[torch.argsort(index[1][order], stable=True)]
    begin = torch.searchsorted(index[1][by_receiver].contiguous(), nodes)
    return graph._replace(
        edge_index=index.contiguous(), edge_vec=graph.edge_vec[:kept], order=by_receiver, begin=begin
    )


def random_like(*tensors):
    return [torch.randn_like(tensor) for tensor in tensors]


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(("dtype", "split"), [("float32", None), ("float64", None), ("float64", 8)])
def test_convolution_kernels(dtype, split, layer, monkeypatch):
    """Every kernel of a layer, with scalars and with vectors as features."""
    if split:
        monkeypatch.setattr(training_convolution_code, "SUMS", split)
        monkeypatch.setattr(training_convolution_code, "PAIRS", split)
    model = tiny_model(num_channels=3, precision=dtype, max_ell=2 if dtype == "float64" else 3)
    graph = small_graph(model)
    conv = model.energy_model.interactions[layer].conv_tp
    code = training_modules.convolution_source(conv, 3, dtype)
    module = generated_module(code)
    assert module.GROUPS > 1 or not split
    real, moving = REAL[dtype], layer > 0
    harmonics = model.energy_model.spherical_harmonics(-graph.edge_vec).to(real)
    radial = torch.randn(len(harmonics), len(conv.paths) * 3, dtype=real)
    sent = torch.randn(len(graph.sender_types), module.COMPONENTS, 3, dtype=real)
    exact = conv.edge_by_edge(sent[graph.edge_index[0]], graph._replace(mode="plain"), harmonics, radial)
    # As in a captured step, where arrays have room for more edges.
    radial, harmonics = (torch.cat([rows, torch.randn_like(rows[:5])]) for rows in (radial, harmonics))
    sender, order = (torch.nn.functional.pad(x, (0, 5)) for x in (graph.edge_index[0], graph.order))
    edges = (radial, sent, harmonics, sender, order, graph.begin, code)
    out = assert_kernels(module, training_convolution.convolve, *edges, moving)
    close(out, exact, NATIVE[dtype])
    (gradient,) = random_like(out)
    for wanted in ((moving, True), (True, False)):
        assert_kernels(module, training_convolution.convolve_backward, gradient, *edges, *wanted)
    t_radial, t_sent, t_harmonics = random_like(radial, sent, harmonics)
    changes = (t_radial, t_sent if moving else None, t_harmonics)
    assert_kernels(module, training_convolution.convolve_second, *changes, gradient, *edges, True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", [0, 1])
def test_contraction_kernels(dtype, layer, monkeypatch):
    """Every kernel of a layer; terms in several groups, atoms of two programs."""
    monkeypatch.setattr(training_contraction_code, "SUMS", 8)
    monkeypatch.setattr(training_contraction_code, "ATOMS", 3)
    monkeypatch.setattr(contraction_code, "MONOMIALS", 8)
    model = tiny_model(num_channels=3, precision=dtype, correlation=3 - layer, max_ell=1)
    torch_code = model.energy_model.products[layer].symmetric_contractions
    trained = training_modules.TrainedContraction(
        torch_code, training_modules.contraction_source(torch_code, 3, dtype)
    ).reading(torch_code)
    module = generated_module(trained.code)
    monkeypatch.setattr(module, "ATOMS", 3)
    assert module.GROUPS > 1 or layer
    assert module.PARTS > 1 or layer
    features = torch.randn(4, module.COMPONENTS, 3, dtype=REAL[dtype])
    kind = torch.tensor([1, 0, 0, 1])
    coefficients = torch.matmul(trained.matrix, torch.cat(trained.weights, dim=1)).detach()
    inputs = (features, coefficients, kind, trained.code)
    out = assert_kernels(module, training_contraction.contract, *inputs)
    plain = small_graph(model)._replace(mode="plain")
    close(out, torch_code(features, kind, plain), NATIVE[dtype])
    gradient, t_features = random_like(out, features)
    for of_coefficients in (True, False):
        assert_kernels(module, training_contraction.contract_backward, gradient, *inputs, of_coefficients)
    assert_kernels(module, training_contraction.contract_second, t_features, gradient, *inputs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_linear_maps(dtype, monkeypatch):
    """One matrix per irrep, and one per irrep and element; atoms of two programs."""
    monkeypatch.setattr(training_mixing, "ATOMS", 32)
    model = tiny_model(num_channels=20, precision=dtype)
    block = model.energy_model.interactions[1]
    one_hot = torch.eye(2, dtype=REAL[dtype])[torch.randint(2, (40,))]
    for linear in (block.linear, block.skip_tp):
        assert training_mixing.trainable(linear)
        trained = training_mixing.TrainedLinear(linear).reading(linear)
        components = len(trained.lists.backward_begins)  # one more than it reads
        features = torch.randn(40, components, 20, dtype=REAL[dtype])
        out = trained(features, one_hot)
        close(out, linear(features, one_hot), NATIVE[dtype])
        elements = one_hot if linear.ntypes else one_hot.new_empty(0)
        inputs = (features, torch.randn_like(out), trained.lists.pair_begins, trained.lists.pairs, elements)
        assert_kernels(training_mixing, training_mixing.outer, *inputs)
        trained.try_once()


def test_geometry_is_differentiated_once():
    """Derivatives with respect to positions, and of these with respect to what they are weighted with; no others."""
    harmonics = tiny_model(max_ell=3).energy_model.spherical_harmonics
    trained = training_geometry.TrainedHarmonics().reading(harmonics)
    vectors = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(5, 16, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (harmonics, trained):
        energy = (module(vectors) * weights).sin().sum()
        (force,) = torch.autograd.grad(energy, vectors, create_graph=True)
        found.append(
            (energy, force, *torch.autograd.grad(force.square().sum(), (weights, vectors), allow_unused=True))
        )
    for ours, exact in zip(found[1][:3], found[0][:3], strict=True):
        close(ours, exact, NATIVE["float64"])
    assert found[1][3] is None


def test_launches_are_in_order():
    done = []
    training_launches.launch(torch.zeros(1), [lambda: done.append(1), lambda: done.append(2)])
    assert done == [1, 2]


def test_first_harmonic_is_one():
    """Whatever is handed over as such, because kernels do not read it."""
    module = SimpleNamespace(WIDTH=1, PATHS=[[(0, 0, 0, 2.0)]])
    messages = training_reference.Messages(
        torch.tensor([1]), torch.tensor([0]), torch.tensor([0, 1, 1]), module
    )
    sent = torch.tensor([[[0.0]], [[3.0]]])
    out = training_reference.convolve(torch.ones(1, 1), sent, torch.zeros(1, 1), messages)
    assert out.flatten().tolist() == [6.0, 0.0]


def test_kernels_know_their_network():
    model = tiny_model()
    kernels = TrainingKernels(model.energy_model)
    assert kernels.fits(model.energy_model)
    assert not kernels.fits(copy.deepcopy(model).energy_model)


# --- whole networks: the operators in place of the torch code


def gradients(model, batch):
    """Loss of a batch on energies, forces and virials, and its gradients."""
    model.train()
    model.zero_grad()
    out = model(*batch)
    weights = torch.linspace(0.5, 1.5, out["force"].numel(), dtype=torch.float64, device=out["force"].device)
    loss = (out["force"].flatten() * weights).square().mean() + out["energy"].square().mean()
    loss = loss + 0.1 * out["virial"].square().mean()
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def two_frames(natoms=6):
    frames = [random_frame(natoms=natoms, box_length=5.0, seed=seed) for seed in (0, 1)]
    coord, atype, cell = (torch.tensor(np.stack(parts)) for parts in zip(*frames, strict=True))
    return coord, atype, cell.flatten(1)


NETWORKS = {
    "default": {"max_ell": 3, "correlation": 3},
    "three layers, agnostic": {"num_interactions": 3, "use_agnostic_product": True},
    "own envelope, repulsion": {
        "apply_cutoff": False,
        "pair_repulsion": True,
        "distance_transform": "Agnesi",
        "interaction": "RealAgnosticResidualNonLinear",
        "interaction_first": "RealAgnosticResidualNonLinear",
    },
}


@pytest.mark.parametrize("fault", [None, "wrong", "error"])
def test_kernels_are_compared_before_they_are_used(fault, monkeypatch, caplog):
    """What is wrong on some GPU costs time, not numbers."""
    monkeypatch.setattr(mace, "trains_on", lambda device: True)
    exact = training_reference.contract_weights

    def broken(*arguments):
        if fault == "error":
            raise RuntimeError("no compiler")
        return exact(*arguments) * 1.01

    if fault:
        monkeypatch.setattr(training_reference, "contract_weights", broken)
    model = tiny_model(num_channels=4).train()
    with caplog.at_level("WARNING", "deepmd"):
        found = [model.trains_with_kernels(torch.device("cpu")) for _ in range(2)]
    assert found == [fault is None] * 2
    said = [record.message for record in caplog.records if "torch code" in record.message]
    assert len(said) == (fault is not None)
    reason = training_check.disagreement(
        model, lambda by_kernels: object.__setattr__(model, "_launches_kernels", by_kernels)
    )
    assert (reason is None) == (fault is None)
    if fault:
        assert {"wrong": "products.", "error": "no compiler"}[fault] in said[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_torch_code(name, monkeypatch):
    model = tiny_model(**NETWORKS[name])
    batch = two_frames()
    loss, exact = gradients(model, batch)
    monkeypatch.setattr(mace, "trains_on", lambda device: True)
    before = {name: id(module) for name, module in model.named_modules()}
    ours, found = gradients(model, batch)
    close(ours, loss, NATIVE["float64"])
    assert found.keys() == exact.keys()
    for key, gradient in exact.items():
        close(found[key], gradient, NATIVE["float64"])
    assert before == {name: id(module) for name, module in model.named_modules()}


def test_a_trained_model_is_as_before(monkeypatch):
    """It is copied, evaluated without kernels, scripted for a freeze, and takes other elements."""
    model = tiny_model()
    batch = two_frames()
    names = list(model.state_dict())
    expected = model(*batch)["energy"]
    monkeypatch.setattr(mace, "trains_on", lambda device: True)
    gradients(model, batch)
    assert list(model.state_dict()) == names
    gradients(copy.deepcopy(model), batch)
    model.eval()
    assert model.graphs.of_frames(*batch).mode == "chunks"
    close(model(*batch)["energy"], expected, NATIVE["float64"])
    close(torch.jit.script(model)(*batch)["energy"], expected, NATIVE["float64"])
    model.change_type_map(["H", "O"])
    gradients(model, batch)


def test_marked_coordinates_and_edge_lists(monkeypatch):
    """As the exportable backend's trainer hands them over, whose loop marks coordinates as differentiable."""
    model = tiny_model()
    coord, atype, cell = two_frames()
    loss, _ = gradients(model, (coord, atype, cell))
    monkeypatch.setattr(mace, "trains_on", lambda device: True)
    ours, _ = gradients(model, (coord.requires_grad_(), atype, cell))
    close(ours, loss, NATIVE["float64"])
    model.hessian_mode = True
    assert not model.trains_with_kernels(coord.device)


# --- what Triton makes of them, without a GPU

FLAGS = {"MOVING": True, "OF_SENT": True, "OF_HARMONICS": True}


def kernels_of_layer(size, layer, dtype):
    """Generated modules of convolution and contraction of a layer."""
    model = tiny_model(max_ell=3, correlation=3, precision=dtype, **SIZES[size])
    interaction, product = model.energy_model.interactions[layer], model.energy_model.products[layer]
    channels = interaction.linear_up.channels
    conv = generated_module(training_modules.convolution_source(interaction.conv_tp, channels, dtype))
    code = training_modules.contraction_source(product.symmetric_contractions, channels, dtype)
    return conv, generated_module(code)


def assert_no_spill(function, dtype, capability):
    constants = {name: value for name, value in FLAGS.items() if name in function.arg_names}
    registers, stack = registers_and_stack(Kernel(function, dtype, constants), capability)
    assert 0 < registers <= 255
    assert stack == 0, function.__name__


@pytest.mark.parametrize(("size", "dtype", "capability"), [("S", "float32", 80), ("M", "float64", 90)])
def test_no_convolution_spills(size, dtype, capability):
    module, _ = kernels_of_layer(size, 1, dtype)
    for name in ("forward", "backward", "forward_change", "backward_change"):
        assert_no_spill(getattr(module, name), dtype, capability)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_of_linear_maps_do_not_spill(dtype):
    rows, columns, depth = mixing.TILES[REAL[dtype]]
    constants = {
        "INPUTS": 128,
        "OUTPUTS": 128,
        "TYPES": 2,
        "ATOMS": 256,
        "ROWS": rows,
        "COLUMNS": columns,
        "DEPTH": depth,
    }
    constants["REAL"] = mixing.triton_type(REAL[dtype])
    assert registers_and_stack(Kernel(training_mixing_kernel.outer, dtype, constants, 4), 90)[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("size", "capability"), [("S", 80), ("M", 90)])
def test_no_contraction_spills(size, capability):
    """All parts for S; the largest ones for M, which take the longest."""
    _, module = kernels_of_layer(size, 0, "float32")
    for name in ("contract", "contract_backward", "change", "weights", "weights_change"):
        assert_no_spill(getattr(module, f"{name}{1 if size == 'M' else 0}"), "float32", capability)


# --- on a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_on_a_gpu(name, dtype):
    """Loss and gradients of the kernels against those of the torch code on the CPU, in double precision."""
    model = tiny_model(**NETWORKS[name], precision=dtype, num_channels=40)
    exactly = tiny_model(**NETWORKS[name], num_channels=40).to("cpu")
    exactly.energy_model.load_state_dict(model.energy_model.state_dict())
    batch = two_frames()
    loss, exact = gradients(exactly, batch)
    ours, found = gradients(model.to("cuda"), [part.cuda() for part in batch])
    assert model.__dict__["_training_kernels"] is not None
    close(ours.cpu(), loss, NATIVE[dtype])
    for key, gradient in exact.items():
        close(found[key].cpu(), gradient, NATIVE[dtype])
