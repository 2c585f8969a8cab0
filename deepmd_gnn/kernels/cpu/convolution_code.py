r"""C++ for the convolution of one layer, and its derivatives.

With the radial weights :math:`R_p(r)` of path p, harmonics :math:`Y_{m_2}` and sender features :math:`h_{m_1}`, the
message is

.. math:: A_{i,p,m_3} = \sum_{m_1 m_2} C^p_{m_1 m_2 m_3} \sum_j R_p(r_{ij}) Y_{m_2}(\hat r_{ij}) h_{j,m_1} .

The sum over neighbours is done first, in registers, for every pair (m1, m2) that the path couples; the coefficients C
follow once per atom. The derivative does the same backwards: :math:`D_{p,m_1 m_2} = \sum_{m_3} C \,\partial E/\partial A`
once per atom, then per edge the derivatives with respect to h, R and Y. Every statement works on a vector of channels.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
NEGLIGIBLE = 1e-12


class Path(NamedTuple):
    """Coupling of one irrep of the sender with one degree of the harmonics."""

    first: int
    """First component of the sender's irrep."""
    target: int
    """First component of the result."""
    coupling: dict[tuple[int, int], dict[int, float]]
    """For every coupled pair (component of the sender's features, harmonic): result component → coefficient."""


class ConvolutionShape(NamedTuple):
    """All that the code of a convolution depends on."""

    components: int
    """Of the sender's features."""
    harmonics: int
    """Of the edge."""
    width: int
    """Components of the result."""
    paths: list[Path]
    """In the order of the radial weights."""


def convolution_shape(
    coupling: Array, input_dims: list[int], paths: list[tuple[int, int]]
) -> ConvolutionShape:
    """Collect the coefficients of a :class:`~deepmd_gnn.nn.convolution.Convolution`.

    Parameters
    ----------
    coupling : numpy.ndarray
        Shape (harmonics, Σ_p d1 * d3).
    input_dims : list[int]
        Components of each irrep of the sender's features.
    paths : list[tuple[int, int]]
        Irrep of the features and number of components d3 of the result, for each path.

    Returns
    -------
    ConvolutionShape
    """
    begins = np.cumsum([0, *input_dims])
    found, column, target = [], 0, 0
    for irrep, dim_out in paths:
        dim_in = input_dims[irrep]
        block = coupling[:, column : column + dim_in * dim_out].reshape(-1, dim_in, dim_out)
        pairs: dict[tuple[int, int], dict[int, float]] = {}
        for m2, m1, m3 in zip(*np.nonzero(np.abs(block) > NEGLIGIBLE), strict=True):
            pair = (int(begins[irrep] + m1), int(m2))
            pairs.setdefault(pair, {})[int(target + m3)] = float(block[m2, m1, m3])
        found.append(Path(int(begins[irrep]), target, pairs))
        column += dim_in * dim_out
        target += dim_out
    return ConvolutionShape(int(begins[-1]), coupling.shape[0], target, found)


def shape_of(convolution: Any) -> ConvolutionShape:
    """What the code of a :class:`~deepmd_gnn.nn.convolution.Convolution` depends on."""
    coupling = convolution.coupling.value.double().cpu().numpy()
    return convolution_shape(coupling, convolution.input_dims, convolution.paths)


