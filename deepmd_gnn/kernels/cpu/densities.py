"""Learned numbers of neighbours from tables, of all layers at once: a convolution of one harmonic with what nobody learns, ones."""

import logging
from typing import Any, NamedTuple

import torch

from deepmd_gnn.graph.atom_graph import Arrangement, AtomGraph
from deepmd_gnn.kernels.cpu.convolution_code import ConvolutionShape, Path, convolution_code
from deepmd_gnn.kernels.cpu.generated_convolution import GeneratedConvolution, tabulated_convolution
from deepmd_gnn.kernels.prepared import Nothing
from deepmd_gnn.kernels.tables.radial import density_layers, density_table

log = logging.getLogger("deepmd.deepmd_gnn")
# Of the four harmonics that there are at least, the one that is 1.
SHAPE = ConvolutionShape(1, 4, 1, [Path(0, 0, {(0, 0): {0: 1.0}})])


class DensityArrangement(Arrangement):
    """Put the densities into a graph before the layers read it.

    Parameters
    ----------
    convolution : GeneratedConvolution
        With a channel for each layer that has a density.
    """

    def __init__(self, convolution: GeneratedConvolution) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, graph: AtomGraph) -> AtomGraph:
        """See :class:`~deepmd_gnn.graph.atom_graph.Arrangement`."""
        table = self.convolution.table
        ones = table.new_ones(graph.sender_types.shape[0], 1, self.convolution.channels)
        return graph._replace(densities=self.convolution(ones, graph, ones, ones))


class GivenDensity(torch.nn.Module):
    """Stands for :class:`~deepmd_gnn.nn.interactions.ReceivedDensity`.

    Parameters
    ----------
    column : int
        Which of the densities of a graph.
    """

    def __init__(self, column: int) -> None:
        super().__init__()
        self.column = column

    def forward(self, outputs: torch.Tensor, cutoff: torch.Tensor | None, graph: AtomGraph) -> torch.Tensor:
        """Read the density, shape (nnode, 1, 1)."""
        del outputs, cutoff
        assert graph.densities is not None
        return graph.densities[:, :, self.column : self.column + 1]


class GeneratedDensities(NamedTuple):
    """What replaces the densities of a network."""

    arrangement: DensityArrangement
    code: str
    """C++ class of the convolution."""
    columns: dict[int, int]
    """Column of each layer that has a density."""

    def swaps(self, energy_model: Any) -> list[tuple[Any, str, torch.nn.Module]]:
        """Parent, name and module of what is replaced."""
        found: list[tuple[Any, str, torch.nn.Module]] = [(energy_model, "arrangement", self.arrangement)]
        for layer, column in self.columns.items():
            found += [
                (energy_model.interactions[layer], "density_fn", Nothing()),
                (energy_model.interactions[layer], "received_density", GivenDensity(column)),
            ]
        return found


def generated_densities(energy_model: Any, lanes: int, registers: int) -> GeneratedDensities | None:
    """Tabulate the densities of a network.

    Parameters
    ----------
    energy_model : MaceEnergy or NequipEnergy
        The network.
    lanes, registers : int
        Numbers in a vector of the CPU, and sums that fit into its registers.

    Returns
    -------
    GeneratedDensities or None
        None if it has no densities, or their tables are not exact enough.
    """
    table = density_table(energy_model, energy_model.dtype)
    if table is None:
        return None
    said = "%d distances, largest relative error %.1e, of their derivative %.1e"
    values = table.values.shape[1], table.error, table.derivative_error
    if not table.fine(energy_model.dtype):
        log.warning(
            f"mace model: learned densities are evaluated by their networks, a table is not exact enough: {said}",
            *values,
        )
        return None
    log.info(f"mace model: learned densities tabulated at {said}", *values)
    layers = density_layers(energy_model)
    number = len(energy_model.interactions)
    convolution = tabulated_convolution(energy_model, table, SHAPE, len(layers), None, number, lanes)
    code = convolution_code(f"Convolution{number}", SHAPE, [], registers)
    return GeneratedDensities(
        DensityArrangement(convolution), code, {layer: column for column, layer in enumerate(layers)}
    )
