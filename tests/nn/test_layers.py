"""Layers one by one: against native MACE's, or against the formula that their documentation states."""

import itertools

import numpy as np
import pytest
import torch
from helpers import assert_close, tiny_model
from mace.modules.radial import ZBLBasis
from tolerances import NATIVE

from deepmd_gnn.nn.elements import copy_elements
from deepmd_gnn.nn.energy import MaceEnergy
from deepmd_gnn.nn.gates import Affine
from deepmd_gnn.nn.interactions import AttentiveInteraction, Interaction, NonLinearInteraction
from deepmd_gnn.nn.linear import Linear, matmul
from deepmd_gnn.nn.monomials import collect, symmetric_polynomial
from deepmd_gnn.nn.readouts import Readout, activate
from deepmd_gnn.nn.repulsion import Repulsion
from deepmd_gnn.nn.soft_transform import OldSoftTransform
from deepmd_gnn.nn.symmetric_contraction import Factor
from deepmd_gnn.nn.trainable import freeze_parts


def test_monomials_of_a_quadratic_form():
    """Permutations of two indices are one monomial, and both coefficients count."""
    coupling = np.zeros((1, 2, 2, 1))
    coupling[0, 0, 1, 0], coupling[0, 1, 0, 0], coupling[0, 1, 1, 0] = 2.0, 3.0, 4.0
    found = {key: value.item() for key, value in collect(coupling).items()}
    assert found == {(0, 1): 5.0, (1, 1): 4.0}


def test_polynomial_equals_the_dense_sum():
    """The value of a cubic polynomial, monomial by monomial, is that of its dense tensors."""
    rng = np.random.default_rng(0)
    couplings = [[rng.normal(size=(1, *(3,) * order, 1)) for order in (1, 2, 3)]]
    polynomial = symmetric_polynomial(couplings)
    x = rng.normal(size=3)
    orders = [x]
    for prefix, last in zip(polynomial.prefixes, polynomial.lasts, strict=True):
        orders.append(orders[-1][prefix] * x[last])
    # Parameters begin with the highest order.
    found = polynomial.coefficients[0][0] @ np.concatenate(orders)
    dense = [
        sum(
            tensor[0, ..., 0][index] * np.prod(x[list(index)])
            for index in itertools.product(range(3), repeat=n)
        )
        for n, tensor in enumerate(couplings[0], start=1)
    ]
    np.testing.assert_allclose(found, dense[::-1], rtol=1e-12)


def test_repulsion_is_that_of_mace():
    native = ZBLBasis(p=6).double()
    numbers = torch.tensor([1, 8, 29])
    edges = torch.tensor([[0, 1, 2, 0], [1, 1, 0, 2]])
    lengths = torch.tensor([[0.4], [0.7], [0.9], [1.2]], dtype=torch.float64)
    one_hot = torch.eye(3, dtype=torch.float64)
    ours = Repulsion(native).of_edges(lengths, *(numbers[end].unsqueeze(1) for end in edges))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # noqa: TID251 - restored; native rounds its prefactor to it
    try:
        theirs = native(lengths, one_hot, edges, numbers)
    finally:
        torch.set_default_dtype(before)  # noqa: TID251
    summed = torch.zeros(3, 1, dtype=torch.float64).index_add(0, edges[1], ours)
    assert_close(summed.flatten().numpy(), theirs.numpy().ravel(), NATIVE["float64"])


def test_old_soft_transform_has_its_formula():
    radii = torch.tensor([0.0, 0.31, 0.66], dtype=torch.float64)
    x = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    one_hot = torch.eye(2, dtype=torch.float64)
    found = OldSoftTransform(radii)(x, one_hot, torch.tensor([[0, 1], [1, 1]]), torch.tensor([1, 2]))
    scaled = 4.0 * x / torch.tensor([[0.97], [1.32]], dtype=torch.float64)
    assert_close(found.numpy(), (x + 0.5 - 0.5 * torch.tanh(scaled + 0.2 * scaled**3)).numpy(), 1e-14)


@pytest.mark.parametrize(
    ("gate", "function"),
    [("silu", torch.nn.functional.silu), ("tanh", torch.tanh), ("abs", torch.abs), ("None", lambda x: x)],
)
def test_activations(gate, function):
    x = torch.linspace(-2.0, 2.0, 9)
    assert torch.equal(activate(x, gate), function(x))


def test_readout_reads_scalars_only():
    readout = Readout([torch.randn(4, 1, dtype=torch.float64)], "silu", 1.0)
    features = torch.randn(3, 4, 4, dtype=torch.float64)
    energy = readout(features)
    features[:, 1:] += 1.0
    assert torch.equal(readout(features), energy)
    assert_close(
        energy.detach().numpy(), (features[:, 0] @ readout.linear.weight * 0.5).detach().numpy(), 1e-14
    )


def test_affine_is_the_linear_layer_of_torch():
    layer = torch.nn.Linear(3, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    found = Affine(layer.weight, layer.bias)(x)
    assert_close(found.detach().numpy(), layer(x).detach().numpy(), 1e-14)
    assert_close(matmul(x, layer.weight.t()).detach().numpy(), (x @ layer.weight.t()).detach().numpy(), 1e-14)


def test_factor_is_a_table_of_rows():
    index = torch.tensor([2, 0, 0])
    assert torch.equal(Factor(index, 4).transposed.value.argmax(dim=0), index)


def test_blocks_of_the_interactions():
    """Which class stands for which block of MACE."""
    for name, block in (
        ("RealAgnosticResidual", Interaction),
        ("RealAgnosticAttResidual", AttentiveInteraction),
        ("RealAgnosticResidualNonLinear", NonLinearInteraction),
    ):
        network = tiny_model(
            interaction=name, apply_cutoff=name != "RealAgnosticResidualNonLinear"
        ).energy_model
        assert isinstance(network, MaceEnergy)
        assert type(network.interactions[1]) is block
        assert any(isinstance(part, Linear) for part in network.modules())


def test_elements_are_copied_to_their_places():
    """The embedding of each element that both networks have, but for e3nn's factor of the number of elements."""
    old = tiny_model().energy_model
    new = tiny_model(type_map=["Cu", "O"], atomic_energies=[0.0, 0.0], seed=3).energy_model
    copy_elements(old, new, [(0, 1)])
    name = "node_embedding.linear.weight"
    before, after = (network.state_dict()[name].view(2, -1) for network in (old, new))
    assert torch.equal(after[1], before[0])
    assert not torch.equal(after[0], before[1])


def test_parts_that_are_not_trained():
    network = tiny_model().energy_model
    freeze_parts(network, ["interactions.0"])
    fixed = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in fixed if name.startswith("interactions.0.")} == {"interactions"}
    with pytest.raises(ValueError, match="no parameter begins so"):
        freeze_parts(network, ["interaction"])
