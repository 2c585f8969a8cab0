"""Forces and virials of atoms from the gradient of the edges, as an operator with a Triton kernel."""

from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.derivatives import Distribution, atomic_derivatives
from deepmd_gnn.kernels.triton import reference
from deepmd_gnn.kernels.triton.forces_kernel import forces as forces_kernel
from deepmd_gnn.kernels.triton.operator import operator
from deepmd_gnn.kernels.triton.operators import on_cpu

# Edges of a receiver that a program, one warp, works on at a time.
EDGES = 32


@operator("deepmd_gnn::triton_forces")
def forces(
    gradient: torch.Tensor,
    vectors: torch.Tensor,
    edge_atoms: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    natom: int,
) -> torch.Tensor:
    """Distribute the gradients of the edges over the atoms.

    Parameters
    ----------
    gradient, vectors : torch.Tensor
        Derivative with respect to the vectors, eV/Å, and the vectors, Å; float64, shape (nedge, 3).
    edge_atoms : torch.Tensor
        Output rows of neighbour and centre, int64, shape (2, nedge).
    order, begin : torch.Tensor
        See :func:`~deepmd_gnn.kernels.triton.operators.convolve`; edges in no list are left out.
    natom : int
        Output rows without the guard's.

    Returns
    -------
    torch.Tensor
        Forces of the guard and the atoms, eV/Å, then their virials, eV; float64, shape (12 (natom + 1),). One array,
        because one launch clears it.
    """
    if on_cpu(gradient):
        return reference.forces(gradient, vectors, edge_atoms, order, begin, natom)
    out = gradient.new_zeros(12 * (natom + 1))
    forces_kernel[(begin.shape[0] - 1,)](
        gradient,
        vectors,
        edge_atoms,
        order,
        begin,
        out,
        natom,
        order.shape[0],
        edge_atoms.shape[1],
        BLOCK=EDGES,
        num_warps=1,
    )
    return out


@forces.register_fake
def _(gradient: Any, vectors: Any, edge_atoms: Any, order: Any, begin: Any, natom: int) -> torch.Tensor:
    return gradient.new_empty(12 * (natom + 1))


class TritonDistribution(Distribution):
    """Stands for the torch code where nobody differentiates forces and virials."""

    def forward(
        self, gradient: torch.Tensor, graph: AtomGraph, natom: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :func:`~deepmd_gnn.graph.derivatives.atomic_derivatives`."""
        if gradient.requires_grad:
            return atomic_derivatives(gradient, graph, natom)
        assert graph.order is not None
        assert graph.begin is not None
        sums = forces(
            gradient.contiguous(),
            graph.edge_vec.detach().contiguous(),
            graph.edge_atoms.contiguous(),
            graph.order,
            graph.begin,
            natom,
        )
        rows = natom + 1
        return sums[: 3 * rows].view(rows, 3)[1:], sums[3 * rows :].view(rows, 9)[1:]
