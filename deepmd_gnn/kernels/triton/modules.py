"""From a network to its Triton kernels, and the modules that launch them in place of the torch code."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels.cpu.contraction_code import Polynomials
from deepmd_gnn.kernels.cpu.convolution_code import ConvolutionShape, shape_of
from deepmd_gnn.kernels.cpu.generated import contraction_tables, swapped_in
from deepmd_gnn.kernels.cpu.mixing import averaging_layers, map_factors, mapped_linears
from deepmd_gnn.kernels.prepared import Nothing, PreparedParts
from deepmd_gnn.kernels.triton import operators
from deepmd_gnn.kernels.triton.blocks import TritonMessages
from deepmd_gnn.kernels.triton.contraction_code import contraction_code, output_groups
from deepmd_gnn.kernels.triton.convolution_code import Tile, backward_code, backward_groups, forward_code
from deepmd_gnn.kernels.triton.forces import TritonDistribution, forces
from deepmd_gnn.kernels.triton.geometry_code import (
    edge_gradient_code,
    geometry_code,
    harmonics,
    number_of_harmonics,
    row_width,
)
from deepmd_gnn.kernels.triton.mixing import TritonLinear
from deepmd_gnn.kernels.triton.source import generated_module, kept_source
from deepmd_gnn.kernels.triton.splines import SplineTable
from deepmd_gnn.kernels.triton.support import at_once
from deepmd_gnn.nn.interactions import Interaction

# Channels of a program of the contraction: one per thread.
CONTRACTED = 32


def power_of_two(number: int) -> int:
    """The smallest one that is not below a number."""
    return 1 << max(0, number - 1).bit_length()


def tiles(shape: ConvolutionShape, channels: int, dtype: str) -> tuple[Tile, Tile]:
    """Edges and channels at a time, forward and backward: what was fastest on an H100 in single precision.

    Wide blocks of channels and one edge; scalar features leave room for more edges.
    """
    sizes = [(1, 64), (1, 32)] if shape.components > 1 else [(2, 64), (4, 32)]
    found = []
    for edges, widest in sizes:
        room = edges * widest // (2 if dtype == "float64" else 1)
        width = min(widest, room, power_of_two(channels))
        found.append(Tile(max(1, min(edges, room // width)), width))
    return found[0], found[1]


class Geometry(torch.nn.Module):
    """Fill the fields of a graph that the kernels of all layers read."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code

    def forward(self, graph: AtomGraph) -> AtomGraph:
        """Evaluate the kernel ``geometry``."""
        assert graph.order is not None
        packed, rows, sources = operators.geometry(
            graph.edge_vec.detach(), graph.edge_index.contiguous(), graph.sender_types, graph.order, self.code
        )
        return graph._replace(packed=packed, rows=rows, sources=sources)