def harmonics_code(steps: list[Array]) -> str:
    """Spherical harmonics by the recursion of :class:`~deepmd_gnn.nn.linear.SphericalHarmonics`, with gradients.

    Parameters
    ----------
    steps : list[numpy.ndarray]
        Coupling of step l → l + 1, shape ((2l + 1) * 3, 2l + 3), for l = 1, 2, …

    Returns
    -------
    str
        A static member function: from unit vectors and 1 / r to all harmonics and their gradients.
    """
    lines = [
        "template <bool DERIVATIVE> static inline void harmonics(const D* x, D reciprocal, D* y, D (*g)[3]) {",
        "const D one = x[0] * 0.0 + 1.0, nil = x[0] * 0.0; (void)nil; (void)reciprocal;",
        "y[0] = one;",
    ]
    root = repr(3.0**0.5)
    gradients = ["for (int k = 0; k < 3; ++k) g[0][k] = nil;"]
    for k in range(3):
        lines.append(f"y[{1 + k}] = x[{k}] * {root};")
        gradients.append(
            " ".join(f"g[{1 + k}][{j}] = {'one * ' + root if j == k else 'nil'};" for j in range(3))
        )
    begin = 1
    for step in steps:
        dim, after = step.shape[0] // 3, begin + step.shape[0] // 3
        for n in range(step.shape[1]):
            terms = [
                (m, k, step[3 * m + k, n])
                for m in range(dim)
                for k in range(3)
                if abs(step[3 * m + k, n]) > NEGLIGIBLE
            ]
            value = " + ".join(f"y[{begin + m}] * y[{1 + k}] * {c!r}" for m, k, c in _plain(terms))
            lines.append(f"y[{after + n}] = {value};")
            for j in range(3):
                parts = [f"g[{begin + m}][{j}] * y[{1 + k}] * {c!r}" for m, k, c in _plain(terms)]
                parts += [f"y[{begin + m}] * {c * 3.0**0.5!r}" for m, k, c in _plain(terms) if k == j]
                gradients.append(f"g[{after + n}][{j}] = {' + '.join(parts)};")
        begin = after
    total = begin + (step.shape[1] if steps else 3)
    # The gradient on the unit sphere: without its radial part, over r.
    gradients.append(
        f"for (int q = 0; q < {total}; ++q) {{ const D radial = g[q][0] * x[0] + g[q][1] * x[1] + g[q][2] * x[2];"
        " for (int k = 0; k < 3; ++k) g[q][k] = (g[q][k] - radial * x[k]) * reciprocal; }"
    )
    return "\n".join([*lines, "if (DERIVATIVE) {", *gradients, "}", "}"])


