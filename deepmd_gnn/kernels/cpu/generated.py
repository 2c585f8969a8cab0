"""From a model to its kernels, and the modules that call them in place of the torch code."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels import operators
from deepmd_gnn.kernels.cpu.contraction_code import (
    Polynomials,
    contraction_code,
    monomial_tuples,
    polynomials,
)
from deepmd_gnn.kernels.cpu.convolution_code import convolution_code, shape_of
from deepmd_gnn.kernels.cpu.densities import generated_densities
from deepmd_gnn.kernels.cpu.edge_forces import OperatorDistribution
from deepmd_gnn.kernels.cpu.generated_convolution import (
    GeneratedConvolution,
    grid_of,
    tabulated_convolution,
    with_room,
)
from deepmd_gnn.kernels.cpu.kinds import GeneratedKindConvolution, kind_sums
from deepmd_gnn.kernels.cpu.kinds_code import kinds_code
from deepmd_gnn.kernels.cpu.library import Library
from deepmd_gnn.kernels.cpu.mixing import (
    GeneratedLinear,
    averaging_layers,
    map_factors,
    mapped_linears,
    mixes_messages,
)
from deepmd_gnn.kernels.cpu.mixing_code import mixing_code
from deepmd_gnn.kernels.cpu.repulsion import operator_repulsion
from deepmd_gnn.kernels.cpu.targets import target_machine
from deepmd_gnn.kernels.cpu.vectors import in_vectors
from deepmd_gnn.kernels.prepared import Nothing, PreparedParts
from deepmd_gnn.kernels.tables.radial import FEWEST, RadialTable, density_layers, kinds_of_pairs, radial_table
from deepmd_gnn.nn.energy import MaceEnergy
from deepmd_gnn.nn.interactions import AttentiveInteraction, Interaction

log = logging.getLogger("deepmd.deepmd_gnn")
# Tables for every pair of many elements would fill the memory.
LARGEST_TABLES = 512 * 2**20


def not_covered(energy_model: Any) -> str | None:
    """Say why there are no kernels for a model, None if there are."""
    if any(isinstance(layer, AttentiveInteraction) for layer in energy_model.interactions):
        return "attentive blocks have radial weights that depend on the features"
    if getattr(energy_model, "has_charges", False):
        return "charges of atoms are computed in torch"
    if any(one.gated or one.limited for one in getattr(energy_model, "products", ())):
        return "node features are gated or limited in torch (gate_nodes, soft_normalization)"
    size = tables_size(energy_model)
    if size > LARGEST_TABLES:
        return (
            f"radial tables for all pairs of {energy_model.ntypes} elements would take {size / 2**20:.0f} MB"
        )
    return None


def radial_tables(energy_model: Any) -> list[RadialTable] | str:
    """Tabulate the radial weights of all layers, or say why that is not exact enough."""
    tables = []
    for layer, interaction in enumerate(energy_model.interactions, start=1):
        table = radial_table(energy_model, interaction, energy_model.dtype)
        if not table.fine(energy_model.dtype):
            return (
                f"with {table.values.shape[1]} distances the radial weights of layer {layer} still have a relative error "
                f"of {table.error:.1e}, their derivatives of {table.derivative_error:.1e}"
            )
        tables.append(table)
    return tables


def tables_size(energy_model: Any) -> int:
    """Bytes of the coarsest radial tables of all layers."""
    numbers = sum(
        len(layer.conv_tp.paths) * layer.linear_up.channels * kinds_of_pairs(energy_model, layer)
        for layer in energy_model.interactions
    )
    return numbers * FEWEST[energy_model.dtype] * 4 * energy_model.dtype.itemsize


class GeneratedContraction(torch.nn.Module):
    """Symmetric contraction of a layer.

    Parameters
    ----------
    coefficients : torch.Tensor
        Shape (channel blocks, types, terms, lanes).
    layer, width : int
        Which kernel; components of its result.
    """

    coefficients: torch.Tensor

    def __init__(self, coefficients: torch.Tensor, layer: int, width: int) -> None:
        super().__init__()
        self.register_buffer("coefficients", coefficients)
        self.layer, self.width = layer, width

    def forward(self, features: torch.Tensor, types: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.symmetric_contraction.SymmetricContraction.forward`."""
        return operators.contract(features.contiguous(), self.coefficients, types, self.layer, self.width)