class TritonConvolution(torch.nn.Module):
    """Radial network and convolution of a layer.

    Parameters
    ----------
    table : torch.Tensor
        B-spline coefficients, shape (rows, npath, channels).
    code : str
        Generated module.
    """

    table: torch.Tensor

    def __init__(self, table: torch.Tensor, code: str) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.code = code

    def forward(
        self, sent: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor, radial: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.convolution.Convolution`; harmonics and radial weights come from the graph."""
        del harmonics, radial
        return operators.convolve(*operators.convolution_inputs(graph, sent, self.table), self.code)  # type: ignore[no-any-return]


class TritonContraction(torch.nn.Module):
    """Symmetric contraction of a layer.

    Parameters
    ----------
    coefficients : torch.Tensor
        Shape (types, terms, channels).
    code : str
        Generated module.
    """

    coefficients: torch.Tensor

    def __init__(self, coefficients: torch.Tensor, code: str) -> None:
        super().__init__()
        self.register_buffer("coefficients", coefficients)
        self.code = code

    def forward(self, features: torch.Tensor, types: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.symmetric_contraction.SymmetricContraction.forward`."""
        return operators.contract(features.contiguous(), self.coefficients, types, self.code)


class TritonKernels:
    """Kernels of a network.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.
    tables : list[SplineTable]
        Radial weights of its layers, on one grid.
    """

    # Whether its modules go through the edges of a receiver by `order` and `begin` of a graph.
    reads_lists = True

    def __init__(self, energy_model: Any, tables: list[SplineTable]) -> None:
        dtype = str(energy_model.dtype).removeprefix("torch.")
        steps = [step.value.double().cpu().numpy() for step in energy_model.spherical_harmonics.steps]
        kinds = max(table.coefficients.shape[0] for table in tables)
        ntypes = energy_model.ntypes if kinds > 1 else 0
        self.tables = [table.description() for table in tables]
        self.geometry = Geometry(
            kept_source(
                geometry_code(steps, energy_model.r_max, tables[0].nodes, ntypes, dtype)
                + data_of_module(
                    DTYPE=dtype,
                    HARMONICS=number_of_harmonics(steps),
                    ROW=row_width(steps),
                    RECURSION=_recursion(steps),
                    R_MAX=energy_model.r_max,
                    NODES=tables[0].nodes,
                    TYPES=ntypes,
                )
            )
        )
        self.convolutions, self.contractions = [], []
        for interaction, product, table in zip(
            energy_model.interactions, energy_model.products, tables, strict=True
        ):
            conv, channels = interaction.conv_tp, interaction.linear_up.channels
            shape = shape_of(conv)
            rows = table.coefficients.expand(kinds, -1, -1).flatten(0, 1)
            rows = rows.view(rows.shape[0], len(shape.paths), channels).to(energy_model.dtype).contiguous()
            geometry = {"steps": steps, "r_max": energy_model.r_max, "nodes": tables[0].nodes}
            self.convolutions.append(
                TritonConvolution(rows, _convolution_module(shape, geometry, channels, dtype))
            )
            polynomial, coefficients = contraction_tables(product.symmetric_contractions, channels)
            self.contractions.append(
                TritonContraction(
                    coefficients[0].to(energy_model.dtype).contiguous(),
                    _contraction_module(polynomial, channels, dtype),
                )
            )
        linears = mapped_linears(energy_model)
        # Where messages are divided by the average number of neighbours, the map before it does that, too.
        self.averaging = averaging_layers(energy_model, linears)
        factors = map_factors(energy_model, linears, self.averaging)
        self.linears = {place: TritonLinear(linear, factors[place]) for place, linear in linears.items()}
        # Then nothing is between the convolution and the map, and they are one operator; all of MACE's are the same for all elements.
        self.messages = {
            layer: TritonMessages(self.convolutions[layer], linear)
            for layer in self.averaging
            if (linear := self.linears["interactions", layer, "linear"]).ntypes == 0
        }
        self.reads_radial_features = any(
            not isinstance(interaction, Interaction) or interaction.density
            for interaction in energy_model.interactions
        )
        self.prepared = PreparedParts(energy_model, TritonLinear)

    def description(self) -> dict[str, Any]:
        """What a frozen file says about its kernels; plain values."""
        return {"triton": True, "tables": self.tables}

    def swaps(self, energy_model: Any) -> list[tuple[Any, str, torch.nn.Module]]:
        """Parent, name and module of what the kernels replace in a network with the same weights."""
        device = energy_model.scale.device
        found: list[tuple[Any, str, torch.nn.Module]] = [
            (energy_model, "arrangement", self.geometry),
            (energy_model, "distribution", TritonDistribution()),
            *self.prepared.swaps(
                energy_model,
                reads_radial=self.reads_radial_features,
                reads_lengths=energy_model.repulsive or energy_model.unbounded,
            ),
        ]
        for layer, interaction in enumerate(energy_model.interactions):
            conv = self.messages.get(layer, self.convolutions[layer])
            found += [
                (interaction, "conv_tp", conv.to(device)),
                (interaction, "conv_tp_weights", Nothing()),
            ]
        for layer in self.averaging:
            found.append((energy_model.interactions[layer], "average", Nothing()))
        for product, contraction in zip(energy_model.products, self.contractions, strict=True):
            found.append((product, "symmetric_contractions", contraction.to(device)))
        for (blocks, layer, name), linear in self.linears.items():
            with_convolution = (blocks, name) == ("interactions", "linear") and layer in self.messages
            module = Nothing() if with_convolution else linear.to(device)
            found.append((getattr(energy_model, blocks)[layer], name, module))
        return found

    def maps(self) -> list[Any]:
        """All linear maps."""
        return [*self.linears.values(), *self.prepared.maps()]

    @contextlib.contextmanager
    def installed(self, energy_model: Any) -> Iterator[None]:
        """Let a network with the same weights launch the kernels, without derivatives with respect to the weights."""
        with swapped_in(energy_model, self.swaps(energy_model)):
            yield

    def compile(self, device: torch.device) -> None:
        """Compile all kernels at the same time, by evaluating an atom with an edge to itself; Triton keeps them.

        Parameters
        ----------
        device : torch.device
            Of the network.
        """
        at_once(self._tasks(device))

    def _tasks(self, device: torch.device) -> list[Callable[[], Any]]:
        zeros = functools.partial(torch.zeros, dtype=torch.int64, device=device)
        vectors = torch.ones(1, 3, dtype=torch.float64, device=device)
        edge, types, order = zeros(2, 1), zeros(1), zeros(1)
        begin = torch.arange(2, device=device)
        # The convolutions read what the first kernel writes, whatever it is.
        packed, row, source = operators.empty_geometry(vectors, order, generated_module(self.geometry.code))
        geometry = (packed.zero_(), row.zero_(), source.zero_(), order, begin)
        tasks: list[Callable[[], Any]] = [
            functools.partial(operators.geometry, vectors, edge, types, order, self.geometry.code),
            functools.partial(forces, vectors, vectors, edge, order, begin, 1),
        ]
        for layer, conv in enumerate(self.convolutions):
            module, table = generated_module(conv.code), conv.table.to(device)
            sent = table.new_zeros(1, module.COMPONENTS, table.shape[2])
            inputs = (vectors, sent, *geometry, table, conv.code)
            gradient = table.new_zeros(1, module.WIDTH, table.shape[2])
            tasks += [
                functools.partial(operators.convolve, *inputs),
                functools.partial(operators.convolve_backward, gradient, *inputs, layer > 0),
            ]
        for contraction in self.contractions:
            module, coefficients = generated_module(contraction.code), contraction.coefficients.to(device)
            features = coefficients.new_zeros(1, module.COMPONENTS, coefficients.shape[2])
            gradient = coefficients.new_zeros(1, module.WIDTH, coefficients.shape[2])
            arguments = (features, coefficients, types, contraction.code)
            tasks += [
                functools.partial(operators.contract, *arguments),
                functools.partial(operators.contract_backward, gradient, *arguments),
            ]
        for linear in self.maps():
            tasks.append(functools.partial(linear.to(device).try_once, device))
        return tasks

    def install(self, energy_model: Any) -> None:
        """Let a network that is only evaluated from now on launch the kernels, for good."""
        for parameter in energy_model.parameters():
            parameter.requires_grad_(False)
        for parent, name, module in self.swaps(energy_model):
            setattr(parent, name, module)


def _recursion(steps: list[Any]) -> list[tuple[int, list[tuple[int, int, float]]]]:
    return [tuple(harmonic) for harmonic in harmonics(steps)]  # type: ignore[misc]


def data_of_module(**values: Any) -> str:
    """Data of a generated module, for those who call it and for the reference."""
    return "".join(f"{name} = {value!r}\n" for name, value in values.items())


def _convolution_module(shape: ConvolutionShape, geometry: dict[str, Any], channels: int, dtype: str) -> str:
    forward, backward = tiles(shape, channels, dtype)
    steps = geometry["steps"]
    code = forward_code(shape, steps, channels, forward, dtype)
    code += backward_code(shape, steps, channels, backward, dtype, "none")
    code += backward_code(shape, steps, channels, backward, dtype, "add")
    code += edge_gradient_code(dtype)
    groups = len(backward_groups(shape, channels, backward, dtype))
    code += data_of_module(
        DTYPE=dtype,
        COMPONENTS=shape.components,
        WIDTH=shape.width,
        PATHS=terms_of(shape),
        FORWARD_BLOCKS=-(-channels // forward.channels),
        BACKWARD_BLOCKS=-(-channels // backward.channels),
        GROUPS=groups,
        HARMONICS=number_of_harmonics(steps),
        RECURSION=_recursion(steps),
        R_MAX=geometry["r_max"],
        NODES=geometry["nodes"],
    )
    return kept_source(code)


def terms_of(shape: ConvolutionShape) -> list[list[tuple[int, int, int, float]]]:
    """Components of features, harmonics and result, and coefficient, of every product of each path."""
    return [
        [(m1, m2, m3, c) for (m1, m2), found in path.coupling.items() for m3, c in found.items()]
        for path in shape.paths
    ]


def monomials_of(polynomial: Polynomials) -> list[tuple[int, list[int]]]:
    """Output component and factors of every term."""
    monomials: list[tuple[int, list[int]]] = [(output, []) for output, _ in polynomial.terms]

    def follow(nodes: list[Any], factors: list[int]) -> None:
        for node in nodes:
            if node.term is not None:
                monomials[node.term][1].extend([*factors, node.variable])
            follow(node.children, [*factors, node.variable])

    for tree in polynomial.trees:
        follow(tree, [])
    return monomials


def _contraction_module(polynomial: Polynomials, channels: int, dtype: str) -> str:
    block = min(CONTRACTED, power_of_two(channels))
    code = contraction_code(polynomial, channels, block, dtype)
    code += data_of_module(
        COMPONENTS=polynomial.variables,
        WIDTH=len(polynomial.trees),
        BLOCKS=-(-channels // block),
        PARTS=len(output_groups(polynomial)),
        MONOMIALS=monomials_of(polynomial),
    )
    return kept_source(code)
