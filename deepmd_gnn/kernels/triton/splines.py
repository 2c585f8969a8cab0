r"""Radial weights as quintic B-splines on a uniform grid: one number per node and weight.

Between the nodes n and n + 1 the weight is :math:`\sum_{k=0}^5 b_k(t)\, c_{n+k}` with the place t between 0 and 1. The
tables of the CPU (:mod:`~deepmd_gnn.kernels.tables.radial`) hold four numbers per node and need half as many nodes: a GPU
is short of cache.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch

from deepmd_gnn.kernels.tables.radial import BETWEEN, PROBES, SMALLEST, TOLERANCE, Weights, kinds_of_pairs

# Polynomials b_0 … b_5 in t, ascending powers, times 120: the uniform quintic B-spline.
_BASIS = np.array(
    [
        [1, -5, 10, -10, 5, -1],
        [26, -50, 20, 20, -20, 5],
        [66, 0, -60, 0, 30, -10],
        [26, 50, 20, -20, -20, 10],
        [1, 5, 10, 10, 5, -5],
        [0, 0, 0, 0, 0, 1],
    ],
    dtype=np.float64,
)
FEWEST, MOST = {torch.float32: 256, torch.float64: 1024}, 8192
WEIGHTS = 6  # B-splines that are not zero at a place


def basis_polynomials() -> npt.NDArray[np.float64]:
    """Coefficients of the B-splines in t, ascending powers, shape (6, 6)."""
    return _BASIS / 120.0


def slope_polynomials() -> npt.NDArray[np.float64]:
    """Coefficients of their derivatives, shape (6, 5)."""
    return basis_polynomials()[:, 1:] * np.arange(1.0, 6.0)


class SplineTable(NamedTuple):
    """Radial weights of a layer."""

    coefficients: torch.Tensor
    """float64, shape (kinds, nodes + 4, weights)."""
    error: float
    """Largest error of a weight between nodes, relative to the largest weight."""
    derivative_error: float
    """The same of its derivative."""

    @property
    def nodes(self) -> int:
        """Nodes from 0 to the cutoff."""
        return self.coefficients.shape[1] - 4

    def fine(self, dtype: torch.dtype) -> bool:
        """Whether the errors are within the tolerance of a precision."""
        tolerance, derivative_tolerance = TOLERANCE[dtype]
        return self.error <= tolerance and self.derivative_error <= derivative_tolerance

    def description(self) -> dict[str, Any]:
        """What a frozen file says about it; plain values."""
        return {"nodes": self.nodes, "error": self.error, "derivative_error": self.derivative_error}


def interpolate(
    values: npt.NDArray[np.float64], slopes: npt.NDArray[np.float64], curvatures: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Coefficients of the quintic spline through values at the nodes.

    Parameters
    ----------
    values : numpy.ndarray
        Shape (nodes, ·).
    slopes, curvatures : numpy.ndarray
        First and second derivative at the first and the last node, for a spacing of 1, shape (2, ·).

    Returns
    -------
    numpy.ndarray
        Shape (nodes + 4, ·).
    """
    nodes = len(values)
    size = nodes + 4
    bands = np.zeros((9, size))  # row 4 + row − column, as scipy wants it

    def fill(row: int, first: int, numbers: list[float]) -> None:
        for column, number in enumerate(numbers, first):
            bands[4 + row - column, column] = number

    slope = [-1 / 24, -10 / 24, 0.0, 10 / 24, 1 / 24]
    curvature = [1 / 6, 2 / 6, -1.0, 2 / 6, 1 / 6]
    fill(0, 0, slope)
    fill(1, 0, curvature)
    for node in range(nodes):
        fill(node + 2, node, [1 / 120, 26 / 120, 66 / 120, 26 / 120, 1 / 120])
    fill(size - 2, nodes - 1, curvature)
    fill(size - 1, nodes - 1, slope)
    right = np.concatenate([slopes[:1], curvatures[:1], values, curvatures[1:], slopes[1:]])
    return scipy.linalg.solve_banded((4, 4), bands, right)