def contraction_polynomials(module: Any) -> Polynomials:
    """Write the symmetric contraction of a layer as polynomials, without their coefficients.

    Parameters
    ----------
    module : SymmetricContraction
        The contraction.

    Returns
    -------
    Polynomials
        Of all output components.
    """
    parts = [contraction.coefficients.value.double().cpu() for contraction in module.contractions]
    prefixes = [factor.index.value.tolist() for factor in module.prefixes]
    lasts = [factor.index.value.tolist() for factor in module.lasts]
    variables = parts[0].shape[2] - sum(len(last) for last in lasts)
    used = torch.cat([part.abs().amax(dim=1) > 0 for part in parts]).numpy()
    return polynomials(variables, monomial_tuples(variables, prefixes, lasts), used)


def contraction_tables(module: Any, lanes: int) -> tuple[Polynomials, torch.Tensor]:
    """Write the symmetric contraction of a layer as polynomials.

    Parameters
    ----------
    module : SymmetricContraction
        The contraction.
    lanes : int
        Numbers in a vector of the CPU.

    Returns
    -------
    Polynomials
        Of all output components.
    torch.Tensor
        Their coefficients for every element and channel, float64, shape (channel blocks, ntypes, terms, lanes).
    """
    shape = contraction_polynomials(module)
    parts = [contraction.coefficients.value.double().cpu() for contraction in module.contractions]
    tables = []
    for contraction, part in zip(module.contractions, parts, strict=True):
        weights = torch.cat([contraction.weights_max, *contraction.weights], dim=1).detach().double().cpu()
        tables.append(torch.einsum("mpa,tpc->tmac", part, weights))
    table = torch.cat(tables, dim=1)  # (types, outputs, monomials, channels)
    outputs, monomials = zip(*shape.terms, strict=True)
    return shape, in_vectors(table[:, list(outputs), list(monomials)], lanes)


def generated_contraction(
    product: Any, layer: int, lanes: int, dtype: torch.dtype
) -> tuple[str, GeneratedContraction]:
    """C++ of the product basis of a layer, and the module that calls it; `lanes` are numbers in a vector of the CPU."""
    polynomial, coefficients = contraction_tables(product.symmetric_contractions, lanes)
    module = GeneratedContraction(coefficients.to(dtype), layer, len(polynomial.trees))
    return contraction_code(f"Contraction{layer}", polynomial), module


def prepared_parts(energy_model: Any, lanes: int) -> PreparedParts | None:
    """What is computed once of the weights of a MACE network; None for others. `lanes` are numbers in a vector of the CPU."""
    if not isinstance(energy_model, MaceEnergy):
        return None
    return PreparedParts(energy_model, lambda linear: GeneratedLinear(linear, lanes))


