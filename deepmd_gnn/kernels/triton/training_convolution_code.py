r"""Triton source for the convolution of one layer in training: its derivatives, and the derivatives of these.

The convolution is linear in the radial weights R, the sender's features h and the harmonics Y, so with a gradient G of its
result everything follows from

.. math:: F(G, R, h, Y) = \sum_{e} \sum_p \sum_{m_1 m_2 m_3} C^p_{m_1 m_2 m_3} G_{m_3} R_p h_{m_1} Y_{m_2} .

Four kernels: the convolution itself (∂F/∂G), its derivatives ∂F/∂R, ∂F/∂h, ∂F/∂Y, and the changes of ∂F/∂G and of
(∂F/∂R, ∂F/∂h) along given changes t of R, h and Y, which a loss on forces needs. A program, one warp, has one receiver and a
block of channels, and goes through the edges of the receiver. The harmonic of degree 0 is one; it is not read.
"""

from deepmd_gnn.kernels.cpu.convolution_code import ConvolutionShape
from deepmd_gnn.kernels.triton.convolution_code import by_result, path_groups
from deepmd_gnn.kernels.triton.source import TRITON_TYPES, combination

# Numbers of single precision per channel that a program keeps: sums of the result, or the gradient at the coupled pairs.
SUMS, PAIRS = 96, 96


