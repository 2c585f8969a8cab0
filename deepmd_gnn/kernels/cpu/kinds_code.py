r"""C++ for the first layer's sums over neighbours, where senders differ by their kind (element) alone.

With few functions :math:`f_k(r)` of which all radial weights are combinations, the sums

.. math:: S_{i,z,k,m} = \sum_{j: z_j = z} f_k(r_{ij}) Y_m(\hat r_{ij})

have no channels; :math:`A_{i,c,m} = \sum_{z,k} W_{z,k,c,l(m)} S_{i,z,k,m}` brings them once per atom. Every statement works on a vector of
functions.
"""

from deepmd_gnn.kernels.cpu.convolution_code import Array, class_code, harmonics_code


def kinds_code(name: str, harmonics: int, steps: list[Array], registers: int) -> str:
    """Write the class that `kinds.hpp` loops over the atoms with.

    Parameters
    ----------
    name : str
        Name of the class.
    harmonics : int
        Of an edge.
    steps : list[numpy.ndarray]
        See :func:`~deepmd_gnn.kernels.cpu.convolution_code.harmonics_code`.
    registers : int
        Sums that fit into the vector registers of the CPU.

    Returns
    -------
    str
        C++.
    """
    constants = {"BY_KIND": 1, "COMPONENTS": 1, "NHARM": harmonics, "PATHS": 1, "WIDTH": harmonics}
    functions = harmonics_code(steps), _forward(harmonics, registers), _backward(harmonics)
    return class_code(name, constants, *functions)


def _forward(harmonics: int, registers: int) -> str:
    lines = [
        "static void forward(const Edge<NHARM, false>* begin, const Edge<NHARM, false>* end, const T* table, T* out,",
        "    long functions) {",
    ]
    for first in range(0, harmonics, registers):
        group = range(first, min(first + registers, harmonics))
        lines.append("{ " + " ".join(f"V a{m} = zero();" for m in group))
        lines.append(
            "for (auto* e = begin; e != end; ++e) { const V f = radial(table + e->bin, NODE * LANES, e->w);"
        )
        lines.append(" ".join(f"a{m} += f * e->y[{m}];" for m in group) + " }")
        lines.append(" ".join(f"store(out + {m} * functions, a{m});" for m in group) + " }")
    return "\n".join([*lines, "}"])


def _backward(harmonics: int) -> str:
    lines = [
        "static void backward(Edge<NHARM, true>* begin, Edge<NHARM, true>* end, const T* table, const T* gradient,",
        "    long functions) {",
        " ".join(f"const V G{m} = load(gradient + {m} * functions);" for m in range(harmonics)),
        "for (auto* e = begin; e != end; ++e) { const T* t = table + e->bin;",
        "const V f = radial(t, NODE * LANES, e->w), f1 = radial_slope(t, NODE * LANES, e->w);",
        f"const V along = {' + '.join(f'G{m} * e->y[{m}]' for m in range(harmonics))};",
    ]
    for k, axis in enumerate("xyz"):
        across = " + ".join(f"G{m} * e->g[{m}][{k}]" for m in range(1, harmonics)) or "zero()"
        lines.append(f"const V {axis} = {across};")
    lines.append("add_sums(e->f, f * x, f * y, f * z, f1 * along);")
    return "\n".join([*lines, "}", "}"])
