"""Triton source for the symmetric contraction of one layer, and its derivative.

The polynomials are those of :mod:`~deepmd_gnn.kernels.cpu.contraction_code`, nested in the same way. A program, one warp, has
one atom and a block of channels. Many components of the result are split into several kernels: the time that Triton takes to
compile one grows with the square of the number of its loads.
"""

from deepmd_gnn.kernels.cpu.contraction_code import Node, Polynomials
from deepmd_gnn.kernels.triton.source import TRITON_TYPES, packed

# Monomials of a kernel: these compile in some five seconds.
MONOMIALS = 160


def output_groups(shape: Polynomials) -> list[list[int]]:
    """Split the components of the result into those of each kernel.

    Parameters
    ----------
    shape : Polynomials
        The polynomials.

    Returns
    -------
    list[list[int]]
        Components; at least one kernel.
    """
    sizes = [sum(output == component for output, _ in shape.terms) for component in range(len(shape.trees))]
    return packed(list(enumerate(sizes)), MONOMIALS)


def contraction_code(shape: Polynomials, channels: int, block: int, dtype: str) -> str:
    """Write the kernels ``contract0``, ``contract_backward0``, ``contract1`` and so on, see :func:`output_groups`.

    Parameters
    ----------
    shape : Polynomials
        The polynomials.
    channels, block : int
        All channels, and those of a program, a power of two.
    dtype : str
        Precision of the network.

    Returns
    -------
    str
        Triton functions.
    """
    code = ContractionCode(shape, channels, block, dtype)
    groups = output_groups(shape)
    return "".join(code.forward(n, group) + code.backward(n, group) for n, group in enumerate(groups))


class ContractionCode:
    """Writes the kernels; see :func:`contraction_code`."""

    def __init__(self, shape: Polynomials, channels: int, block: int, dtype: str) -> None:
        self.shape, self.channels, self.block, self.real = shape, channels, block, TRITON_TYPES[dtype]
        self.blocks = -(-channels // block)
        self.mask = ", mask=exists" if channels % block else ""
        self.width = len(shape.trees)

    def head(self, name: str, arguments: str) -> list[str]:
        """First statements: atom, channels, the message."""
        lines = [
            "@triton.jit",
            f"def {name}({arguments}):",
            "    pid = tl.program_id(0)",
            f"    node = pid // {self.blocks}",
            f"    c = (pid - node * {self.blocks}) * {self.block} + tl.arange(0, {self.block})",
            "    node = node.to(tl.int64)",
            f"    zero = tl.zeros([{self.block}], {self.real})",
        ]
        if self.mask:
            lines.append(f"    exists = c < {self.channels}")
        terms = max(1, len(self.shape.terms))
        lines.append(f"    of_kind = coefficients + tl.load(kind + node) * {terms * self.channels} + c")
        for v in range(self.shape.variables):
            lines.append(f"    x{v} = {self.load(f'features + {self.place(self.shape.variables, v)}')}")
        return lines

    def place(self, width: int, component: int) -> str:
        """Offset of a component of the atom."""
        return f"(node * {width} + {component}) * {self.channels} + c"

    def load(self, pointer: str) -> str:
        """Numbers of the channels; what lies beyond the last one is not read."""
        return f"tl.load({pointer}{self.mask}, other=0.0)" if self.mask else f"tl.load({pointer})"

    def coefficient(self, term: int | None) -> str:
        """Coefficient of a monomial."""
        return "zero" if term is None else self.load(f"of_kind + {term * self.channels}")

    def forward(self, number: int, outputs: list[int]) -> str:
        """The values of some components."""
        lines = self.head(f"contract{number}", "features, coefficients, kind, out")
        for output in outputs:
            lines.append("    total = zero")
            self.add(lines, "total", self.shape.trees[output], "1")
            lines.append(f"    tl.store(out + {self.place(self.width, output)}, total{self.mask})")
        return "\n".join(lines) + "\n\n\n"

    def add(self, lines: list[str], total: str, nodes: list[Node], depth: str) -> None:
        """Add a level of the nested polynomial to a variable."""
        for node in nodes:
            factor = self.coefficient(node.term)
            if node.children:
                factor = f"s{depth}"
                lines.append(f"    {factor} = {self.coefficient(node.term)}")
                self.add(lines, factor, node.children, depth + "1")
            lines.append(f"    {total} += x{node.variable} * {factor}")

    def backward(self, number: int, outputs: list[int]) -> str:
        """The derivative of some components with respect to the message; the first kernel writes, the others add."""
        lines = self.head(f"contract_backward{number}", "gradient, features, coefficients, kind, out")
        for v in range(self.shape.variables):
            before = self.load(f"out + {self.place(self.shape.variables, v)}")
            lines.append(f"    g{v} = {before if number else 'zero'}")
        for output in outputs:
            lines.append(f"    w = {self.load(f'gradient + {self.place(self.width, output)}')}")
            self.spread(lines, "w", None, self.shape.trees[output], "")
        for v in range(self.shape.variables):
            lines.append(f"    tl.store(out + {self.place(self.shape.variables, v)}, g{v}{self.mask})")
        return "\n".join(lines) + "\n\n\n"

    def spread(self, lines: list[str], weight: str, total: str | None, nodes: list[Node], depth: str) -> None:
        """Derivatives of a level, given the product of the factors before; also its sum, for the level above."""
        for node in nodes:
            v = node.variable
            inner = f"s{depth}1"
            lines.append(f"    {inner} = {self.coefficient(node.term)}")
            if node.children:
                product = f"{weight}x"
                lines.append(f"    {product} = {weight} * x{v}")
                self.spread(lines, product, inner, node.children, depth + "1")
            lines.append(f"    g{v} += {weight} * {inner}")
            if total:
                lines.append(f"    {total} += x{v} * {inner}")
