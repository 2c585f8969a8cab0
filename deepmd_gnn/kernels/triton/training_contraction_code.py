r"""Triton source for the symmetric contraction of one layer in training.

With coefficients W of the monomials and a gradient G of the result everything follows from
:math:`F(G, x, W) = \sum_o G_o \sum_k W_{o k} \prod_{a \in k} x_a`: values (∂F/∂G), ∂F/∂x, the changes of these two along a given
change t of x, ∂F/∂W, and the change of that. The polynomials are nested as in
:mod:`~deepmd_gnn.kernels.triton.contraction_code`; a variable that begins with ``t`` is the change of the other.

There are several kernels for the components of the result, and for the coefficients, as there: the time is that of Triton's pass
``TritonGPUCoalesce``.
"""

from deepmd_gnn.kernels.cpu.contraction_code import Node, Polynomials
from deepmd_gnn.kernels.triton.contraction_code import ContractionCode, output_groups

# Numbers of single precision per channel that a program sums over its atoms.
SUMS = 96
# Atoms of a program that sums over atoms.
ATOMS = 32


class ContractionTraining(ContractionCode):
    """Writes the kernels of a layer.

    Parameters
    ----------
    shape : Polynomials
        The polynomials.
    channels, block : int
        All channels, and those of a program, a power of two.
    dtype : str
        Precision of the network.
    """

    def __init__(self, shape: Polynomials, channels: int, block: int, dtype: str) -> None:
        super().__init__(shape, channels, block, dtype)
        most = SUMS if dtype == "float32" else SUMS // 2
        terms = len(shape.terms)
        self.groups = [range(first, min(first + most, terms)) for first in range(0, terms, most)]
        self.parts = output_groups(shape)

    def code(self) -> str:
        """All kernels: ``contract``, ``contract_backward`` and ``change`` of every part, ``weights`` and ``weights_change`` of every group."""
        kernels = []
        for part, outputs in enumerate(self.parts):
            kernels += [
                self.forward(part, outputs),
                self.backward(part, outputs),
                self.change(part, outputs),
            ]
        for group in range(len(self.groups)):
            kernels += [self.weights(group, change=False), self.weights(group, change=True)]
        return "".join(kernels)

    def change(self, part: int, outputs: list[int]) -> str:
        """Changes of the values and of the derivative with respect to x, at the same gradient."""
        lines = self.head(f"change{part}", "gradient, features, t_features, coefficients, kind, values, out")
        for v in range(self.shape.variables):
            lines.append(f"    t{v} = {self.load(f't_features + {self.place(self.shape.variables, v)}')}")
        for v in range(self.shape.variables):
            before = self.load(f"out + {self.place(self.shape.variables, v)}")
            lines.append(f"    g{v} = {before if part else 'zero'}")
        for output in outputs:
            lines.append(f"    w = {self.load(f'gradient + {self.place(self.width, output)}')}")
            lines.append("    total = zero")
            self.spread_change(lines, "w", None, "total", self.shape.trees[output], "")
            lines.append(f"    tl.store(values + {self.place(self.width, output)}, total{self.mask})")
        for v in range(self.shape.variables):
            lines.append(f"    tl.store(out + {self.place(self.shape.variables, v)}, g{v}{self.mask})")
        return "\n".join(lines) + "\n\n\n"

    def spread_change(
        self,
        lines: list[str],
        weight: str,
        t_weight: str | None,
        t_total: str,
        nodes: list[Node],
        depth: str,
        total: str | None = None,
    ) -> None:
        """Changes of a level, given the product of the factors before and its change (None: there is none).

        `total` and `t_total` grow by the level's sum and the change of that.
        """
        for node in nodes:
            v, inner = node.variable, f"s{depth}1"
            lines.append(f"    {inner} = {self.coefficient(node.term)}")
            if node.children:
                product, t_product = f"{weight}x", f"t{weight}x"
                lines += [
                    f"    t{inner} = zero",
                    f"    {product} = {weight} * x{v}",
                    f"    {t_product} = {weight} * t{v}" + (f" + {t_weight} * x{v}" if t_weight else ""),
                ]
                self.spread_change(lines, product, t_product, f"t{inner}", node.children, depth + "1", inner)
                lines.append(f"    g{v} += {weight} * t{inner}")
                lines.append(f"    {t_total} += t{v} * {inner} + x{v} * t{inner}")
            else:
                lines.append(f"    {t_total} += t{v} * {inner}")
            if t_weight:
                lines.append(f"    g{v} += {t_weight} * {inner}")
            if total:
                lines.append(f"    {total} += x{v} * {inner}")

    # --- derivative with respect to the coefficients ------------------------------------------------------------

    def weights(self, group: int, *, change: bool) -> str:
        """The derivative with respect to the coefficients, or its change.

        A program has a block of channels, a type and some atoms, whose sum it adds to those of the others.
        """
        name = f"weights_change{group}" if change else f"weights{group}"
        changed = "t_features, " if change else ""
        lines = [
            "@triton.jit(do_not_specialize=['nnode', 'ntypes'])",
            f"def {name}(gradient, features, {changed}kind, out, nnode, ntypes):",
            "    pid = tl.program_id(0)",
            f"    c = (pid % {self.blocks}) * {self.block} + tl.arange(0, {self.block})",
            f"    rest = pid // {self.blocks}",
            "    mine = (rest % ntypes).to(tl.int64)",
            f"    first = (rest // ntypes).to(tl.int64) * {ATOMS}",
            f"    last = tl.minimum(first + {ATOMS}, nnode)",
            f"    zero = tl.zeros([{self.block}], {self.real})",
            "    seen = 0",
        ]
        if self.mask:
            lines.append(f"    exists = c < {self.channels}")
        lines += [f"    {line}" for line in self.sums(self.groups[group], change)]
        return "\n".join(lines) + "\n\n\n"

    def sums(self, group: range, change: bool) -> list[str]:
        """Sum some terms over the atoms of a program."""
        lines = [f"a{term} = zero" for term in group]
        body: list[str] = []
        used: set[int] = set()
        for output, tree in enumerate(self.shape.trees):
            found: list[str] = []
            self.products(found, "w", "tw" if change else None, tree, group, used, top=True)
            if found:
                body += [f"w = {self.load(f'gradient + {self.place(self.width, output)}')}", *found]
        loads = [
            f"x{v} = {self.load(f'features + {self.place(self.shape.variables, v)}')}" for v in sorted(used)
        ]
        if change:
            loads += [
                f"t{v} = {self.load(f't_features + {self.place(self.shape.variables, v)}')}"
                for v in sorted(used)
            ]
        lines.append("for node in range(first, last):")
        lines.append("    if tl.load(kind + node) == mine:")
        lines += [f"        {line}" for line in ["seen += 1", *loads, *body]]
        lines.append("if seen > 0:")
        for term in group:
            place = f"out + (mine * {len(self.shape.terms)} + {term}) * {self.channels} + c"
            lines.append(f"    tl.atomic_add({place}, a{term}{self.mask}, sem='relaxed')")
        return lines

    def products(
        self,
        lines: list[str],
        weight: str,
        t_weight: str | None,
        nodes: list[Node],
        group: range,
        used: set[int],
        *,
        top: bool = False,
    ) -> None:
        """Add the products of the factors of some terms, or (with `t_weight`) their changes, to the sums."""
        for node in nodes:
            found: list[str] = []
            v = node.variable
            product = f"{weight}x"
            t_product = f"t{product}" if t_weight else None
            self.products(found, product, t_product, node.children, group, used)
            mine = node.term is not None and node.term in group
            if not (mine or found):
                continue
            used.add(v)
            if found or not t_weight:
                lines.append(f"{product} = {weight} * x{v}")
            if t_weight:
                # The gradient itself, before the first factor, does not change.
                before = "" if top else f" + {t_weight} * x{v}"
                lines.append(f"{t_product} = {weight} * t{v}{before}")
            if mine:
                lines.append(f"a{node.term} += {t_product or product}")
            lines += found
