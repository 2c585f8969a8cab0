"""The kernel of linear maps between channels against the torch code that it replaces."""

import pytest
import torch
from helpers import assert_close, tiny_model
from tolerances import NATIVE

from deepmd_gnn.kernels import operators
from deepmd_gnn.kernels.cpu import generated, mixing
from deepmd_gnn.nn.linear import Linear, LinearPath

SIZES = {"float32": 30, "float64": 40}  # channels of the input: no whole number of vectors


@pytest.fixture(scope="module", params=["float64", "float32"])
def kernels(request):
    model = tiny_model(precision=request.param, num_interactions=1, max_ell=1, correlation=1)
    return request.param, generated.Kernels(model.energy_model)


def linear(channels, ntypes, dtype):
    """Scalars from two irreps, a vector from one, an irrep that nothing leads to, one that leads nowhere."""
    inputs, outputs = channels
    size = inputs * outputs * max(1, ntypes)
    paths = [
        LinearPath(0, 0, 1, 0, inputs, outputs, 0.5),
        LinearPath(1, 0, 1, 2 * size, inputs, outputs, -0.7),
        LinearPath(2, 1, 3, size, inputs, outputs, 1.3),
        LinearPath(0, 4, 5, 0, 0, outputs, 0.0),
    ]
    weight = torch.randn(3 * size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Linear(weight, paths, ntypes).to(dtype).requires_grad_(False)


def evaluated(module, features, one_hot):
    inputs = features.clone().requires_grad_(True)
    value = module(inputs, one_hot)
    (gradient,) = torch.autograd.grad(value.sin().sum(), inputs)
    return value.detach(), gradient


@pytest.mark.parametrize("nnode", [0, 1, 7, 100])
@pytest.mark.parametrize("ntypes", [0, 1, 3])
@pytest.mark.parametrize("outputs", [1, 30, 160])
def test_equals_torch(kernels, nnode, ntypes, outputs):
    precision, built = kernels
    dtype = getattr(torch, precision)
    module = linear((SIZES[precision], outputs), ntypes, torch.float64)
    generator = torch.Generator().manual_seed(nnode)
    features = torch.randn(nnode, 10, SIZES[precision], generator=generator, dtype=torch.float64)
    types = torch.randint(max(1, ntypes), (nnode,), generator=generator)
    one_hot = torch.nn.functional.one_hot(types, max(1, ntypes)).double()
    expected = evaluated(module, features, one_hot)
    assert mixing.covers(module)
    generated_linear = mixing.GeneratedLinear(module, built.library.lanes).to(dtype)
    with operators.use(built.library):
        found = evaluated(generated_linear, features.to(dtype), one_hot.to(dtype))
    for name, ours, reference in zip(("value", "gradient"), found, expected, strict=True):
        assert ours.shape == reference.shape
        if nnode:
            assert_close(ours.numpy(), reference.numpy(), NATIVE[precision], name)


def test_what_the_kernel_does_not_cover():
    """Irreps with other channels than the rest, unless they are scalars: the gates of non-linear layers."""
    paths = [LinearPath(0, 0, 1, 0, 4, 4, 1.0), LinearPath(1, 1, 3, 16, 4, 8, 1.0)]
    assert not mixing.covers(Linear(torch.zeros(48), paths))
    paths = [LinearPath(0, 0, 1, 0, 4, 8, 1.0), LinearPath(1, 2, 3, 32, 4, 4, 1.0)]
    assert mixing.covers(Linear(torch.zeros(48), paths))
    assert not mixing.covers(Linear(torch.zeros(0), [LinearPath(0, 0, 1, 0, 0, 4, 0.0)]))


def test_maps_of_a_network():
    """What runs on nodes is evaluated by the kernel, what depends on the element alone is not."""
    model = tiny_model().energy_model
    found = mixing.mapped_linears(model)
    names = {(blocks, layer, name) for blocks, layer, name in found}
    both = {("interactions", layer, name) for layer in (0, 1) for name in ("linear", "skip_tp")}
    assert names == both | {
        ("interactions", 1, "linear_up"),
        ("products", 0, "linear"),
        ("products", 1, "linear"),
    }
