r"""C++ for the symmetric contraction of one layer, and its derivative.

An output component is a polynomial without constant term in the components :math:`x_a` of an atom's message,
:math:`\sum_a x_a (c_a + \sum_{b \ge a} x_b (c_{ab} + \sum_{c \ge b} x_c\, c_{abc}))`, evaluated in this nested form;
the coefficients are MACE's couplings contracted with the weights of the element and channel.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
NEGLIGIBLE = 1e-12


class Node(NamedTuple):
    """A factor of monomials that begin alike."""

    variable: int
    term: int | None
    """Position of the coefficient of the monomial that ends here."""
    children: list["Node"]


class Polynomials(NamedTuple):
    """All that the code of a contraction depends on."""

    variables: int
    """Components of the message."""
    trees: list[list[Node]]
    """One per output component."""
    terms: list[tuple[int, int]]
    """Output component and monomial of every coefficient, in the order of evaluation."""


def monomial_tuples(
    variables: int, prefixes: list[list[int]], lasts: list[list[int]]
) -> list[tuple[int, ...]]:
    """Write out the monomials of :class:`~deepmd_gnn.nn.symmetric_contraction.SymmetricContraction`.

    Parameters
    ----------
    variables : int
        Number of variables; they are the monomials of order 1.
    prefixes, lasts : list[list[int]]
        For the orders 2, 3, …: monomial of the order below, and last factor.

    Returns
    -------
    list[tuple[int, ...]]
        Sorted factors of every monomial.
    """
    below: list[tuple[int, ...]] = [(v,) for v in range(variables)]
    found = list(below)
    for prefix, last in zip(prefixes, lasts, strict=True):
        below = [(*below[p], v) for p, v in zip(prefix, last, strict=True)]
        found += below
    return found


def polynomials(variables: int, monomials: list[tuple[int, ...]], used: npt.NDArray[np.bool_]) -> Polynomials:
    """Arrange the monomials of every output component as a tree.

    Parameters
    ----------
    variables : int
        Number of variables.
    monomials : list[tuple[int, ...]]
        Sorted factors.
    used : numpy.ndarray
        Whether an output component has a monomial, shape (components, monomials).

    Returns
    -------
    Polynomials
    """
    trees: list[list[Node]] = []
    terms: list[tuple[int, int]] = []

    def grow(output: int, prefix: tuple[int, ...], table: dict[tuple[int, ...], int]) -> list[Node]:
        depth = len(prefix)
        nodes = []
        for variable in sorted({key[depth] for key in table if key[:depth] == prefix and len(key) > depth}):
            key = (*prefix, variable)
            term = None
            if key in table:
                term = len(terms)
                terms.append((output, table[key]))
            nodes.append(Node(variable, term, grow(output, key, table)))
        return nodes

    for output, row in enumerate(used):
        table = {monomials[index]: int(index) for index in np.flatnonzero(row)}
        trees.append(grow(output, (), table))
    return Polynomials(variables, trees, terms)


def contraction_code(name: str, shape: Polynomials) -> str:
    """Write the class that `kernels.hpp` loops over the atoms with.

    Parameters
    ----------
    name : str
        Name of the class.
    shape : Polynomials
        The polynomials.

    Returns
    -------
    str
        C++.
    """
    constants = (
        f"VARIABLES = {shape.variables}, WIDTH = {len(shape.trees)}, TERMS = {max(1, len(shape.terms))}"
    )
    return (
        f"struct {name} {{\nstatic constexpr int {constants};\n{_forward(shape)}\n{_backward(shape)}\n}};\n"
    )


def _forward(shape: Polynomials) -> str:
    lines = [
        "static void forward(const T* features, const T* c, T* out, long channels, long count) {",
        *_loads(shape),
    ]
    for output, tree in enumerate(shape.trees):
        lines.append(f"{{ V sum = zero();\n{_sum('sum', tree, '1')}")
        lines.append(f"store_part(out + {output} * channels, sum, count); }}")
    return "\n".join([*lines, "}"])


def _loads(shape: Polynomials) -> list[str]:
    return [
        f"const V x{v} = load_part(features + {v} * channels, count); (void)x{v};"
        for v in range(shape.variables)
    ]


def _coefficient(term: int | None) -> str:
    return "zero()" if term is None else f"load(c + {term}L * LANES)"


def _sum(total: str, nodes: list[Node], depth: str) -> str:
    """Add a level of the nested polynomial to a variable."""
    lines = []
    for node in nodes:
        if not node.children:
            lines.append(f"{total} += x{node.variable} * {_coefficient(node.term)};")
            continue
        inner = f"s{depth}"
        lines.append(f"{{ V {inner} = {_coefficient(node.term)};")
        lines.append(_sum(inner, node.children, depth + "1"))
        lines.append(f"{total} += x{node.variable} * {inner}; }}")
    return "\n".join(lines)


def _backward(shape: Polynomials) -> str:
    lines = [
        "static void backward(const T* gradient, const T* features, const T* c, T* out, long channels, long count) {",
        *_loads(shape),
        " ".join(f"V g{v} = zero();" for v in range(shape.variables)),
    ]
    for output, tree in enumerate(shape.trees):
        lines.append(f"{{ const V w = load_part(gradient + {output} * channels, count); (void)w;")
        lines.append(_spread("w", None, tree, ""))
        lines.append("}")
    lines += [f"store_part(out + {v} * channels, g{v}, count);" for v in range(shape.variables)]
    return "\n".join([*lines, "}"])


def _spread(weight: str, total: str | None, nodes: list[Node], depth: str) -> str:
    """Derivatives of a level, given the product of the weight and the factors before; also its sum, for the level above."""
    lines = []
    for node in nodes:
        v = node.variable
        if not node.children:
            lines.append(f"{{ const V k = {_coefficient(node.term)}; g{v} += {weight} * k;")
            lines.append((f"{total} += x{v} * k; " if total else "") + "}")
            continue
        inner, product = f"s{depth}1", f"{weight}x"
        lines.append(f"{{ V {inner} = {_coefficient(node.term)}; const V {product} = {weight} * x{v};")
        lines.append(_spread(product, inner, node.children, depth + "1"))
        lines.append(
            f"g{v} += {weight} * {inner};" + (f" {total} += x{v} * {inner};" if total else "") + " }"
        )
    return "\n".join(lines)
