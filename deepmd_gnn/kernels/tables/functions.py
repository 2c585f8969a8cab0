"""The few functions of the distance of which all radial weights of a layer are combinations: their network ends with a linear map."""

import torch

from deepmd_gnn.kernels.tables.radial import TOLERANCE

MOST_ROWS = 4096  # more at once would take long and much memory


def combinations(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The fewest functions of the distance of which all radial weights are combinations.

    Parameters
    ----------
    values : torch.Tensor
        Table, float64, shape (kinds, nodes, weights, 4).
    dtype : torch.dtype
        Precision of the network.

    Returns
    -------
    torch.Tensor
        Orthonormal rows, shape (nfunction, weights): functions times these are weights within the tolerance of the table, and
        weights times their transposed are functions.
    """
    columns = [values[..., 0].flatten(0, 1), values[..., 1].flatten(0, 1)]
    columns = [column / column.abs().max().clamp(min=1e-300) for column in columns]
    # The functions come from some of the distances, the error from all.
    step = -(-len(columns[0]) // MOST_ROWS)
    basis = torch.linalg.svd(torch.cat([column[::step] for column in columns]), full_matrices=False)[2]
    number = 8
    while number < len(basis) and not all(
        _lost(column, basis[:number]) <= most for column, most in zip(columns, TOLERANCE[dtype], strict=True)
    ):
        number += 8
    return basis[:number]


def _lost(rows: torch.Tensor, basis: torch.Tensor) -> float:
    """Largest number of `rows` that is not a combination of `basis`."""
    parts = rows.split(MOST_ROWS)
    return max(float((part @ basis.T @ basis - part).abs().max()) for part in parts)