class Kernels:
    """Kernels of a model.

    Parameters
    ----------
    energy_model : MaceEnergy or NequipEnergy
        The network, for which :func:`not_covered` is None.
    tables : list[RadialTable], optional
        Of all layers, from :func:`radial_tables`.

    Raises
    ------
    ValueError
        If the tables are not exact enough.
    """

    # Whether its modules go through the edges of a receiver by `order` and `begin` of a graph.
    reads_lists = True

    def __init__(self, energy_model: Any, tables: list[RadialTable] | None = None) -> None:
        found = tables or radial_tables(energy_model)
        if isinstance(found, str):
            raise ValueError(f"mace model: no generated kernels: {found}.")
        dtype, machine = energy_model.dtype, target_machine()
        lanes = machine.vector_bytes // dtype.itemsize
        steps = [step.value.double().numpy() for step in energy_model.spherical_harmonics.steps]
        structs: list[str] = []
        linears = mapped_linears(energy_model)
        self.averaging = averaging_layers(energy_model, linears)
        factors = map_factors(energy_model, linears, self.averaging)
        self.linears = {
            place: GeneratedLinear(part, lanes, factors[place]) for place, part in linears.items()
        }
        self.convolutions: list[GeneratedConvolution | GeneratedKindConvolution] = []
        self.included: list[tuple[str, int, str]] = []
        self.contractions: list[GeneratedContraction] = []
        self.tables = [table.description() for table in found]
        for layer, (interaction, table) in enumerate(zip(energy_model.interactions, found, strict=True)):
            shape = shape_of(interaction.conv_tp)
            follows = self._following(layer, interaction)
            maps = [linears[place] for place in follows]
            factor = factors[follows[0]] if follows else 1.0
            sums = kind_sums(energy_model, table, shape, maps, factor, lanes) if layer == 0 else None
            if sums:
                structs.append(kinds_code("Convolution0", shape.harmonics, steps, machine.registers))
                blocks = with_room(in_vectors(sums.functions, lanes).to(dtype))
                grid = grid_of(table, energy_model.r_max)
                self.convolutions.append(GeneratedKindConvolution(blocks, sums, grid))
            else:
                structs.append(convolution_code(f"Convolution{layer}", shape, steps, machine.registers))
                linear = self.linears[follows[0]] if follows else None
                self.convolutions.append(
                    tabulated_convolution(
                        energy_model, table, shape, interaction.linear_up.channels, linear, layer, lanes
                    )
                )
            self.included += follows[: self.convolutions[-1].maps]
        for layer, product in enumerate(getattr(energy_model, "products", ())):
            code, contraction = generated_contraction(product, layer, lanes, dtype)
            structs.append(code)
            self.contractions.append(contraction)
        self.densities = generated_densities(energy_model, lanes, machine.registers)
        if self.densities:
            structs.append(self.densities.code)
        self.prepared = prepared_parts(energy_model, lanes)
        self.repulsion = operator_repulsion(energy_model)
        convolutions = len(self.convolutions) + (self.densities is not None)
        self.library = Library(
            structs, mixing_code(machine), convolutions, dtype, machine, len(self.contractions)
        )

    def _following(self, layer: int, interaction: Any) -> list[tuple[str, int, str]]:
        """Places of the maps that follow a convolution with nothing but factors between them, none, one or two."""
        names = [mixes_messages(interaction)]
        # A learned density divides what the maps give, and may as well divide it afterwards.
        if isinstance(interaction, Interaction) and not interaction.residual:
            names.append("skip_tp")
        found: list[tuple[str, int, str]] = []
        for name in names:
            if ("interactions", layer, name) not in self.linears:
                break
            found.append(("interactions", layer, name))
        return found

    def reads_radial(self, energy_model: Any) -> bool:
        """Whether anything reads radial features: only densities without a table."""
        return self.densities is None and bool(density_layers(energy_model))

    def description(self) -> dict[str, Any]:
        """What a frozen file says about its kernels; plain values."""
        machine = self.library.machine
        return {
            "cpu_features": list(machine.features),
            "vector_bits": 8 * machine.vector_bytes,
            "tables": self.tables,
        }

    @contextlib.contextmanager
    def installed(self, energy_model: Any) -> Iterator[None]:
        """Let a network with the same weights call the kernels, without derivatives with respect to the weights."""
        swaps: list[tuple[Any, str, torch.nn.Module]] = [
            (energy_model, "distribution", OperatorDistribution())
        ]
        if self.densities:
            swaps += self.densities.swaps(energy_model)
        if self.repulsion:
            swaps.append((energy_model, "pair_repulsion_fn", self.repulsion))
        if self.prepared:
            # Tables end at the cutoff by themselves: nobody reads the step of functions that jump there.
            swaps += self.prepared.swaps(energy_model, self.reads_radial(energy_model), reads_lengths=False)
        for interaction, conv in zip(energy_model.interactions, self.convolutions, strict=True):
            swaps += [(interaction, "conv_tp", conv), (interaction, "conv_tp_weights", Nothing())]
        for layer in self.averaging:
            swaps.append((energy_model.interactions[layer], "average", Nothing()))
        products = getattr(energy_model, "products", ())
        for product, contraction in zip(products, self.contractions, strict=True):
            swaps.append((product, "symmetric_contractions", contraction))
        for place, linear in self.linears.items():
            blocks, layer, name = place
            module = Nothing() if place in self.included else linear
            swaps.append((getattr(energy_model, blocks)[layer], name, module))
        with swapped_in(energy_model, swaps):
            yield


@contextlib.contextmanager
def swapped_in(energy_model: Any, swaps: list[tuple[Any, str, torch.nn.Module]]) -> Iterator[None]:
    """Put other modules into a network, whose weights need no derivatives meanwhile.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.
    swaps : list[tuple[torch.nn.Module, str, torch.nn.Module]]
        Parent, name and module.
    """
    required = [p for p in energy_model.parameters() if p.requires_grad]
    before = [(parent, name, getattr(parent, name)) for parent, name, _ in swaps]
    try:
        for parameter in required:
            parameter.requires_grad_(False)
        for swap in swaps:
            setattr(*swap)
        yield
    finally:
        for swap in before:
            setattr(*swap)
        for parameter in required:
            parameter.requires_grad_(True)
