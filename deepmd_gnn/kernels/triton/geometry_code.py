r"""Triton source for what all layers read of an edge, and for the end of their derivatives.

The first kernel goes through the edges in the order of their receivers and stores, one row per edge, six B-spline weights of
the distance, their derivatives per Å and the spherical harmonics without the constant one, filled up to a power of two; the
row of the radial table; and the sender. The last one turns the sums of a convolution's derivative into the derivative with
respect to the edge vector: with :math:`f = \partial E / \partial r` and :math:`g = \partial E / \partial \hat r` it is
:math:`f \hat r + (g - (g \cdot \hat r) \hat r) / r`.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepmd_gnn.kernels.triton.source import TRITON_TYPES, combination
from deepmd_gnn.kernels.triton.splines import WEIGHTS, basis_polynomials, slope_polynomials

Array = npt.NDArray[np.float64]
NEGLIGIBLE = 1e-12
ROOT = 3.0**0.5


class Harmonic(NamedTuple):
    """A spherical harmonic of degree 2 or more as a sum of products of two lower ones."""

    number: int
    terms: list[tuple[int, int, float]]
    """Two harmonics and the coefficient of their product."""


def harmonics(steps: list[Array]) -> list[Harmonic]:
    """Write out the recursion of :class:`~deepmd_gnn.nn.linear.SphericalHarmonics` from degree 2.

    Parameters
    ----------
    steps : list[numpy.ndarray]
        Coupling of step l → l + 1, shape ((2l + 1) * 3, 2l + 3), for l = 1, 2, …

    Returns
    -------
    list[Harmonic]
        In ascending order; 0 is the constant and 1 to 3 are the unit vector times √3.
    """
    found, begin = [], 1
    for step in steps:
        dim = step.shape[0] // 3
        for n in range(step.shape[1]):
            terms = [
                (begin + m, 1 + k, float(step[3 * m + k, n]))
                for m in range(dim)
                for k in range(3)
                if abs(step[3 * m + k, n]) > NEGLIGIBLE
            ]
            found.append(Harmonic(begin + dim + n, terms))
        begin += dim
    return found


def number_of_harmonics(steps: list[Array]) -> int:
    """Harmonics up to the degree that the steps, see :func:`harmonics`, reach."""
    return (len(steps) + 2) ** 2


def value_lines(recursion: list[Harmonic], below: int) -> list[str]:
    """Statements for ``y4``, ``y5``, … from ``y1`` to ``y3``, those before `below`."""
    return [
        f"y{h.number} = " + combination([(f"y{a} * y{b}", c) for a, b, c in h.terms])
        for h in recursion
        if h.number < below
    ]


def gradient_lines(
    recursion: list[Harmonic], below: int
) -> tuple[list[str], dict[tuple[int, int], str | float]]:
    """Statements for the derivatives of the harmonics with respect to the unit vector.

    Parameters
    ----------
    recursion : list[Harmonic]
        See :func:`harmonics`.
    below : int
        Only harmonics before this one.

    Returns
    -------
    lines : list[str]
        Assign ``g4_0`` and so on.
    gradients : dict[tuple[int, int], str or float]
        Harmonic and axis → variable, or number if it is constant.
    """
    gradients: dict[tuple[int, int], str | float] = {(0, axis): 0.0 for axis in range(3)}
    gradients |= {(1 + k, axis): ROOT if k == axis else 0.0 for k in range(3) for axis in range(3)}
    lines = []
    for harmonic in recursion:
        if harmonic.number >= below:
            break
        for axis in range(3):
            terms = []
            for a, b, c in harmonic.terms:
                for inner, other in ((gradients[a, axis], b), (gradients[b, axis], a)):
                    if isinstance(inner, str):
                        terms.append((f"{inner} * y{other}", c))
                    elif inner:
                        terms.append((f"y{other}", c * inner))
            name = f"g{harmonic.number}_{axis}"
            if terms:
                lines.append(f"{name} = {combination(terms)}")
            gradients[harmonic.number, axis] = name if terms else 0.0
    return lines, gradients


def _horner(coefficients: npt.NDArray[np.float64]) -> str:
    text = repr(float(coefficients[-1]))
    for number in coefficients[-2::-1]:
        text = f"({text} * t + {float(number)!r})"
    return text


def row_width(steps: list[Array]) -> int:
    """Numbers in the row of an edge, a power of two, given the steps of :func:`harmonics`."""
    needed = 2 * WEIGHTS + number_of_harmonics(steps) - 1
    return 1 << (needed - 1).bit_length()


def _joined(numbers: list[str]) -> str:
    """Expression for tensors side by side, with a last axis of two for every level."""
    if len(numbers) == 1:
        return numbers[0]
    return f"tl.join({_joined(numbers[::2])}, {_joined(numbers[1::2])})"


def _direction(load: str) -> list[str]:
    """Statements for the distance and the unit vector from receiver to sender's place, turned to MACE's sign."""
    return [
        f"x = -{load.format(0)}",
        f"y = -{load.format(1)}",
        f"z = -{load.format(2)}",
        "r = tl.sqrt(x * x + y * y + z * z)",
    ]


def geometry_code(steps: list[Array], r_max: float, nodes: int, ntypes: int, dtype: str) -> str:
    """Write the kernel ``geometry``.

    Parameters
    ----------
    steps : list[numpy.ndarray]
        See :func:`harmonics`.
    r_max : float
        Cutoff, Å.
    nodes : int
        Nodes of the radial tables.
    ntypes : int
        Number of elements if every pair of them has a table of its own, else 0.
    dtype : str
        Precision of the network.

    Returns
    -------
    str
        A Triton function.
    """
    real = TRITON_TYPES[dtype]
    per_angstrom = (nodes - 1) / r_max
    lines = [
        "e = tl.load(order + k, mask=inside, other=0)",
        "sender = tl.load(edge_index + e, mask=inside, other=0)",
        *_direction("tl.load(vectors + e * 3 + {}, mask=inside, other=1.0)"),
        f"place = r * {per_angstrom!r}",
        # A distance that is not a number has some row, and weights that are not numbers.
        f"bin = tl.minimum(tl.maximum(place.to(tl.int32), 0), {nodes - 2})",
        f"t = (place - bin.to(tl.float64)).to({real})",
        f"beyond = r >= {r_max!r}",
    ]
    if ntypes:
        lines += [
            "receiver = tl.load(edge_index + nedge + e, mask=inside, other=0)",
            f"pair = tl.load(types + sender, mask=inside, other=0) * {ntypes}",
            "pair += tl.load(types + receiver, mask=inside, other=0)",
            f"bin += pair.to(tl.int32) * {nodes + 4}",
        ]
    lines += [
        "tl.store(row + k, bin, mask=inside)",
        "tl.store(source + k, sender.to(tl.int32), mask=inside)",
    ]
    polynomials = [*basis_polynomials(), *(slope_polynomials() * per_angstrom)]
    for number, polynomial in enumerate(polynomials):
        lines.append(f"n{number} = tl.where(beyond, 0.0, {_horner(polynomial)})")
    for axis, name in enumerate("xyz", 1):
        lines.append(f"y{axis} = ({name} / r * {ROOT!r}).to({real})")
    total = number_of_harmonics(steps)
    lines += value_lines(harmonics(steps), total)
    width = row_width(steps)
    numbers = [f"n{k}" for k in range(2 * WEIGHTS)] + [f"y{m}" for m in range(1, total)]
    numbers += ["n0"] * (width - len(numbers))
    # Joined into rows, so that the threads of a warp write neighbouring numbers.
    lines.append(f"rows = tl.reshape({_joined(numbers)}, [BLOCK, {width}])")
    lines.append(f"column = tl.arange(0, {width})[None, :]")
    lines.append(f"tl.store(packed + k[:, None] * {width} + column, rows, mask=inside[:, None])")
    head = [
        "@triton.jit(do_not_specialize=['count', 'nedge'])",
        "def geometry(vectors, edge_index, types, order, packed, row, source, count, nedge, BLOCK: tl.constexpr):",
        "    count = tl.cast(count, tl.int64)  # multiples of it need not fit into 32 bits",
        "    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
        "    inside = k < count",
    ]
    return "\n".join([*head, *(f"    {line}" for line in lines)]) + "\n\n\n"


def edge_gradient_code(dtype: str) -> str:
    """Write the kernel ``edge_gradient``, see the module.

    Parameters
    ----------
    dtype : str
        Precision of the network.

    Returns
    -------
    str
        A Triton function.
    """
    real = TRITON_TYPES[dtype]
    lines = [
        "e = tl.load(order + k, mask=inside, other=0)",
        *_direction("tl.load(vectors + e * 3 + {}, mask=inside, other=1.0)"),
        "x /= r",
        "y /= r",
        "z /= r",
        f"f = tl.zeros([BLOCK], {real})",
        *(f"g{axis} = tl.zeros([BLOCK], {real})" for axis in range(3)),
        "for part in range(PARTS):",
        "    at = sums + part * 4 * count + k",
        "    f += tl.load(at, mask=inside, other=0.0)",
        *(f"    g{axis} += tl.load(at + {axis + 1} * count, mask=inside, other=0.0)" for axis in range(3)),
        "radial = g0 * x + g1 * y + g2 * z",
    ]
    for axis, name in enumerate("xyz"):
        lines.append(
            f"tl.store(out + e * 3 + {axis}, -((g{axis} - radial * {name}) / r + f * {name}), mask=inside)"
        )
    head = [
        "@triton.jit(do_not_specialize=['count', 'nnode'])",
        "def edge_gradient(vectors, order, begin, sums, out, count, nnode, PARTS: tl.constexpr, BLOCK: tl.constexpr):",
        "    count = tl.cast(count, tl.int64)  # multiples of it need not fit into 32 bits",
        "    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)",
        # Edges behind the last receiver's have no sums.
        "    inside = k < tl.minimum(tl.load(begin + nnode), count)",
    ]
    return "\n".join([*head, *(f"    {line}" for line in lines)]) + "\n\n\n"
