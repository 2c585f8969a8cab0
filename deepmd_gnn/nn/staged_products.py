"""The product basis without autograd: polynomials of an element with its weights multiplied out, evaluated piece by piece.

A polynomial is a sum of variables times polynomials of one degree less, and its derivatives are polynomials of one degree less:
both are a matrix times monomials of lower degree, few enough to be made anew wherever they are needed. Nothing is kept for the
derivative but the variables.
"""

import itertools
from collections import Counter

import torch

from deepmd_gnn.nn.linear import Constant
from deepmd_gnn.nn.modules import ModuleList

Key = tuple[int, ...]


class Factors(torch.nn.Module):
    """Monomials of one order as products.

    Parameters
    ----------
    prefix, last : list[int]
        Index of the factors among the monomials of the order below, and among the variables.
    """

    def __init__(self, prefix: list[int], last: list[int]) -> None:
        super().__init__()
        self.prefix = Constant(torch.tensor(prefix, dtype=torch.int64))
        self.last = Constant(torch.tensor(last, dtype=torch.int64))


class StagedPolynomials(torch.nn.Module):
    """Values and derivatives of polynomials without constant term that share their monomials.

    Parameters
    ----------
    nvariable : int
        Variables; all of them are monomials of order 1.
    prefixes, lasts : list[list[int]]
        For the orders 2, 3, …: each monomial is a monomial of the order below times a variable.
    """

    def __init__(self, nvariable: int, prefixes: list[list[int]], lasts: list[list[int]]) -> None:
        super().__init__()
        # What is computed of a piece stays in the cache of a CPU.
        self.numbers, self.nodes = 2**18, 64
        orders: list[list[Key]] = [[(variable,) for variable in range(nvariable)]]
        for prefix, last in zip(prefixes, lasts, strict=True):
            orders.append([(*orders[-1][p], variable) for p, variable in zip(prefix, last, strict=True)])
        monomials = [key for keys in orders for key in keys]
        lower = _lower_monomials(orders)
        columns = {key: column for column, key in enumerate(key for keys in lower for key in keys)}
        self.nvariable, self.nlower = nvariable, len(columns)
        # Which coefficient stands at a variable and a lower monomial; elsewhere the one after the last, a zero.
        source = torch.full((nvariable, self.nlower), len(monomials))
        value, derivative = torch.zeros(2, nvariable, self.nlower, dtype=torch.float64)
        for index, key in enumerate(monomials):
            for variable, times in Counter(key).items():
                column = columns[_without(key, variable)]
                source[variable, column] = index
                derivative[variable, column] = times
                value[variable, column] = float(variable == key[-1])
        self.source = Constant(source.flatten())
        self.of_value = Constant(value.flatten())
        self.of_derivative = Constant(derivative.flatten())
        self.factors = ModuleList(
            [
                Factors([below.index(key[:-1]) for key in keys], [key[-1] for key in keys])
                for below, keys in itertools.pairwise(lower[1:])
            ]
        )

    def forward(
        self, variables: torch.Tensor, coefficients: list[torch.Tensor], kinds: torch.Tensor
    ) -> torch.Tensor:
        """Evaluate.

        Parameters
        ----------
        variables : torch.Tensor
            Shape (nnode, nvariable, channels), at least one node: the guard.
        coefficients : list[torch.Tensor]
            Of each kind of nodes, shape (channels, npolynomial, nmonomial); anything for a kind that no node has.
        kinds : torch.Tensor
            Shape (nnode,).

        Returns
        -------
        torch.Tensor
            Shape (nnode, npolynomial, channels).
        """
        return self.in_pieces(variables, coefficients, kinds, None)

    def in_pieces(
        self,
        variables: torch.Tensor,
        coefficients: list[torch.Tensor],
        kinds: torch.Tensor,
        gradient: torch.Tensor | None,
    ) -> torch.Tensor:
        """Evaluate or differentiate, some channels of some nodes of one kind at a time.

        Parameters
        ----------
        variables, coefficients, kinds :
            As of :meth:`forward`.
        gradient : torch.Tensor, optional
            With respect to the polynomials, shape (nnode, npolynomial, channels).

        Returns
        -------
        torch.Tensor
            Without a gradient the polynomials, else the gradient with respect to the variables; shape (nnode, ·, channels).
        """
        # Also what is much on a CPU is little on other devices.
        most = 1 if kinds.device.type == "cpu" else 1024
        order = torch.argsort(kinds)
        counts: list[int] = torch.bincount(kinds).tolist()
        found: list[torch.Tensor] = []
        for kind, nodes in enumerate(order.split(counts)):
            if counts[kind] > 0:
                matrix = self.matrix(coefficients[kind], gradient is not None)
                for some in nodes.split(most * self.nodes):
                    numbers = (matrix.shape[1] + self.nlower) * some.shape[0]
                    width = max(1, most * self.numbers // numbers)
                    parts = variables.index_select(0, some).permute(2, 1, 0).contiguous().split(width)
                    factors = parts
                    if gradient is not None:
                        factors = gradient.index_select(0, some).permute(2, 1, 0).contiguous().split(width)
                    results: list[torch.Tensor] = []
                    for part, factor, rows in zip(parts, factors, matrix.split(width)):  # noqa: B905 - TorchScript
                        slopes = torch.bmm(rows, self.lower_monomials(part))
                        slopes = slopes.view(part.shape[0], -1, self.nvariable, part.shape[2])
                        if gradient is None:
                            results.append(slopes.mul_(factor.unsqueeze(1)).sum(dim=2))
                        else:
                            results.append(slopes.mul_(factor.unsqueeze(2)).sum(dim=1))
                    found.append(torch.cat(results).permute(2, 1, 0))
        return torch.cat(found).index_select(0, torch.argsort(order))

    def matrix(self, coefficients: torch.Tensor, derivative: bool) -> torch.Tensor:
        """What to multiply lower monomials by, a row per polynomial and variable: shape (channels, npolynomial * nvariable, nlower).

        Polynomials are sums of these products times the variables; gradients by the variables sums over the polynomials.
        """
        zero = coefficients.new_zeros(coefficients.shape[0], coefficients.shape[1], 1)
        taken = torch.cat([coefficients, zero], dim=2).index_select(2, self.source.value)
        taken *= self.of_derivative.value if derivative else self.of_value.value
        return taken.view(coefficients.shape[0], -1, self.nlower)

    def lower_monomials(self, variables: torch.Tensor) -> torch.Tensor:
        """Shape (channels, nvariable, nnode) → (channels, nlower, nnode)."""
        channels, nvariable, nnode = variables.shape
        result = variables.new_empty(channels, self.nlower, nnode)
        result.narrow(1, 0, 1).fill_(1.0)
        if self.nlower > 1:
            result.narrow(1, 1, nvariable).copy_(variables)
        begin, size = 1, nvariable
        for factors in self.factors:
            below = result.narrow(1, begin, size).index_select(1, factors.prefix.value)
            begin, size = begin + size, below.shape[1]
            last = variables.index_select(1, factors.last.value)
            torch.mul(below, last, out=result.narrow(1, begin, size))
        return result


def _without(key: Key, variable: int) -> Key:
    """A monomial divided by one of its variables."""
    place = key.index(variable)
    return key[:place] + key[place + 1 :]


def _lower_monomials(orders: list[list[Key]]) -> list[list[Key]]:
    """All derivatives of monomials, and what they are made of, by order: first 1, second all variables if any is needed."""
    needed: list[set[Key]] = [
        {_without(key, variable) for key in keys for variable in key} for keys in orders
    ]
    for order in range(len(needed) - 1, 1, -1):
        needed[order - 1] |= {key[:-1] for key in needed[order]}
    if len(needed) > 1:
        needed[1] = set(orders[0])
    return [sorted(keys) for keys in needed]
