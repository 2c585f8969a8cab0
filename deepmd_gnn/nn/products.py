"""Products of matrices in a file that may run inside LAMMPS, as an operator."""

from typing import Any

import torch


@torch.library.custom_op("deepmd_gnn::mace_product", mutates_args=())
def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply two matrices; a ``.pt2`` has its own function for it, see :mod:`~deepmd_gnn.kernels.cpu.file_operators`.

    Parameters
    ----------
    left, right : torch.Tensor
        float64, shapes (n, k) and (k, m), with any strides.

    Returns
    -------
    torch.Tensor
        Shape (n, m), contiguous.
    """
    return torch.matmul(left, right).contiguous()


@product.register_fake
def _(left: Any, right: Any) -> torch.Tensor:
    return left.new_empty([left.shape[0], right.shape[1]])
