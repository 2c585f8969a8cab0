"""C++ for the innermost loop of linear maps between channels: some rows times a few vectors of a matrix's columns."""

from deepmd_gnn.kernels.cpu.targets import Machine


def mixing_code(machine: Machine) -> str:
    """Write the functions that ``mixing.hpp`` calls, one for each number of vectors.

    The sums of all rows and vectors stay in registers, while the channels of one irrep after the other are read.

    Parameters
    ----------
    machine : Machine
        Its registers decide how many rows and vectors are taken together.

    Returns
    -------
    str
        C++.
    """
    rows, most = (6, 4) if machine.registers > 16 else (6, 2)
    cases = "\n".join(
        f"case {count}: return products_{count}(rows, targets, terms, nterm, inputs, panel, left);"
        for count in range(1, most)
    )
    return "\n".join(
        [
            "namespace mace {",
            "// An irrep of the input: where its channels begin in a row, and its matrix.",
            "struct Term { long source; const T* matrix; };",
            f"constexpr long ROWS = {rows}, VECTORS = {most};",
            *(_products(rows, count) for count in range(1, most + 1)),
            f"static inline void products(long vectors, {ARGUMENTS}) {{ switch (vectors) {{",
            cases,
            f"default: return products_{most}(rows, targets, terms, nterm, inputs, panel, left); }} }}",
            "}",
        ]
    )


ARGUMENTS = "const T* const* rows, T* const* targets, const Term* terms, long nterm, long inputs, long panel, long left"


def _products(rows: int, count: int) -> str:
    """The function for a number of vectors; `panel` is from one vector's columns to the next, `left` counts channels."""
    lines = [
        # Inlined, the compiler would keep some of the sums in memory.
        f"static __attribute__((noinline)) void products_{count}({ARGUMENTS}) {{",
        " ".join(f"V a{r}_{v} = zero();" for r in range(rows) for v in range(count)),
        "for (long t = 0; t < nterm; ++t) {",
        *(f"const T* x{r} = rows[{r}] + terms[t].source;" for r in range(rows)),
        "const T* w = terms[t].matrix;",
        "for (long k = 0; k < inputs; ++k) {",
        *(f"const V w{v} = load(w + {v} * panel + k * LANES);" for v in range(count)),
    ]
    for r in range(rows):
        lines.append(" ".join(f"a{r}_{v} += w{v} * x{r}[k];" for v in range(count)))
    lines.append("} }")
    for r in range(rows):
        lines += [
            f"store_part(targets[{r}] + {v} * LANES, a{r}_{v}, left - {v} * LANES);" for v in range(count)
        ]
    return "\n".join([*lines, "}"])
