r"""Forces and virials from one gradient with respect to the edge vectors.

With :math:`r_e = r_{neighbour} - r_{centre}` and :math:`g_e = \partial E / \partial r_e` the chain rule gives
:math:`F_k = \sum_{centre = k} g_e - \sum_{neighbour = k} g_e` and :math:`W = -\sum_e g_e \otimes r_e`.
DeePMD-kit assigns the whole edge term of the virial to the neighbour; the sum over atoms is the virial.
"""

from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph, is_exported
from deepmd_gnn.graph.edge_sums import sum_over_edges


@torch.jit.script
class Differentiable:
    """Autograd is on inside a ``with`` block, and after it, also after an error, as the caller had it.

    TorchScript has no ``torch.enable_grad``, and leaves blocks of its own classes in order when an error passes.
    """

    def __init__(self) -> None:
        self.before = torch.is_grad_enabled()

    def __enter__(self) -> None:
        """Switch autograd on."""
        torch.set_grad_enabled(True)

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        """Restore what was before."""
        torch.set_grad_enabled(self.before)


def edge_gradient(
    energy: torch.Tensor, edge_vec: torch.Tensor, create_graph: bool, keep_graph: bool = False
) -> torch.Tensor:
    """Differentiate the energy with respect to the edge vectors.

    Parameters
    ----------
    energy : torch.Tensor
        Energies in eV; their sum is differentiated.
    edge_vec : torch.Tensor
        Å, shape (nedge, 3); requires grad.
    create_graph : bool
        Make a graph of the derivative, for a loss on forces (training).
    keep_graph : bool
        Keep the graph of the energy, to differentiate something else of it.

    Returns
    -------
    torch.Tensor
        eV/Å, shape (nedge, 3).
    """
    ones = torch.jit.annotate(list[torch.Tensor | None], [torch.ones_like(energy)])
    gradient = torch.autograd.grad(
        [energy], [edge_vec], ones, create_graph=create_graph, retain_graph=create_graph or keep_graph
    )[0]
    assert gradient is not None  # tells TorchScript that it is a tensor
    return gradient


def charged_gradients(
    energy: torch.Tensor, edge_vec: torch.Tensor, far_vec: torch.Tensor, create_graph: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`edge_gradient` of an energy that depends on pairs of charges as well, whose gradient is the second one."""
    gradients = torch.autograd.grad(
        [energy.sum()], [edge_vec, far_vec], create_graph=create_graph, retain_graph=create_graph
    )
    near, far = gradients[0], gradients[1]
    assert near is not None
    assert far is not None
    return near, far


def pair_derivatives(
    gradient: torch.Tensor, vectors: torch.Tensor, atoms: torch.Tensor, natom: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`atomic_derivatives` of the pairs of charges: their gradient and vectors, (npair, 3), and output rows, (2, npair)."""
    none = torch.zeros(natom + 1, 3, dtype=gradient.dtype, device=gradient.device)
    force = none.index_add(0, atoms[1], gradient).index_add(0, atoms[0], -gradient)
    virial = -(gradient.unsqueeze(2) * vectors.unsqueeze(1)).reshape(-1, 9)
    rows = torch.zeros(natom + 1, 9, dtype=gradient.dtype, device=gradient.device)
    return force[1:], rows.index_add(0, atoms[0], virial)[1:]


def atomic_derivatives(
    gradient: torch.Tensor, graph: AtomGraph, natom: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distribute the edge gradients over the atoms.

    Parameters
    ----------
    gradient : torch.Tensor
        Output of :func:`edge_gradient`, shape (nedge, 3).
    graph : AtomGraph
        The graph it belongs to.
    natom : int
        Rows of the output: the atoms that `graph.edge_atoms` counts, without the guard.

    Returns
    -------
    force : torch.Tensor
        eV/Å, shape (natom, 3).
    atom_virial : torch.Tensor
        eV, 9 components with the force component first, shape (natom, 9).
    """
    exported = is_exported(graph)
    # The lists of an exported graph are those of the owned atoms, which come first.
    rows = graph.node_types.shape[0] if exported else natom + 1
    neighbor, center = graph.edge_atoms[0], graph.edge_atoms[1]
    toward = sum_over_edges(gradient, neighbor, natom + 1, graph.outgoing, graph)
    force = sum_over_edges(gradient, center, rows, graph.incoming, graph)
    if exported:
        force = torch.cat([force, force.new_zeros(natom + 1 - rows, 3)])
    edge_virial = -(gradient.unsqueeze(2) * graph.edge_vec.unsqueeze(1)).reshape(-1, 9)
    atom_virial = sum_over_edges(edge_virial, neighbor, natom + 1, graph.outgoing, graph)
    return (force - toward)[1:], atom_virial[1:]


class Distribution(torch.nn.Module):
    """From the gradients of edges to forces and virials of atoms, as a network's graph is evaluated. Kernels put theirs here."""

    def forward(
        self, gradient: torch.Tensor, graph: AtomGraph, natom: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`atomic_derivatives`."""
        return atomic_derivatives(gradient, graph, natom)
