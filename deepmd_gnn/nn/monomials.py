"""From dense symmetric couplings to polynomials over distinct monomials. NumPy only."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class SymmetricPolynomial(NamedTuple):
    """Polynomials that share their monomials."""

    coefficients: list[Array]
    """One per output, shape (components, parameters of all orders from the highest down, monomials)."""
    prefixes: list[Indices]
    """For the orders 2, 3, …: index of each monomial's first factors among the monomials of the order below."""
    lasts: list[Indices]
    """Index of its last factor among the variables."""


def collect(tensor: Array) -> dict[tuple[int, ...], Array]:
    """Add up the coefficients of all permutations of an index tuple.

    Parameters
    ----------
    tensor : numpy.ndarray
        Coupling, shape (components, n, …, n, parameters).

    Returns
    -------
    dict[tuple[int, ...], numpy.ndarray]
        Coefficients, shape (components, parameters), of each monomial with one above 1e-12.
    """
    components, *variables, parameters = tensor.shape
    flat = tensor.reshape(components, -1, parameters)
    occupied = np.flatnonzero(np.abs(flat).max(axis=(0, 2), initial=0.0) > 0.0)
    keys = np.sort(np.stack(np.unravel_index(occupied, variables), axis=1), axis=1)
    distinct, inverse = np.unique(keys, axis=0, return_inverse=True)
    sums = np.zeros((len(distinct), components, parameters))
    np.add.at(sums, inverse.ravel(), flat[:, occupied].transpose(1, 0, 2))
    return {
        tuple(key): total
        for key, total in zip(distinct.tolist(), sums, strict=True)
        if np.abs(total).max() > 1e-12
    }


def symmetric_polynomial(couplings: list[list[Array]]) -> SymmetricPolynomial:
    r"""Collect the distinct monomials of :math:`\sum_{i_1 \ldots i_\nu} U_{M i_1 \ldots i_\nu k} A_{i_1} \cdots A_{i_\nu}`.

    Permutations of the indices give the same monomial and are added up; of the 4096 index triples over 16 variables
    a few hundred distinct monomials with non-zero coefficients remain.

    Parameters
    ----------
    couplings : list[list[Array]]
        For every output the tensors of order 1, 2, …, shape (components, n, …, n, parameters).

    Returns
    -------
    SymmetricPolynomial
        The monomials of order 1 are all variables.
    """
    norders = len(couplings[0])
    nvariables = couplings[0][0].shape[1]
    # Per output and order: {sorted index tuple: coefficients (components, parameters)}.
    tables = [[collect(tensor) for tensor in output] for output in couplings]
    monomials: list[list[tuple[int, ...]]] = [[(i,) for i in range(nvariables)]]
    needed = [{key for table in tables for key in table[order]} for order in range(norders)]
    for order in range(norders - 1, 1, -1):
        needed[order - 1] |= {key[:-1] for key in needed[order]}
    monomials += [sorted(keys) for keys in needed[1:]]
    position = [{key: index for index, key in enumerate(keys)} for keys in monomials]
    prefixes = [
        np.array([position[o - 1][k[:-1]] for k in monomials[o]], dtype=np.int64) for o in range(1, norders)
    ]
    lasts = [np.array([k[-1] for k in monomials[o]], dtype=np.int64) for o in range(1, norders)]
    begins = np.cumsum([0] + [len(keys) for keys in monomials])
    coefficients = []
    for output, table in zip(couplings, tables, strict=True):
        widths = [tensor.shape[-1] for tensor in output]
        matrix = np.zeros((output[0].shape[0], sum(widths), begins[-1]))
        column = 0
        for order in range(norders - 1, -1, -1):  # native MACE stores the weights of the highest order first
            for key, values in table[order].items():
                matrix[:, column : column + widths[order], begins[order] + position[order][key]] = values
            column += widths[order]
        coefficients.append(matrix)
    return SymmetricPolynomial(coefficients, prefixes, lasts)