def _tabulated(weights: Weights, r_max: float, nkind: int, nodes: int) -> SplineTable:
    spacing = r_max / (nodes - 1)
    grid = torch.linspace(0.0, r_max, nodes, dtype=torch.float64)
    safe = grid.clamp(min=SMALLEST)
    ends = torch.stack([safe[0], safe[-1]])
    bins = torch.arange(nodes - 1)[grid[:-1] > SMALLEST].flip(0)[:: max(1, nodes // PROBES)]
    tables, error, derivative_error = [], 0.0, 0.0
    for kind in range(nkind):
        value = weights(safe, kind).detach()
        slope, curvature = weights.slope(ends, kind)[1], weights.curvature(ends, kind)
        shift = (grid - safe).unsqueeze(1)  # zero but for the first nodes
        value = value + shift * (slope[0] + 0.5 * shift * curvature[0])
        slope[0] = slope[0] + shift[0] * curvature[0]
        table = torch.from_numpy(
            interpolate(value.numpy(), slope.numpy() * spacing, curvature.numpy() * spacing**2)
        )
        tables.append(table)
        steepest = weights.slope(grid[bins], kind)[1].abs().max()
        for t in BETWEEN:
            exact, exact_slope = weights.slope(grid[bins] + t * spacing, kind)
            approximate, approximate_slope = evaluate(table, bins, t)
            error = max(error, float((approximate - exact).abs().max() / value.abs().max()))
            deviation = (approximate_slope / spacing - exact_slope).abs().max()
            derivative_error = max(derivative_error, float(deviation / steepest))
    return SplineTable(torch.stack(tables), error, derivative_error)


def evaluate(table: torch.Tensor, bins: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and slope at the same place in some bins.

    Parameters
    ----------
    table : torch.Tensor
        Shape (nodes + 4, weights).
    bins : torch.Tensor
        Shape (n,).
    t : float
        Place between 0 and 1.

    Returns
    -------
    value, slope : torch.Tensor
        For a spacing of 1, shape (n, weights).
    """
    rows = torch.stack([table[bins + k] for k in range(WEIGHTS)], dim=2)
    value = torch.from_numpy(basis_polynomials() @ t ** np.arange(6.0))
    slope = torch.from_numpy(slope_polynomials() @ t ** np.arange(5.0))
    return rows @ value, rows @ slope


def spline_table(energy_model: Any, interaction: Any, fewest: int = 0) -> SplineTable:
    """Tabulate the radial weights of a layer, with as many nodes as the precision asks for.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.
    interaction : Interaction
        One of its layers.
    fewest : int
        Nodes at least.

    Returns
    -------
    SplineTable
        The coarsest grid whose error is within the tolerance, or the finest one tried.
    """
    weights = Weights(energy_model, interaction)
    nodes = max(FEWEST[energy_model.dtype], fewest)
    while True:
        table = _tabulated(weights, energy_model.r_max, kinds_of_pairs(energy_model, interaction), nodes)
        if table.fine(energy_model.dtype) or nodes >= MOST:
            return table
        # The error of the derivative falls with the fifth power of the spacing.
        tolerance, derivative_tolerance = TOLERANCE[energy_model.dtype]
        excess = max(table.error / tolerance, table.derivative_error / derivative_tolerance)
        nodes = min(int(nodes * min(1.5, max(1.1, 1.05 * excess**0.2))), MOST)


def spline_tables(energy_model: Any) -> list[SplineTable]:
    """Tabulate all layers on one grid, so that an edge has the same place in all tables."""
    tables = [spline_table(energy_model, interaction) for interaction in energy_model.interactions]
    nodes = max(table.nodes for table in tables)
    return [
        table if table.nodes == nodes else spline_table(energy_model, interaction, nodes)
        for table, interaction in zip(tables, energy_model.interactions, strict=True)
    ]
