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
    gradient = torch.autograd.grad(
        [energy.sum()], [edge_vec], create_graph=create_graph, retain_graph=create_graph or keep_graph
    )[0]
    assert gradient is not None  # tells TorchScript that it is a tensor
    return gradient


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
