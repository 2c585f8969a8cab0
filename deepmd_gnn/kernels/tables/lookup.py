"""Radial tables in torch: for the convolution of a ``.pt2`` without generated kernels."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_sums import rows_of_senders
from deepmd_gnn.kernels.cpu.generated import swapped_in
from deepmd_gnn.kernels.prepared import Nothing
from deepmd_gnn.kernels.tables.radial import RadialTable, kinds_of_edges, slope_factors, value_factors
from deepmd_gnn.nn.convolution import Convolution, without_guard


class TabulatedConvolution(torch.nn.Module):
    """Convolution whose radial weights come from a table.

    Parameters
    ----------
    convolution : Convolution
        Of the layer.
    table : RadialTable
        Its radial weights.
    ntypes : int
        Number of elements.
    r_max : float
        Cutoff, Å.
    dtype : torch.dtype
        Precision of the network.
    """

    table: torch.Tensor

    def __init__(
        self, convolution: Convolution, table: RadialTable, ntypes: int, r_max: float, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.convolution = convolution
        self.kinds, self.nodes = table.values.shape[:2]
        rows = table.values.flatten(0, 1).transpose(1, 2)
        self.register_buffer("table", rows.contiguous().to(dtype))
        self.ntypes, self.r_max, self.bend = ntypes, r_max, table.bend

    def forward(
        self, sent: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor, radial: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.convolution.Convolution`; `radial` is found in the table."""
        several = self.kinds > 1
        kind = kinds_of_edges(graph, self.ntypes) if several else torch.zeros_like(graph.edge_index[0])
        distance = graph.edge_vec.square().sum(dim=1).sqrt()
        weights = _Lookup.apply(
            distance, kind * self.nodes, self.table, self.nodes, self.r_max, self.bend, sent.shape[2]
        )  # type: ignore[no-untyped-call]
        conv = self.convolution
        if graph.mode != "exported":
            return conv(sent, graph, harmonics, torch.cat(weights, dim=1))
        assert graph.chunk_nodes is not None
        assert graph.chunk_widths is not None
        # An exported graph has one chunk: the weights of the paths stay apart, and so do their gradients.
        inputs, harmonics = rows_of_senders(sent, graph), without_guard(harmonics, graph)
        sums = conv.in_chunk(inputs, harmonics, weights, graph.chunk_nodes[0], graph.chunk_widths[0])
        return conv.mixed(sums)


class _Lookup(torch.autograd.Function):
    """Quintic Hermite interpolation, each edge at its own place.

    With a derivative of its own, because the one of the differences would keep six rows of the table for every edge.
    """

    @staticmethod
    def forward(
        ctx: Any,
        distance: torch.Tensor,
        first: torch.Tensor,
        table: torch.Tensor,
        nodes: int,
        r_max: float,
        bend: float,
        channels: int,
    ) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(distance, first, table)
        ctx.nodes, ctx.r_max, ctx.bend, ctx.channels = nodes, r_max, bend, channels
        t, row, _ = _place(distance, first, nodes, r_max, bend)
        factors = [torch.ones_like(t), *value_factors(t)]
        # Beyond the cutoff the factors vanish, not the result: the compiled graph would keep both.
        within = ~(distance >= r_max)
        factors = [(factor * within).to(table.dtype).unsqueeze(1) for factor in factors]
        weights = []
        for path in torch.split(table, channels, dim=2):
            columns = _columns(path, row)
            value = factors[0] * columns[0]
            for factor, column in zip(factors[1:], columns[1:], strict=True):
                value = value + factor * column
            # A view with strides makes TorchInductor store it; else it derives it anew for every component.
            weights.append(value.as_strided(value.shape, (channels, 1)))
        return tuple(weights)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        distance, first, table = ctx.saved_tensors
        t, row, per_angstrom = _place(distance, first, ctx.nodes, ctx.r_max, ctx.bend)
        factors = slope_factors(t)
        slope = torch.zeros_like(distance)
        for path, gradient in zip(torch.split(table, ctx.channels, dim=2), gradients, strict=True):
            # Sums first: the compiled graph would keep what is summed if it read more tensors than these.
            for factor, column in zip(factors, _columns(path, row)[1:], strict=True):
                slope = slope + factor * (gradient * column).sum(dim=1).to(distance.dtype)
        return torch.where(distance >= ctx.r_max, 0.0, slope * per_angstrom), *[None] * 6


def _place(
    distance: torch.Tensor, first: torch.Tensor, nodes: int, r_max: float, bend: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Place between two nodes, row of the first of them, and nodes per Å there."""
    scale = (nodes - 1) / r_max * (1.0 + bend * r_max)
    nearness = 1.0 / (1.0 + bend * distance)
    place = scale * distance * nearness
    # A distance that is not a number has some row, and weights that are not numbers.
    bins = place.to(torch.int64).clamp(0, nodes - 2)
    return place - bins, first + bins, scale * nearness**2


def _columns(table: torch.Tensor, row: torch.Tensor) -> list[torch.Tensor]:
    """Value, slope, curvature and difference at the first node, slope and curvature at the second."""
    after = row + 1
    return [*(table[row, k] for k in range(4)), table[after, 1], table[after, 2]]


class Tables:
    """Radial tables of a model, in place of its radial networks.

    Parameters
    ----------
    tables : list[RadialTable]
        Of all layers.
    """

    # Whether its modules go through the edges of a receiver by `order` and `begin` of a graph.
    reads_lists = False

    def __init__(self, tables: list[RadialTable]) -> None:
        self.tables = tables

    def description(self) -> dict[str, Any]:
        """What a frozen file says about its tables; plain values."""
        return {"tables": [table.description() for table in self.tables]}

    @contextlib.contextmanager
    def installed(self, energy_model: Any) -> Iterator[None]:
        """Let a network with the same weights read the tables, without derivatives with respect to the weights."""
        swaps: list[tuple[Any, str, torch.nn.Module]] = []
        for interaction, table in zip(energy_model.interactions, self.tables, strict=True):
            convolution = TabulatedConvolution(
                interaction.conv_tp, table, energy_model.ntypes, energy_model.r_max, energy_model.dtype
            )
            swaps += [(interaction, "conv_tp", convolution), (interaction, "conv_tp_weights", Nothing())]
        with swapped_in(energy_model, swaps):
            yield
