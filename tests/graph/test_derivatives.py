"""Force and virial of a quadratic toy energy with a known answer."""

import numpy as np
import pytest
import torch

from deepmd_gnn.graph.builders import make_graph
from deepmd_gnn.graph.derivatives import Differentiable, atomic_derivatives, edge_gradient
from deepmd_gnn.graph.neighbor_search import NeighborPairs


def test_harmonic_dimer():
    """E = k/2 Σ_edges r²: two directed edges of length 1 give a force of 2k along the bond."""
    k = 3.0
    coord = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0]]], dtype=torch.float64)
    atype = torch.zeros(1, 2, dtype=torch.int64)
    center, neighbor, vec = NeighborPairs(2.0)(coord, atype, None)
    vec = vec.detach().requires_grad_(True)
    graph = make_graph(atype[0], atype[0], neighbor, center, vec, torch.stack([neighbor, center]), 2.0)
    gradient = edge_gradient(0.5 * k * vec.square().sum(), vec, False)
    gradient = torch.cat([torch.zeros(1, 3, dtype=torch.float64), gradient])  # the guard
    force, virial = atomic_derivatives(gradient, graph, 2)
    np.testing.assert_allclose(force[:, 0].detach(), [2 * k, -2 * k])
    np.testing.assert_allclose(force[:, 1:].detach(), 0.0)
    # W = −Σ_e g ⊗ r = −2 k x², half on each atom because each is the neighbour of one edge.
    np.testing.assert_allclose(virial[:, 0].detach(), [-k, -k])
    np.testing.assert_allclose(virial[:, 1:].detach(), 0.0)


def slope_below(x: torch.Tensor, largest: float) -> torch.Tensor:
    """Derivative of x², which refuses large x."""
    with Differentiable():
        leaf = x.detach().requires_grad_(True)
        gradient = torch.autograd.grad([leaf.square().sum()], [leaf])[0]
        assert gradient is not None
        if float(x.max()) > largest:
            raise ValueError("too large")
    return gradient


@pytest.mark.parametrize("function", [slope_below, torch.jit.script(slope_below)], ids=["eager", "scripted"])
@pytest.mark.parametrize("enabled", [True, False])
def test_autograd_is_as_before(function, enabled):
    """On inside, whatever the caller set, and afterwards what the caller set, errors included."""
    x = torch.ones(2)
    with torch.set_grad_enabled(enabled):
        assert function(x, 2.0).tolist() == [2.0, 2.0]
        assert torch.is_grad_enabled() == enabled
        with pytest.raises(Exception, match="too large"):
            function(x, 0.0)
        assert torch.is_grad_enabled() == enabled