def _plain(terms: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    return [(m, k, float(c)) for m, k, c in terms]


def convolution_code(name: str, shape: ConvolutionShape, steps: list[Array], registers: int) -> str:
    """Write the class that `kernels.hpp` loops over the atoms with.

    Parameters
    ----------
    name : str
        Name of the class.
    shape : ConvolutionShape
        Coupling coefficients.
    steps : list[numpy.ndarray]
        See :func:`harmonics_code`.
    registers : int
        Sums that fit into the vector registers of the CPU.

    Returns
    -------
    str
        C++.
    """
    constants = {
        "BY_KIND": 0,
        "COMPONENTS": shape.components,
        "NHARM": shape.harmonics,
        "PATHS": len(shape.paths),
        "WIDTH": shape.width,
    }
    return class_code(name, constants, harmonics_code(steps), _forward(shape, registers), _backward(shape))


def class_code(name: str, constants: dict[str, int], *functions: str) -> str:
    """A class of constants and static member functions, in C++."""
    members = " ".join(f"static constexpr int {key} = {value};" for key, value in constants.items())
    return f"struct {name} {{\n" + "\n".join([members, *functions]) + "\n};\n"


def _groups(shape: ConvolutionShape, registers: int) -> list[list[tuple[int, tuple[int, int]]]]:
    """Split all (path, pair) into sets that fit into the registers; pairs of one feature stay together if they can."""
    groups: list[list[tuple[int, tuple[int, int]]]] = [[]]
    for p, path in enumerate(shape.paths):
        for m1 in sorted({pair[0] for pair in path.coupling}):
            unit = [(p, pair) for pair in sorted(path.coupling) if pair[0] == m1]
            if groups[-1] and len(groups[-1]) + len(unit) > registers:
                groups.append([])
            groups[-1] += unit
    return groups


def _forward(shape: ConvolutionShape, registers: int) -> str:
    lines = [
        "static void forward(const Edge<NHARM, false>* begin, const Edge<NHARM, false>* end, const T* table,",
        "    const T* features, T* out, long channels, long count) {",
        "constexpr long S = PATHS * NODE * LANES; (void)S;",
    ]
    names = {
        (p, pair): f"s{p}_{pair[0]}_{pair[1]}" for p, path in enumerate(shape.paths) for pair in path.coupling
    }
    lines.append(" ".join(f"V {name};" for name in names.values()))
    for group in _groups(shape, registers):
        lines.append("{ " + " ".join(f"V a{k} = zero();" for k in range(len(group))))
        lines.append(
            "for (auto* e = begin; e != end; ++e) { const T* t = table + e->bin; const T* h = features + e->row;"
        )
        last: tuple[int, int] | None = None
        for k, (p, (m1, m2)) in enumerate(group):
            if last is None or last[0] != p:
                lines.append(f"const V r{p} = radial(t + {p} * NODE * LANES, S, e->w);")
            if last != (p, m1):
                lines.append(f"const V q{p}_{m1} = r{p} * load(h + {m1} * LANES);")
            lines.append(f"a{k} += q{p}_{m1} * e->y[{m2}];")
            last = (p, m1)
        lines.append("}")
        lines.append(" ".join(f"{names[key]} = a{k};" for k, key in enumerate(group)) + " }")
    results: dict[int, list[str]] = {m3: [] for m3 in range(shape.width)}
    for p, path in enumerate(shape.paths):
        for pair, targets in path.coupling.items():
            for m3, c in targets.items():
                results[m3].append(f"{names[p, pair]} * T({c!r})")
    for m3, terms in results.items():
        lines.append(f"store_part(out + {m3} * channels, {' + '.join(terms) or 'zero()'}, count);")
    return "\n".join([*lines, "}"])


def _backward(shape: ConvolutionShape) -> str:
    lines = [
        "template <bool SENDERS> static void backward(Edge<NHARM, true>* begin, Edge<NHARM, true>* end, const T* table,",
        "    const T* features, const T* gradient, long channels, long count, T* d_features) {",
        "constexpr long S = PATHS * NODE * LANES;",
        " ".join(
            f"const V G{m3} = load_part(gradient + {m3} * channels, count);" for m3 in range(shape.width)
        ),
    ]
    for p, path in enumerate(shape.paths):
        for (m1, m2), targets in path.coupling.items():
            total = " + ".join(f"G{m3} * T({c!r})" for m3, c in targets.items())
            lines.append(f"const V D{p}_{m1}_{m2} = {total};")
    lines.append(
        "for (auto* e = begin; e != end; ++e) { const T* t = table + e->bin; const T* h = features + e->row;"
    )
    lines.append("V fx = zero(), fy = zero(), fz = zero(), fr = zero();")
    for m1 in range(shape.components):
        lines.append(f"const V h{m1} = load(h + {m1} * LANES); V d{m1} = zero();")
    for degree in sorted({_degree(path) for path in shape.paths}):
        lines += _edge_terms(shape, degree)
    lines.append("add_sums(e->f, fx, fy, fz, fr);")
    lines.append("if (SENDERS) { T* d = d_features + e->row;")
    for m1 in range(shape.components):
        lines.append(f"store(d + {m1} * LANES, load(d + {m1} * LANES) + d{m1});")
    return "\n".join([*lines, "}", "}", "}"])


def _degree(path: Path) -> int:
    """Degree l of the harmonics of a path."""
    return int(max((m2 for _, m2 in path.coupling), default=0) ** 0.5)


def _edge_terms(shape: ConvolutionShape, degree: int) -> list[str]:
    """Derivatives of all paths with harmonics of one degree; they share the derivative with respect to Y."""
    harmonics = range(degree**2, (degree + 1) ** 2)
    lines = ["{", *(f"V S{m2} = zero();" for m2 in harmonics if degree)]
    for p, path in enumerate(shape.paths):
        if _degree(path) != degree or not path.coupling:
            continue
        lines.append(f"{{ const T* k = t + {p} * NODE * LANES;")
        lines.append("const V R = radial(k, S, e->w), R1 = radial_slope(k, S, e->w); V s = zero();")
        for m1 in sorted({pair[0] for pair in path.coupling}):
            pairs = [m2 for first, m2 in sorted(path.coupling) if first == m1]
            value = " + ".join(f"D{p}_{m1}_{m2} * e->y[{m2}]" for m2 in pairs)
            lines.append(f"{{ const V v = {value}; s += v * h{m1}; if (SENDERS) d{m1} += R * v;")
            if degree:
                lines.append(f"const V q = R * h{m1};")
                lines.append(" ".join(f"S{m2} += q * D{p}_{m1}_{m2};" for m2 in pairs))
            lines.append("}")
        lines.append("fr += s * R1; }")
    if degree:
        for m2 in harmonics:
            lines.append(
                f"fx += S{m2} * e->g[{m2}][0]; fy += S{m2} * e->g[{m2}][1]; fz += S{m2} * e->g[{m2}][2];"
            )
    return [*lines, "}"]
