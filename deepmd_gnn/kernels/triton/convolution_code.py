r"""Triton source for the convolution of one layer, and its derivatives.

The mathematics is that of :mod:`~deepmd_gnn.kernels.cpu.convolution_code`. A program, one warp, has one receiver and a block of
channels, and goes through the edges of the receiver, one or a few at a time. Forward, the coefficients meet the harmonics
of the edge before the channels, and what is kept in registers is the result, one number per component and channel (40
instead of 82 for vectors as features). Backward, the gradient meets the coefficients once per receiver. The harmonics'
own gradient is multiplied here, so that four sums over channels per edge leave the kernel.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from deepmd_gnn.kernels.cpu.convolution_code import ConvolutionShape, Path
from deepmd_gnn.kernels.triton.geometry_code import gradient_lines, harmonics, row_width, value_lines
from deepmd_gnn.kernels.triton.source import TRITON_TYPES, combination, packed
from deepmd_gnn.kernels.triton.splines import WEIGHTS

Array = npt.NDArray[np.float64]


WARP = 32
# Registers of a thread, of 255, for the sums of the forward kernel, and for the gradient at the coupled pairs.
ACCUMULATORS, PAIRS = 112, 176


class Tile(NamedTuple):
    """What a program works on at a time."""

    edges: int
    channels: int
    """A power of two."""
    blocks_first: bool = True
    """Whether programs that run at the same time have the same channels, so that their part of the radial table fits into
    the cache; else the same receivers."""


class _Names:
    """How a program writes a tile: with one edge at a time numbers of the edge are scalars."""

    def __init__(self, tile: Tile, channels: int, dtype: str, width: int) -> None:
        self.tile, self.channels, self.real = tile, channels, TRITON_TYPES[dtype]
        self.width = width  # of the row of an edge
        self.several = tile.edges > 1
        self.shape = f"[{tile.edges}, {tile.channels}]" if self.several else f"[{tile.channels}]"
        self.partial = channels % tile.channels != 0  # the last block has channels that do not exist
        self.blocks = -(-channels // tile.channels)

    def load(self, pointer: str) -> str:
        """Numbers of the receiver, one per channel."""
        return f"tl.load({pointer}, mask=exists, other=0.0)" if self.partial else f"tl.load({pointer})"

    def of_edge(self, pointer: str, other: str) -> str:
        """A number of the edge."""
        return f"tl.load({pointer}, mask=ok, other={other})" if self.several else f"tl.load({pointer})"

    def mask(self) -> str:
        """Argument of stores of numbers of edge and channel."""
        parts = ["ok"] * self.several + ["exists"] * self.partial
        return f", mask={' & '.join(parts)}" if parts else ""

    def head(self, name: str, arguments: str) -> list[str]:
        """First statements of a kernel: receiver, its edges, channels."""
        lines = [
            "@triton.jit(do_not_specialize=['count', 'nnode'])",
            f"def {name}({arguments}, count, nnode):",
            "    count = tl.cast(count, tl.int64)  # multiples of it need not fit into 32 bits",
            "    pid = tl.program_id(0)",
            *self.which(),
            "    first = tl.load(begin + node)",
            # While AOTInductor compiles, it tries kernels on arrays whose sizes need not fit together.
            "    last = tl.minimum(tl.load(begin + node + 1), count)",
            f"    c = block * {self.tile.channels} + tl.arange(0, {self.tile.channels})"
            + ("[None, :]" if self.several else ""),
        ]
        if self.several:
            lines.append(f"    among = tl.arange(0, {self.tile.edges})[:, None]")
        if self.partial:
            lines.append(f"    exists = c < {self.channels}")
        return lines

    def which(self) -> list[str]:
        """Receiver and block of channels of the program."""
        if self.tile.blocks_first:
            return [
                "    block = (pid // nnode).to(tl.int64)",
                "    node = pid.to(tl.int64) - block * nnode",
            ]
        return [
            f"    node = (pid // {self.blocks}).to(tl.int64)",
            f"    block = pid.to(tl.int64) - node * {self.blocks}",
        ]

    def edge(self, components: int, paths: int) -> list[str]:
        """Statements inside the loop: where the numbers of an edge are."""
        lines = ["e = e0 + among", "ok = e < last"] if self.several else ["e = e0"]
        return [
            *lines,
            f"sender = {self.of_edge('source + e', '0')}.to(tl.int64)",
            f"at = table + {self.of_edge('row + e', '0')}.to(tl.int64) * {paths * self.channels} + c",
            f"h = sent + sender * {components * self.channels} + c",
        ]

    def spline(self, name: str, path: int, slope: bool = False) -> str:
        """Statement that interpolates a radial weight, or its slope."""
        weight = "v" if slope else "w"
        terms = [f"{weight}{k} * k{k}" for k in range(WEIGHTS)]
        return f"{name}{path} = {' + '.join(terms)}"

    def harmonic(self, index: int) -> str:
        """A spherical harmonic of the edge."""
        return self.of_edge(f"packed + e * {self.width} + {2 * WEIGHTS + index - 1}", "0.0")

    def features(self, shape: ConvolutionShape, group: list[int]) -> list[str]:
        """Statements that load what the paths of a group read of the sender."""
        used = sorted({m1 for number in group for m1, _ in shape.paths[number].coupling})
        return [f"h{m1} = {self.load(f'h + {m1 * self.channels}')}" for m1 in used]

    def most(self, registers: int) -> int:
        """Numbers per channel that fit into so many registers of a thread."""
        size = 1 if self.real == "tl.float32" else 2
        return max(1, registers * WARP // (self.tile.channels * self.tile.edges * size))

    def table(self, path: int, paths: int) -> list[str]:
        """Statements that load the coefficients of a radial weight."""
        places = [f"at + {(k * paths + path) * self.channels}" for k in range(WEIGHTS)]
        return [f"k{k} = {self.load(place)}" for k, place in enumerate(places)]

    def weights(self, letter: str, offset: int) -> list[str]:
        """Statements that load the B-splines of an edge, or their derivatives."""
        return [
            f"{letter}{k} = {self.of_edge(f'packed + e * {self.width} + {offset + k}', '0.0')}"
            for k in range(WEIGHTS)
        ]


def _first_components(path: Path) -> list[int]:
    return sorted({m1 for m1, _ in path.coupling})


def _degree(path: Path) -> int:
    return int(max((m2 for _, m2 in path.coupling), default=0) ** 0.5)


def _times(text: str, harmonic: int) -> str:
    return f"{text} * y{harmonic}" if harmonic else text


def forward_code(shape: ConvolutionShape, steps: list[Array], channels: int, tile: Tile, dtype: str) -> str:
    """Write the kernel ``forward``.

    Parameters
    ----------
    shape : ConvolutionShape
        Coupling coefficients.
    steps : list[numpy.ndarray]
        See :func:`~deepmd_gnn.kernels.triton.geometry_code.harmonics`.
    channels : int
        Of the features.
    tile : Tile
        Edges and channels at a time.
    dtype : str
        Precision of the network.

    Returns
    -------
    str
        A Triton function.
    """
    names = _Names(tile, channels, dtype, row_width(steps))
    lines = names.head("forward", "packed, row, source, begin, table, sent, out")
    filled: set[int] = set()
    for group in path_groups(shape, names.most(ACCUMULATORS), results=True):
        factors: dict[int, float] = {}
        targets = sorted({m3 for n in group for found in shape.paths[n].coupling.values() for m3 in found})
        lines += [f"    a{m3} = tl.zeros({names.shape}, {names.real})" for m3 in targets]
        lines.append(f"    for e0 in tl.range(first, last, {tile.edges}):")
        body = names.edge(shape.components, len(shape.paths)) + names.weights("w", 0)
        used = sorted({m2 for n in group for _, m2 in shape.paths[n].coupling} - {0})
        body += [f"y{m} = {names.harmonic(m)}" for m in used]
        body += names.features(shape, group)
        for number in group:
            body += [*names.table(number, len(shape.paths)), names.spline("r", number)]
            body += _messages(number, shape.paths[number], factors)
        lines += [f"        {line}" for line in body]
        for m3 in targets:
            value = f"a{m3} * {factors[m3]!r}" if m3 in factors else f"a{m3}"
            lines.append(
                _result(names, shape, m3, f"tl.sum({value}, 0)[None, :]" if names.several else value)
            )
        filled |= set(targets)
    for m3 in sorted(set(range(shape.width)) - filled):  # nothing couples to it
        lines.append(_result(names, shape, m3, f"tl.zeros(c.shape, {names.real})"))
    return "\n".join(lines) + "\n\n\n"


def _result(names: _Names, shape: ConvolutionShape, component: int, value: str) -> str:
    mask = ", mask=exists" if names.partial else ""
    return f"    tl.store(out + (node * {shape.width} + {component}) * {names.channels} + c, {value}{mask})"


def path_groups(shape: ConvolutionShape, most: int, *, results: bool) -> list[list[int]]:
    """Split the paths into sets whose numbers fit into registers; each set goes through the edges on its own.

    Parameters
    ----------
    shape : ConvolutionShape
        Coupling coefficients.
    most : int
        Numbers per channel in a set.
    results : bool
        Count components of the result (forward), else coupled pairs (backward).

    Returns
    -------
    list[list[int]]
        Paths with the same features stay neighbours.
    """
    sizes = []
    for number in sorted(range(len(shape.paths)), key=lambda n: shape.paths[n].first):
        coupling = shape.paths[number].coupling
        need = len({m3 for found in coupling.values() for m3 in found}) if results else len(coupling)
        sizes.append((number, need))
    return packed(sizes, most)


def by_result(path: Path) -> dict[int, dict[int, list[tuple[int, float]]]]:
    """Result component → component of the features → harmonics and coefficients."""
    results: dict[int, dict[int, list[tuple[int, float]]]] = {}
    for (m1, m2), found in path.coupling.items():
        for m3, c in found.items():
            results.setdefault(m3, {}).setdefault(m1, []).append((m2, c))
    return results


def _messages(number: int, path: Path, factors: dict[int, float]) -> list[str]:
    """Statements that add the message of an edge along one path; coefficients left for the end go to `factors`."""
    results = by_result(path)
    single = all(len(by) == 1 and len(next(iter(by.values()))) == 1 for by in results.values())
    lines = []
    if single:  # one product per component: its coefficient can wait until all edges are summed
        lines += [f"z{m1} = r{number} * h{m1}" for m1 in _first_components(path)]
    for m3, by in sorted(results.items()):
        if single:
            ((m1, [(m2, c)]),) = by.items()
            factors[m3] = c
            lines.append(f"a{m3} += {_times(f'z{m1}', m2)}")
            continue
        terms = []
        for m1, products in sorted(by.items()):
            scalar = combination([(f"y{m2}" if m2 else "1.0", c) for m2, c in products])
            terms.append(f"({scalar}) * h{m1}")
        lines.append(f"a{m3} += r{number} * ({' + '.join(terms)})")
    return lines


def backward_code(
    shape: ConvolutionShape, steps: list[Array], channels: int, tile: Tile, dtype: str, senders: str
) -> str:
    """Write the kernel ``backward``.

    Parameters
    ----------
    shape, steps, channels, tile, dtype :
        See :func:`forward_code`.
    senders : str
        Derivative with respect to what is sent: ``"none"``; ``"add"``, atomic additions to the rows of the senders;
        ``"edges"``, one row per edge.

    Returns
    -------
    str
        A Triton function; its name is `senders`.
    """
    names = _Names(tile, channels, dtype, row_width(steps))
    lines = names.head(
        f"backward_{senders}", "packed, row, source, begin, table, sent, gradient, sums, d_sent"
    )
    recursion = harmonics(steps)
    groups = backward_groups(shape, channels, tile, dtype)
    for index, group in enumerate(groups):
        paths = [shape.paths[number] for number in group]
        for m3 in sorted({m3 for path in paths for found in path.coupling.values() for m3 in found}):
            place = f"gradient + (node * {shape.width} + {m3}) * {channels} + c"
            lines.append(f"    G{m3} = {names.load(place)}")
        for number, path in zip(group, paths, strict=True):
            for (m1, m2), found in sorted(path.coupling.items()):
                total = combination([(f"G{m3}", c) for m3, c in sorted(found.items())])
                lines.append(f"    D{number}_{m1}_{m2} = {total}")
        lines.append(f"    for e0 in tl.range(first, last, {tile.edges}):")
        body = names.edge(shape.components, len(shape.paths))
        body += names.weights("w", 0) + names.weights("v", WEIGHTS)
        body += [f"y{m} = {names.harmonic(m)}" for m in (1, 2, 3)]
        below = 1 + max((m2 for path in paths for _, m2 in path.coupling), default=0)
        slopes, gradients = gradient_lines(recursion, below)
        body += value_lines(recursion, below) + slopes
        body += names.features(shape, group)
        body += [f"f{quantity} = tl.zeros({names.shape}, {names.real})" for quantity in range(4)]
        firsts = sorted({m1 for path in paths for m1, _ in path.coupling}) if senders != "none" else []
        body += [f"d{m1} = tl.zeros({names.shape}, {names.real})" for m1 in firsts]
        for degree in sorted({_degree(path) for path in paths}):
            body += _terms_of_degree(names, shape, group, degree, gradients, senders != "none")
        body += _edge_results(names, f"block * {len(groups)} + {index}", shape.components, firsts, senders)
        lines += [f"        {line}" for line in body]
    return "\n".join(lines) + "\n\n\n"


def backward_groups(shape: ConvolutionShape, channels: int, tile: Tile, dtype: str) -> list[list[int]]:
    """Sets of paths of the kernel of :func:`backward_code`; each leaves four sums per edge and block of channels."""
    return path_groups(shape, _Names(tile, channels, dtype, 0).most(PAIRS), results=False)


def _terms_of_degree(
    names: _Names,
    shape: ConvolutionShape,
    group: list[int],
    degree: int,
    gradients: dict[tuple[int, int], str | float],
    senders: bool,
) -> list[str]:
    """Derivatives of all paths with harmonics of one degree; they share the derivative with respect to Y."""
    lines: list[str] = []
    of_harmonics: set[int] = set()
    for number in group:
        path = shape.paths[number]
        if _degree(path) != degree or not path.coupling:
            continue
        lines += names.table(number, len(shape.paths))
        lines.append(names.spline("r", number))
        lines.append(names.spline("q", number, slope=True))
        for position, m1 in enumerate(_first_components(path)):
            pairs = [m2 for first, m2 in sorted(path.coupling) if first == m1]
            lines.append("v = " + " + ".join(_times(f"D{number}_{m1}_{m2}", m2) for m2 in pairs))
            lines.append(f"s {'+=' if position else '='} v * h{m1}")
            if senders:
                lines.append(f"d{m1} += r{number} * v")
            if degree:
                lines.append(f"z = r{number} * h{m1}")
                for m2 in pairs:
                    lines.append(f"S{m2} {'+=' if m2 in of_harmonics else '='} z * D{number}_{m1}_{m2}")
                    of_harmonics.add(m2)
        lines.append(f"f0 += s * q{number}")
    for m2 in sorted(of_harmonics):
        for axis in range(3):
            slope = gradients[m2, axis]
            if slope:
                lines.append(f"f{axis + 1} += S{m2} * {slope}")
    return lines


def _edge_results(names: _Names, part: str, components: int, firsts: list[int], senders: str) -> list[str]:
    """Store the sums of an edge over channels, and what belongs to its sender."""
    lines = []
    for quantity in range(4):
        place = f"sums + (({part}) * 4 + {quantity}) * count + e"
        if names.several:
            lines.append(f"tl.store({place}, tl.sum(f{quantity}, 1)[:, None], mask=ok)")
        else:
            lines.append(f"tl.store({place}, tl.sum(f{quantity}, 0))")
    for m1 in firsts:
        row = "sender" if senders == "add" else "e"
        place = f"d_sent + {row} * {components * names.channels} + {m1 * names.channels} + c"
        if senders == "add":
            lines.append(f"tl.atomic_add({place}, d{m1}{names.mask()}, sem='relaxed')")
        else:
            lines.append(f"tl.store({place}, d{m1}{names.mask()})")
    return lines
