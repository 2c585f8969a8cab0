"""The few functions of the distance of which all radial weights of a layer are combinations: their network ends with a linear map."""

import torch

from deepmd_gnn.kernels.tables.radial import TOLERANCE


def combinations(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The fewest functions of the distance of which all radial weights are combinations.

    Parameters
    ----------
    values : torch.Tensor
        Table of one kind of edges, float64, shape (nodes, weights, 4).
    dtype : torch.dtype
        Precision of the network.

    Returns
    -------
    torch.Tensor
        Orthonormal rows, shape (nfunction, weights): functions times these are weights within the tolerance of the table, and
        weights times their transposed are functions.
    """
    parts = [values[:, :, column] / values[:, :, column].abs().max().clamp(min=1e-300) for column in (0, 1)]
    rows = torch.cat(parts)
    basis = torch.linalg.svd(rows, full_matrices=False)[2]
    tolerances = TOLERANCE[dtype]
    number = 8
    while number < len(basis):
        errors = (rows @ basis[:number].T @ basis[:number] - rows).abs().split(len(values))
        if all(float(error.max()) <= most for error, most in zip(errors, tolerances, strict=True)):
            break
        number += 8
    return basis[:number]
