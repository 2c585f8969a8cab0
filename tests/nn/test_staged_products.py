"""The product basis in pieces, and its derivative, against autograd through the plain one."""

import itertools

import pytest
import torch
from tolerances import NATIVE

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.staged_products import StagedPolynomials
from deepmd_gnn.nn.stages import new_stages
from deepmd_gnn.nn.symmetric_contraction import Contraction, SymmetricContraction

COMPONENTS, CHANNELS, NTYPES = 4, 3, 5
# Relative to the largest: other orders of sums alone.
MOST = {torch.float64: 1e-2 * NATIVE["float64"], torch.float32: NATIVE["float32"]}
TYPES = [0, 3, 3, 1, 0, 0, 3, 0, 1]  # types 2 and 4 are nowhere


def contraction(correlation, dtype=torch.float64):
    """Random polynomials, a scalar and a vector, with some of all monomials."""
    torch.manual_seed(0)
    orders = [[(k,) for k in range(COMPONENTS)]]
    for order in range(2, correlation + 1):
        keys = list(itertools.combinations_with_replacement(range(COMPONENTS), order))
        orders.append([key for key in keys[::2] if key[:-1] in orders[-1]])
    prefixes = [
        torch.tensor([below.index(key[:-1]) for key in keys]) for below, keys in itertools.pairwise(orders)
    ]
    lasts = [torch.tensor([key[-1] for key in keys]) for keys in orders[1:]]
    nmonomial = sum(len(keys) for keys in orders)
    parts = [
        Contraction(
            torch.randn(dim, 2 * correlation, nmonomial, dtype=torch.float64),
            [torch.randn(NTYPES, 2, CHANNELS, dtype=torch.float64) for _ in range(correlation)],
        )
        for dim in (1, 3)
    ]
    return SymmetricContraction(parts, prefixes, lasts).to(dtype)


def assert_as_plain(whole, types, dtype, fewest=0):
    types = torch.tensor(types, dtype=torch.int64)
    features = torch.randn(len(types), COMPONENTS, CHANNELS, dtype=dtype, requires_grad=True)
    none = torch.zeros(2, 0, dtype=torch.int64)
    graph = AtomGraph(types, types, none, torch.zeros(0, 3), none)
    expected = whole(features, types, graph)
    gradient = torch.randn_like(expected)
    stages = new_stages()
    whole.fewest = fewest
    found = whole.in_stages(features, types, graph, stages)
    assert found.is_leaf
    assert found.requires_grad
    assert stages.contracted[0] is found
    by_features = whole.gradient_in_stages(stages.messages[0], types, graph, gradient)
    (reference,) = torch.autograd.grad(expected, [features], gradient)
    for ours, theirs in ((found, expected), (by_features, reference)):
        assert ours.shape == theirs.shape
        assert ours.dtype == dtype
        assert float((ours - theirs).detach().abs().max()) <= MOST[dtype] * float(theirs.detach().abs().max())


@pytest.mark.parametrize("correlation", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_values_and_derivatives(correlation, dtype):
    assert_as_plain(contraction(correlation, dtype), TYPES, dtype)


@pytest.mark.parametrize(("numbers", "nodes"), [(1, 1), (60, 2), (10**6, 64)])
def test_pieces_do_not_matter(numbers, nodes):
    whole = contraction(3)
    whole.staged.numbers, whole.staged.nodes = numbers, nodes
    assert_as_plain(whole, TYPES, torch.float64)


@pytest.mark.parametrize("types", [[4], list(range(NTYPES))])
def test_few_atoms(types):
    assert_as_plain(contraction(3), types, torch.float64)


@pytest.mark.parametrize(("types", "few"), [([1] * 10, False), ([1] * 9, True), ([1] * 18 + [3], True)])
def test_few_nodes_of_an_element_are_evaluated_plainly(types, few):
    """With the same result: a leaf, and its derivative."""
    whole = contraction(2)
    assert whole.is_few(torch.tensor(types)) == few
    assert_as_plain(whole, types, torch.float64, whole.fewest)


def test_scripted():
    whole = contraction(3)
    variables = torch.randn(len(TYPES), COMPONENTS, CHANNELS, dtype=torch.float64)
    gradient = torch.randn(len(TYPES), 4, CHANNELS, dtype=torch.float64)
    types = torch.tensor(TYPES)
    coefficients = whole.polynomials(types)
    scripted = torch.jit.script(whole.staged)
    for by in (None, gradient):
        expected = whole.staged.in_pieces(variables, coefficients, types, by)
        assert torch.equal(scripted.in_pieces(variables, coefficients, types, by), expected)


def test_variables_alone():
    """Without products the lower monomials are 1 alone."""
    assert StagedPolynomials(3, [], []).nlower == 1
