"""Parts of mlip's MACE against their formulas; whole networks are compared in test_mlip.py."""

import math

import torch
from helpers import tiny_model

from deepmd_gnn.nn.activations import activate, gain_of
from deepmd_gnn.nn.mlip_parts import Scaled
from deepmd_gnn.nn.node_features import NodeGate, SoftEnvelope, SoftLimit


def features(seed=0):
    """Of five nodes: a scalar and a vector in three channels."""
    return torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gate():
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 2, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    x, kinds = features(), torch.tensor([0, 1, 1, 0, 1])
    gate = NodeGate([1, 3], 3, 2, weight.flatten(), bias)
    numbers = torch.stack([x[n, 0] @ weight[:, k] * 6**-0.5 + bias[k] for n, k in enumerate(kinds)])
    expected = torch.cat([x[:, :1] * numbers[:, None, :3], x[:, 1:] * numbers[:, None, 3:]], dim=1)
    found = gate(x, torch.nn.functional.one_hot(kinds, 2).double())
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)


def test_limit():
    x = features()
    x[0, 1:, 0] = 0.0  # without direction
    found = SoftLimit([1, 3], 0.5)(x)
    norm = x[2, 1:, 1].norm() / math.sqrt(3) / 0.5
    assert torch.allclose(
        found[2, 1:, 1], x[2, 1:, 1] / (1 + norm * torch.exp(-1 / norm)), rtol=0, atol=1e-14
    )
    assert SoftLimit([1], 1.0)(torch.full((1, 1, 1), 1e9)).item() < 1.1
    zero = torch.zeros(2, 4, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(SoftLimit([1, 3], 0.5)(zero).sum(), zero)
    assert torch.equal(gradient, torch.ones_like(zero))


def test_envelope_and_scaled_basis():
    envelope = SoftEnvelope(4.0)
    r = torch.tensor([1e-12, 2.0, 3.999, 4.0, 9.0], dtype=torch.float64)
    expected = torch.tensor([1.2, 1.2 * math.exp(0.5 - 1.0), 0.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.allclose(envelope(r), expected, rtol=0, atol=1e-11)
    assert torch.equal(Scaled(torch.nn.Identity(), 3.0)(r), 3.0 * r)
    radial = tiny_model(avg_r_min=1.0).energy_model.radial_embedding
    distance = torch.linspace(1.0, 4.0, 1000, dtype=torch.float64).unsqueeze(1)
    values = radial.bessel_fn(distance) * radial.cutoff_fn(distance)
    assert abs(values.square().mean() - 1.0) < 1e-12


def test_gain():
    """Unit second moment: of tanh by another quadrature, of what is linear exactly."""
    assert abs(gain_of("None") - 1.0) < 1e-12
    x = torch.randn(10**6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(activate(x, "tanh").square().mean() * gain_of("tanh") ** 2 - 1.0) < 1e-2
