"""Forces and virials of atoms from the gradient of the edges, as an operator of a ``.pt2`` for CPUs, see ``edge_forces.hpp``."""

from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.derivatives import Distribution, atomic_derivatives, pair_derivatives


@torch.library.custom_op("deepmd_gnn::edge_forces", mutates_args=())
def edge_forces(
    gradient: torch.Tensor, vectors: torch.Tensor, edge_atoms: torch.Tensor, natom: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distribute the gradients of the edges over the atoms.

    Parameters
    ----------
    gradient, vectors : torch.Tensor
        Derivative with respect to the vectors, eV/Å, and the vectors, Å; float64, contiguous, shape (nedge, 3).
    edge_atoms : torch.Tensor
        Output rows of neighbour and centre, counted from 1, 0 for the guard; int64, contiguous, shape (2, nedge).
    natom : int
        Output rows without the guard's.

    Returns
    -------
    force, virial : torch.Tensor
        eV/Å and eV, float64, shapes (natom, 3) and (natom, 9).
    """
    force, virial = pair_derivatives(gradient, vectors, edge_atoms, natom)
    return force.clone(), virial.clone()  # contiguous, and no views


@edge_forces.register_fake
def _(gradient: Any, vectors: Any, edge_atoms: Any, natom: int) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ARG001
    return gradient.new_empty([natom, 3]), gradient.new_empty([natom, 9])


class OperatorDistribution(Distribution):
    """Stands for the torch code where nobody differentiates forces and virials."""

    def forward(
        self, gradient: torch.Tensor, graph: AtomGraph, natom: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`~deepmd_gnn.graph.derivatives.atomic_derivatives`."""
        if gradient.requires_grad:
            return atomic_derivatives(gradient, graph, natom)
        vectors = graph.edge_vec.detach().contiguous()
        return edge_forces(gradient.contiguous(), vectors, graph.edge_atoms.contiguous(), natom)  # type: ignore[no-any-return]
