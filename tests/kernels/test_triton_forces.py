"""Forces and virials of atoms by a Triton kernel: against the torch code, and what Triton compiles."""

import pytest
import torch
from helpers import assert_close
from interpreted import interpreted
from resources import registers_and_stack
from tolerances import NATIVE

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.derivatives import atomic_derivatives
from deepmd_gnn.kernels.triton import forces, forces_kernel, reference
from deepmd_gnn.kernels.triton.programs import Kernel

ATOMS = 7


def two_frames():
    """Two owned atoms and a ghost or two per frame: rows of senders are not output rows, and one atom has no edge.

    Frame 1 has output rows 1 to 4, frame 2 rows 5 to 7; receivers 1 and 2 are atoms 1 and 2, receivers 3 and 4 atoms 5 and 6.
    """
    torch.manual_seed(0)
    center = torch.tensor([0, 1, 2, 4, 1, 2, 4, 1, 0, 0])
    receiver_rows = torch.tensor([0, 1, 2, 5, 6])
    neighbor = torch.tensor([0, 2, 1, 7, 3, 4, 5, 3, 2, 0])
    senders = torch.tensor([0, 2, 1, 3, 1, 2, 3, 1, 2, 0])  # owners of the ghosts
    vectors = torch.randn(len(center), 3, dtype=torch.float64)
    return AtomGraph(
        torch.zeros(5, dtype=torch.int64),
        torch.zeros(5, dtype=torch.int64),
        torch.stack([senders, center]),
        vectors,
        torch.stack([neighbor, receiver_rows[center]]),
        "kernels",
        # The guard's edge is in no list, nor are the last two; behind the lists comes what nobody may read.
        order=torch.tensor([4, 1, 7, 2, 5, 6, 3, 0, 9]),
        begin=torch.tensor([0, 0, 3, 5, 5, 7]),
    )


@pytest.mark.parametrize("interprets", [False, True], ids=["reference", "kernel"])
@pytest.mark.parametrize("edges", [2, forces.EDGES], ids=["in turn", "at once"])
def test_equals_torch_code(interprets, edges, monkeypatch):
    graph = two_frames()
    gradient = torch.randn_like(graph.edge_vec)
    gradient[[0, 8, 9]] = 0.0
    expected = atomic_derivatives(gradient, graph, ATOMS)
    gradient[[0, 8, 9]] = torch.nan  # is not read
    monkeypatch.setattr(reference, "interprets", lambda: interprets)
    monkeypatch.setattr(forces, "EDGES", edges)
    with interpreted(forces):
        found = forces.TritonDistribution()(gradient, graph, ATOMS)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.is_contiguous()
        assert_close(ours.numpy(), theirs.numpy(), NATIVE["float64"])


def test_derivatives_of_forces_are_left_to_torch():
    graph = two_frames()
    gradient = torch.randn_like(graph.edge_vec).requires_grad_()
    force, virial = forces.TritonDistribution()(gradient, graph, ATOMS)
    assert force.requires_grad
    assert virial.requires_grad


@pytest.mark.parametrize("capability", [80, 90])
def test_nothing_spills(capability):
    kernel = Kernel(forces_kernel.forces, "float32", {"BLOCK": forces.EDGES})
    registers, stack = registers_and_stack(kernel, capability)
    assert registers <= 64  # so that 32 programs share a multiprocessor
    assert stack == 0