class ConvolutionTraining:
    """Writes the kernels of a layer.

    Parameters
    ----------
    shape : ConvolutionShape
        Coupling coefficients.
    channels, block : int
        All channels, and those of a program, a power of two.
    dtype : str
        Precision of the network.
    """

    def __init__(self, shape: ConvolutionShape, channels: int, block: int, dtype: str) -> None:
        self.shape, self.channels, self.block, self.real = shape, channels, block, TRITON_TYPES[dtype]
        self.blocks = -(-channels // block)
        self.mask = ", mask=exists" if channels % block else ""
        size = 1 if dtype == "float32" else 2
        self.sums = path_groups(shape, max(1, SUMS // size), results=True)
        self.pairs = path_groups(shape, max(1, PAIRS // size), results=False)

    def code(self) -> str:
        """All kernels: ``forward``, ``backward``, ``forward_change``, ``backward_change``."""
        return (
            self.forward(change=False) + self.backward() + self.forward(change=True) + self.backward_change()
        )

    # --- parts of statements ------------------------------------------------------------------------------------

    def head(self, name: str, arguments: str) -> list[str]:
        """First statements of a kernel: receiver, its edges, channels."""
        lines = [
            "@triton.jit(do_not_specialize=['nedge', 'nnode'])",
            f"def {name}({arguments}):",
            "    pid = tl.program_id(0)",
            "    block = (pid // nnode).to(tl.int64)",
            "    node = pid.to(tl.int64) - block * nnode",
            "    first = tl.load(begin + node)",
            "    last = tl.load(begin + node + 1)",
            f"    c = block * {self.block} + tl.arange(0, {self.block})",
            f"    zero = tl.zeros([{self.block}], {self.real})",
        ]
        if self.mask:
            lines.append(f"    exists = c < {self.channels}")
        return lines

    def load(self, pointer: str) -> str:
        """Numbers of the channels."""
        return f"tl.load({pointer}{self.mask}, other=0.0)" if self.mask else f"tl.load({pointer})"

    def store(self, pointer: str, value: str) -> str:
        """Write numbers of the channels."""
        return f"tl.store({pointer}, {value}{self.mask})"

    def edge(self) -> list[str]:
        """Statements inside the loop: where the numbers of an edge are."""
        return [
            "e = tl.load(order + place)",
            f"of_sender = tl.load(sender + e) * {self.shape.components * self.channels} + c",
            f"of_radial = e * {len(self.shape.paths) * self.channels} + c",
            f"of_harmonics = e * {self.shape.harmonics}",
        ]

    def features(self, letter: str, array: str, group: list[int]) -> list[str]:
        """Load what the paths of a group read of the sender."""
        return [
            f"{letter}{m1} = {self.load(f'{array} + of_sender + {m1 * self.channels}')}"
            for m1 in self.firsts(group)
        ]

    def firsts(self, group: list[int]) -> list[int]:
        """Components of the features that the paths of a group read."""
        return sorted({m1 for n in group for m1, _ in self.shape.paths[n].coupling})

    def radial(self, letter: str, array: str, path: int) -> str:
        """Load the radial weights of a path."""
        return f"{letter}{path} = {self.load(f'{array} + of_radial + {path * self.channels}')}"

    def harmonics(self, letter: str, array: str, group: list[int]) -> list[str]:
        """Load the harmonics that the paths of a group read."""
        used = sorted({m2 for n in group for _, m2 in self.shape.paths[n].coupling} - {0})
        return [f"{letter}{m2} = tl.load({array} + of_harmonics + {m2})" for m2 in used]

    # --- kernels ------------------------------------------------------------------------------------------------

    def forward(self, *, change: bool) -> str:
        """The convolution, or its change along `t_radial`, `t_sent` (with `MOVING`) and `t_harmonics`."""
        if change:
            arguments = (
                "radial, sent, harmonics, t_radial, t_sent, t_harmonics, sender, order, begin, out, nnode, "
                "MOVING: tl.constexpr"
            )
            lines = self.head("forward_change", arguments)
        else:
            lines = self.head("forward", "radial, sent, harmonics, sender, order, begin, out, nnode")
        filled: set[int] = set()
        for group in self.sums:
            paths = [self.shape.paths[n] for n in group]
            targets = sorted({m3 for path in paths for found in path.coupling.values() for m3 in found})
            lines += [f"    a{m3} = zero" for m3 in targets]
            lines.append("    for place in range(first, last):")
            body = [
                *self.edge(),
                *self.features("h", "sent", group),
                *self.harmonics("y", "harmonics", group),
            ]
            if change:
                body += self.harmonics("ty", "t_harmonics", group)
                body += self.when_moving(self.features("th", "t_sent", group))
            for number in group:
                body += self.messages(number, change=change)
            lines += [f"        {line}" for line in body]
            lines += [f"    {self.result(m3, f'a{m3}')}" for m3 in targets]
            filled |= set(targets)
        lines += [f"    {self.result(m3, 'zero')}" for m3 in sorted(set(range(self.shape.width)) - filled)]
        return "\n".join(lines) + "\n\n\n"

    def beyond(self, array: str, *, of_harmonics: bool) -> list[str]:
        """Statements that write zeros for edges that belong to no receiver; all programs share them."""
        paths, harmonics = len(self.shape.paths), self.shape.harmonics
        lines = ["for e in range(tl.load(begin + nnode) + node, nedge, nnode):"]
        for number in range(paths):
            place = f"{array} + e * {paths * self.channels} + {number * self.channels} + c"
            lines.append(f"    {self.store(place, 'zero')}")
        if of_harmonics:
            lines += ["    if OF_HARMONICS:", f"        for part in range({len(self.pairs)}):"]
            place = f"d_harmonics + ((block * {len(self.pairs)} + part) * nedge + e) * {harmonics}"
            lines += [f"            tl.store({place} + {m2}, tl.sum(zero, 0))" for m2 in range(harmonics)]
        return [f"    {line}" for line in lines]

    def when_moving(self, lines: list[str]) -> list[str]:
        """Statements for senders whose features change."""
        return ["if MOVING:", *(f"    {line}" for line in lines)] if lines else []

    def result(self, component: int, value: str) -> str:
        """Write a component of the receiver."""
        return self.store(f"out + (node * {self.shape.width} + {component}) * {self.channels} + c", value)

    def messages(self, number: int, *, change: bool) -> list[str]:
        """Statements that add the message of an edge along one path, or its change."""
        path = self.shape.paths[number]
        firsts = self.firsts([number])
        lines = [self.radial("r", "radial", number)]
        lines += [f"z{m1} = r{number} * h{m1}" for m1 in firsts]
        if change:
            lines.append(self.radial("tr", "t_radial", number))
            lines += [f"tz{m1} = tr{number} * h{m1}" for m1 in firsts]
            lines += self.when_moving([f"tz{m1} += r{number} * th{m1}" for m1 in firsts])
        for m3, by in sorted(by_result(path).items()):
            terms = []
            for m1, products in sorted(by.items()):
                value = combination([(f"y{m2}" if m2 else "1.0", c) for m2, c in products])
                terms.append(f"({value}) * {'tz' if change else 'z'}{m1}")
                moved = combination([(f"ty{m2}", c) for m2, c in products if m2])
                if change and moved != "0.0":
                    terms.append(f"({moved}) * z{m1}")
            lines.append(f"a{m3} += {' + '.join(terms)}")
        return lines

    def gradient(self, group: list[int]) -> list[str]:
        """Statements before the loop: the gradient at the pairs that the paths of a group couple."""
        paths = [self.shape.paths[n] for n in group]
        targets = sorted({m3 for path in paths for found in path.coupling.values() for m3 in found})
        lines = [
            f"G{m3} = {self.load(f'gradient + (node * {self.shape.width} + {m3}) * {self.channels} + c')}"
            for m3 in targets
        ]
        for number, path in zip(group, paths, strict=True):
            for (m1, m2), found in sorted(path.coupling.items()):
                total = combination([(f"G{m3}", c) for m3, c in sorted(found.items())])
                lines.append(f"D{number}_{m1}_{m2} = {total}")
        return lines

    def backward(self) -> str:
        """The derivatives; those of features and harmonics on demand, of harmonics in parts to be added up."""
        arguments = (
            "gradient, radial, sent, harmonics, sender, order, begin, d_radial, d_sent, d_harmonics, nedge, nnode, "
            "OF_SENT: tl.constexpr, OF_HARMONICS: tl.constexpr"
        )
        lines = self.head("backward", arguments) + self.beyond("d_radial", of_harmonics=True)
        for index, group in enumerate(self.pairs):
            lines += [f"    {line}" for line in self.gradient(group)]
            lines.append("    for place in range(first, last):")
            body = [
                *self.edge(),
                *self.features("h", "sent", group),
                *self.harmonics("y", "harmonics", group),
                *(f"d{m1} = zero" for m1 in self.firsts(group)),
            ]
            used: set[int] = set()
            for number in group:
                body += self.derivatives(number, used)
            body += self.to_senders("if OF_SENT:", "d_sent", "d", group)
            body.append("if OF_HARMONICS:")
            for m2 in range(self.shape.harmonics):
                place = (
                    f"d_harmonics + (block * {len(self.pairs)} + {index}) * nedge * {self.shape.harmonics}"
                )
                value = f"tl.sum(s{m2}, 0)" if m2 in used else "tl.sum(zero, 0)"
                body.append(f"    tl.store({place} + of_harmonics + {m2}, {value})")
            lines += [f"        {line}" for line in body]
        return "\n".join(lines) + "\n\n\n"

    def derivatives(self, number: int, used: set[int]) -> list[str]:
        """Derivatives of one path at an edge; `used` grows by the harmonics whose derivative there is."""
        path, firsts = self.shape.paths[number], self.firsts([number])
        place = f"d_radial + of_radial + {number * self.channels}"
        if not firsts:  # nothing couples
            return [self.store(place, "zero")]
        lines = [self.radial("r", "radial", number)]
        of_harmonics = []
        for position, m1 in enumerate(firsts):
            pairs = [m2 for first, m2 in sorted(path.coupling) if first == m1]
            lines.append(f"v = {_along('y', number, m1, pairs)}")
            lines.append(f"w {'+=' if position else '='} v * h{m1}")
            lines.append(f"d{m1} += r{number} * v")
            if any(pairs):
                of_harmonics.append(f"z = r{number} * h{m1}")
            for m2 in pairs:
                if m2:
                    of_harmonics.append(f"s{m2} {'+=' if m2 in used else '='} z * D{number}_{m1}_{m2}")
                    used.add(m2)
        lines.append(self.store(place, "w"))
        if of_harmonics:
            lines += ["if OF_HARMONICS:", *(f"    {line}" for line in of_harmonics)]
        return lines

    def to_senders(self, condition: str, array: str, letter: str, group: list[int]) -> list[str]:
        """Add what belongs to the sender to its row."""
        lines = [condition] if self.firsts(group) else []
        for m1 in self.firsts(group):
            place = f"{array} + of_sender + {m1 * self.channels}"
            lines.append(f"    tl.atomic_add({place}, {letter}{m1}{self.mask}, sem='relaxed')")
        return lines

    def backward_change(self) -> str:
        """Changes of the derivatives with respect to R and h, at the same gradient."""
        arguments = (
            "gradient, radial, sent, harmonics, t_radial, t_sent, t_harmonics, sender, order, begin, g_radial, g_sent, "
            "nedge, nnode, MOVING: tl.constexpr, OF_SENT: tl.constexpr"
        )
        lines = self.head("backward_change", arguments) + self.beyond("g_radial", of_harmonics=False)
        for group in self.pairs:
            lines += [f"    {line}" for line in self.gradient(group)]
            lines.append("    for place in range(first, last):")
            body = [
                *self.edge(),
                *self.features("h", "sent", group),
                *self.harmonics("y", "harmonics", group),
                *self.harmonics("ty", "t_harmonics", group),
                *self.when_moving(self.features("th", "t_sent", group)),
                *(f"d{m1} = zero" for m1 in self.firsts(group)),
            ]
            for number in group:
                body += self.changes(number)
            body += self.to_senders("if OF_SENT:", "g_sent", "d", group)
            lines += [f"        {line}" for line in body]
        return "\n".join(lines) + "\n\n\n"

    def changes(self, number: int) -> list[str]:
        """Changes of the derivatives of one path at an edge."""
        path, firsts = self.shape.paths[number], self.firsts([number])
        place = f"g_radial + of_radial + {number * self.channels}"
        if not firsts:
            return [self.store(place, "zero")]
        lines = [self.radial("r", "radial", number), self.radial("tr", "t_radial", number), "w = zero"]
        for m1 in firsts:
            pairs = [m2 for first, m2 in sorted(path.coupling) if first == m1]
            moved = [m2 for m2 in pairs if m2]
            lines.append(f"v = {_along('y', number, m1, pairs)}")
            lines.append(f"d{m1} += tr{number} * v")
            lines += self.when_moving([f"w += v * th{m1}"])
            if moved:
                lines.append(f"u = {_along('ty', number, m1, moved)}")
                lines += [f"d{m1} += r{number} * u", f"w += u * h{m1}"]
        lines.append(self.store(place, "w"))
        return lines


def _along(letter: str, number: int, m1: int, pairs: list[int]) -> str:
    """Gradient with respect to the product of radial weight and feature, for some harmonics."""
    return " + ".join(f"D{number}_{m1}_{m2} * {letter}{m2}" if m2 else f"D{number}_{m1}_{m2}" for m2 in pairs)
