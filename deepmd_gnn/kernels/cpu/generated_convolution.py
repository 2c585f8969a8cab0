"""The module that calls the kernel of a convolution in place of the torch code."""

from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels import operators
from deepmd_gnn.kernels.cpu.convolution_code import ConvolutionShape
from deepmd_gnn.kernels.cpu.mixing import GeneratedLinear, no_linear
from deepmd_gnn.kernels.cpu.vectors import in_vectors
from deepmd_gnn.kernels.tables.radial import RadialTable, kinds_of_edges

# Room in larger tables would be noticed in files and memory.
LARGEST_WITH_ROOM = 32 * 2**20
# Nodes that there is room for at least.
ROOM = {torch.float32: 256, torch.float64: 1024}


def with_room(blocks: torch.Tensor) -> torch.Tensor:
    """Let tables of models of one shape have one size: how many nodes they need depends on the weights, compiled programs must not.

    Parameters
    ----------
    blocks : torch.Tensor
        Shape (channel blocks, kinds, nodes, paths, 4, lanes).

    Returns
    -------
    torch.Tensor
        With zeros behind the nodes, up to a power of two of these, unless it is large.
    """
    nodes = blocks.shape[2]
    room = max(1 << (nodes - 1).bit_length(), ROOM[blocks.dtype])
    if blocks.nbytes / nodes * room > LARGEST_WITH_ROOM:
        return blocks
    return torch.nn.functional.pad(blocks, (0, 0) * 3 + (0, room - nodes))


def grid_of(table: RadialTable, r_max: float) -> torch.Tensor:
    """Where the nodes of a table are, as the kernels take it: their number, without those that are room, cutoff in Å and bend; shape (3,)."""
    return torch.tensor([table.values.shape[1], r_max, table.bend], dtype=torch.float64)


class GeneratedConvolution(torch.nn.Module):
    """Radial network and convolution of a layer, and the linear map that follows.

    Parameters
    ----------
    table : torch.Tensor
        Radial weights, shape (channel blocks, kinds, nodes, paths, 4, lanes).
    linear : GeneratedLinear, optional
        The map, if a kernel can evaluate it.
    layer : int
        Which kernel.
    shape : tuple[int, int]
        Components and channels of the convolution.
    ntypes : int
        Number of elements.
    grid : torch.Tensor
        See :func:`grid_of`.
    """

    table: torch.Tensor
    grid: torch.Tensor

    def __init__(
        self,
        table: torch.Tensor,
        linear: GeneratedLinear | None,
        layer: int,
        shape: tuple[int, int],
        ntypes: int,
        grid: torch.Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("grid", grid)
        self.layer, self.ntypes = layer, ntypes
        self.maps = int(linear is not None)
        self.linear = linear or no_linear(table.dtype)
        self.width, self.channels = (linear.width, linear.channels) if linear else shape

    def forward(
        self, sent: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor, radial: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.convolution.Convolution`; harmonics and radial weights are found in the kernel."""
        del harmonics, radial
        sender = graph.edge_index[0].contiguous()
        kind = kinds_of_edges(graph, self.ntypes) if self.table.shape[1] > 1 else sender[:0]
        assert graph.order is not None
        assert graph.begin is not None
        return operators.convolve(
            graph.edge_vec,
            sent.contiguous(),
            self.table,
            self.grid,
            sender,
            kind,
            graph.order,
            graph.begin,
            *self.linear.tensors(),
            self.layer,
            self.maps,
            self.width,
            self.channels,
        )


def tabulated_convolution(
    energy_model: Any,
    table: RadialTable,
    shape: ConvolutionShape,
    channels: int,
    linear: GeneratedLinear | None,
    layer: int,
    lanes: int,
) -> GeneratedConvolution:
    """Make a convolution of its radial weights.

    Parameters
    ----------
    energy_model : MaceEnergy or NequipEnergy
        The network.
    table : RadialTable
        Radial weights.
    shape : ConvolutionShape
        Paths.
    channels : int
        Of what is sent.
    linear : GeneratedLinear, optional
        The map that follows.
    layer : int
        Which kernel.
    lanes : int
        Numbers in a vector of the CPU.
    """
    rows = table.values.view(*table.values.shape[:2], len(shape.paths), -1, 4).transpose(3, 4)
    blocks = with_room(in_vectors(rows, lanes).to(energy_model.dtype))
    size = (shape.width, channels)
    return GeneratedConvolution(
        blocks, linear, layer, size, energy_model.ntypes, grid_of(table, energy_model.r_max)
    )
