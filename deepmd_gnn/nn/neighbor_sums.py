"""Sums over neighbours of harmonics, radial weights and features.

Eager and scripted code loops over chunks of receivers. A compiled training graph cannot hold a loop whose length depends on
the data: there the sum is an operator, which the compiler does not look into. Its derivatives are in
:mod:`~deepmd_gnn.nn.neighbor_gradients`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch

from deepmd_gnn.graph.arrangement import chunks_of


def sums_of_chunk(
    inputs: torch.Tensor,
    harmonics: torch.Tensor,
    weights: list[torch.Tensor],
    nodes: int,
    width: int,
    dims: list[int],
    irreps: list[int],
    degrees: list[tuple[int, int]],
) -> torch.Tensor:
    """Sum over the neighbours of the receivers of a chunk.

    Parameters
    ----------
    inputs : torch.Tensor
        Features of the sender of every edge, shape (nodes * width, components, channels).
    harmonics : torch.Tensor
        Spherical harmonics, shape (nodes * width, ·).
    weights : list[torch.Tensor]
        Radial weights of each path, shape (nodes * width, channels).
    nodes, width : int
        Receivers, and edges of each.
    dims : list[int]
        Components of each irrep of the features.
    irreps : list[int]
        Irrep of the features of each path.
    degrees : list[tuple[int, int]]
        First and one after the last harmonic of each path.

    Returns
    -------
    torch.Tensor
        Shape (nodes, Σ_p m * d, channels).
    """
    channels = inputs.shape[2]
    factors = harmonics.view(nodes, width, harmonics.shape[1]).transpose(1, 2)
    features = torch.split(inputs, dims, dim=1)
    parts: list[torch.Tensor] = []
    for irrep, weight, degree in zip(irreps, weights, degrees):  # noqa: B905 - TorchScript
        feature = features[irrep]
        size = feature.shape[1] * channels
        product = (feature * weight.unsqueeze(1)).view(nodes, width, size)
        total = torch.bmm(factors[:, degree[0] : degree[1]], product)
        parts.append(total.view(nodes, (degree[1] - degree[0]) * feature.shape[1], channels))
    return torch.cat(parts, dim=1)


class Path(NamedTuple):
    """Where a path is in the arrays of a chunk."""

    features: slice
    """Components of the features."""
    harmonics: slice
    sums: slice
    """Rows of the sums, harmonics times components."""


def paths_of(shape: list[int]) -> list[Path]:
    """Read the paths from the operators' flat list: components of the irreps, −1, then irrep, first and last harmonic."""
    end = shape.index(-1)
    first = [sum(shape[:irrep]) for irrep in range(end)]
    paths = []
    row = 0
    for place in range(end + 1, len(shape), 3):
        irrep, low, high = shape[place : place + 3]
        size = (high - low) * shape[irrep]
        paths.append(
            Path(
                slice(first[irrep], first[irrep] + shape[irrep]),
                slice(low, high),
                slice(row, row + size),
            )
        )
        row += size
    return paths


def shape_of_paths(dims: list[int], irreps: list[int], degrees: list[tuple[int, int]]) -> list[int]:
    """Arguments of :func:`sums_of_chunk` as the flat list that operators take."""
    flat = [*dims, -1]
    for irrep, degree in zip(irreps, degrees, strict=True):
        flat += [irrep, *degree]
    return flat


def _height(shape: list[int]) -> int:
    return paths_of(shape)[-1].sums.stop


class Chunk(NamedTuple):
    """Receivers and edges of a chunk, and how many edges each receiver has."""

    nodes: slice
    edges: slice
    number: int
    width: int


def chunks(table: torch.Tensor) -> Iterator[Chunk]:
    """Go through the chunks of :func:`~deepmd_gnn.graph.arrangement.arrange_in_chunks`."""
    node = edge = 0
    for number, width in zip(*chunks_of(table), strict=True):
        size = number * width
        yield Chunk(slice(node, node + number), slice(edge, edge + size), number, width)
        node, edge = node + number, edge + size


@torch.library.custom_op("deepmd_gnn::neighbor_sums", mutates_args=())
def neighbor_sums(
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    radial: torch.Tensor,
    sender: torch.Tensor,
    table: torch.Tensor,
    shape: list[int],
) -> torch.Tensor:
    """Sum over the neighbours of all receivers.

    Parameters
    ----------
    sent : torch.Tensor
        Features of the senders, shape (nsender, components, channels).
    harmonics : torch.Tensor
        Spherical harmonics at the places of :func:`~deepmd_gnn.graph.arrangement.arrange_in_chunks`, shape (nedge, ·).
    radial : torch.Tensor
        Radial weights, shape (npath, nedge, channels).
    sender : torch.Tensor
        Sender of each edge, int64, shape (nedge,).
    table : torch.Tensor
        Chunks, shape (nnode,).
    shape : list[int]
        From :func:`shape_of_paths`.

    Returns
    -------
    torch.Tensor
        Shape (nnode, ·, channels), in the order of the sorted receivers.
    """
    end = shape.index(-1)
    dims, irreps = shape[:end], shape[end + 1 :: 3]
    degrees = list(zip(shape[end + 2 :: 3], shape[end + 3 :: 3], strict=True))
    out = sent.new_empty(table.shape[0], _height(shape), sent.shape[2])
    for chunk in chunks(table):
        inputs = sent.index_select(0, sender[chunk.edges])
        out[chunk.nodes] = sums_of_chunk(
            inputs,
            harmonics[chunk.edges],
            list(radial[:, chunk.edges].unbind()),
            chunk.number,
            chunk.width,
            dims,
            irreps,
            degrees,
        )
    return out


@neighbor_sums.register_fake
def _(
    sent: torch.Tensor,
    harmonics: torch.Tensor,
    radial: torch.Tensor,
    sender: torch.Tensor,
    table: torch.Tensor,
    shape: list[int],
) -> torch.Tensor:
    return sent.new_empty(table.shape[0], _height(shape), sent.shape[2])
