"""Neighbour search on a GPU: the edges that :class:`~deepmd_gnn.graph.neighbor_search.NeighborPairs` finds, in a few launches.

The host waits for the device once, to learn how many edges there are and whether the input is sound.
"""

from typing import Any, NamedTuple

import torch

from deepmd_gnn.graph.builders import guard_distance
from deepmd_gnn.graph.neighbor_search import NeighborPairs
from deepmd_gnn.kernels.triton import neighbor_kernels

# Bins of a frame, at least: an empty bin costs less than looking at atoms that are too far away.
_FEWEST_BINS = 64
# Atoms or counters that one program goes through, and candidates that an atom looks at together.
_BLOCK, _CANDIDATES = 128, 64
# The two passes over the pairs must round alike: a compiler may not fuse multiplications and additions as it likes.
_OPTIONS: dict[str, Any] = {"num_warps": 1, "enable_fp_fusion": False}


class DeviceEdges(NamedTuple):
    """Edges of all frames sorted by receiver, the guard's in front; the same order in every call."""

    node_types: torch.Tensor
    """Type of each node, int64, shape (natom + 1,)."""
    begin: torch.Tensor
    """Where the edges of each node begin, and where the last ones end, int64, shape (natom + 2,)."""
    edge_index: torch.Tensor
    """Nodes of neighbour and centre, int64, shape (2, nedge)."""
    edge_vec: torch.Tensor
    """Position of the neighbour minus position of the centre, Å, float64, shape (nedge, 3)."""
    order: torch.Tensor
    """0, 1, 2, …: the edges are in order; int64, shape (nedge,)."""
    shift: torch.Tensor | None
    """If asked for: cells between the two atoms as they were given, float64, shape (nedge, 3), nothing for the guard."""


class _Sorted(NamedTuple):
    """Atoms in bins; see :mod:`~deepmd_gnn.kernels.triton.neighbor_kernels`."""

    cells: torch.Tensor
    bins: torch.Tensor
    start: torch.Tensor
    bin_of: torch.Tensor
    member: torch.Tensor
    record: torch.Tensor
    degree: torch.Tensor
    node_types: torch.Tensor
    room: int


def find_edges(
    coord: torch.Tensor,
    atype: torch.Tensor,
    box: torch.Tensor | None,
    r_max: float,
    ntypes: int,
    allowed: torch.Tensor | None = None,
    shifts: bool = False,
) -> DeviceEdges | None:
    """Search a batch of frames.

    Parameters
    ----------
    coord : torch.Tensor
        Å, float64, shape (nf, nloc, 3), contiguous; need not be wrapped into the cell.
    atype : torch.Tensor
        int64, shape (nf, nloc), contiguous; atoms of type < 0 have no edges.
    box : torch.Tensor, optional
        Cell vectors as rows, Å, float64, shape (nf, 3, 3), contiguous; None for free boundaries.
    r_max : float
        Cutoff in Å.
    ntypes : int
        Number of types.
    allowed : torch.Tensor, optional
        Which types see each other, bool, shape (ntypes, ntypes), contiguous; None: all of them.
    shifts : bool
        Whether to return the cells between the atoms, for derivatives with respect to the box.

    Returns
    -------
    DeviceEdges or None
        None if there is something wrong with the input: a number that is not finite, a degenerate cell, atoms at the
        same place, a type that does not exist. :class:`~deepmd_gnn.graph.neighbor_search.NeighborPairs` says what it is.
    """
    natom = atype.numel()
    with torch.cuda.device_of(coord):  # type: ignore[no-untyped-call]
        frames = _sort_into_bins(coord, atype, box, r_max, ntypes)
        search = (atype, frames, box is not None, r_max, ntypes, allowed)
        _go_through_pairs(*search, None)
        begin = frames.degree.cumsum(0)
        nedge, *_, with_problems = begin[natom + 1 :].tolist()  # the host waits here
        if with_problems > nedge:
            return None
        edges = DeviceEdges(
            frames.node_types,
            begin[: natom + 2],
            atype.new_empty(2, nedge),
            coord.new_empty(nedge, 3),
            atype.new_empty(nedge),
            coord.new_empty(nedge, 3) if shifts else None,
        )
        _go_through_pairs(*search, edges)
    return edges


def bins_per_frame(nloc: int) -> tuple[int, int]:
    """How many bins a frame may have in all, and how many along every direction whatever its cell."""
    room = max(_FEWEST_BINS, nloc)
    side = int(room ** (1 / 3)) + 1
    return room, side if side**3 <= room else side - 1


def _programs(items: int) -> tuple[int]:
    """Grid of programs that go through so many items."""
    return (-(-items // _BLOCK),)


def _sort_into_bins(
    coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None, r_max: float, ntypes: int
) -> _Sorted:
    (nf, nloc), natom = atype.shape, atype.numel()
    room, side = bins_per_frame(nloc)
    nheld = nf * room + 1
    cells, home, record = coord.new_empty(nf, 18), coord.new_empty(natom, 3), coord.new_empty(6, natom)
    bins = atype.new_empty(nf, 6, dtype=torch.int32)
    held, degree, node_types = (atype.new_empty(size) for size in (nheld, natom + 3 + nf, natom + 1))
    bin_of, slot, arrived, member = (atype.new_empty(natom) for _ in range(4))
    neighbor_kernels.prepare[_programs(max(nheld, natom + 3))](
        box, cells, bins, held, degree, node_types, nf, natom, nheld, side, room,
        R_MAX=r_max, THINNEST=NeighborPairs.min_height * r_max, BLOCK=_BLOCK, **_OPTIONS,
    )  # fmt: skip
    neighbor_kernels.assign[_programs(natom)](
        coord, atype, cells, bins, held, degree, bin_of, slot, home, node_types, natom, nloc, ntypes, room,
        BLOCK=_BLOCK, **_OPTIONS,
    )  # fmt: skip
    start = held.cumsum(0)
    neighbor_kernels.arrive[_programs(natom)](start, bin_of, slot, arrived, natom, BLOCK=_BLOCK, **_OPTIONS)
    neighbor_kernels.arrange[_programs(natom)](
        coord, home, start, bin_of, arrived, member, record, natom, BLOCK=_BLOCK, **_OPTIONS
    )
    return _Sorted(cells, bins, start, bin_of, member, record, degree, node_types, room)


def _go_through_pairs(
    atype: torch.Tensor,
    frames: _Sorted,
    periodic: bool,
    r_max: float,
    ntypes: int,
    allowed: torch.Tensor | None,
    edges: DeviceEdges | None,
) -> None:
    """Count the edges, or write them if there are arrays for them; the program in front writes the guard's."""
    natom, nloc = atype.numel(), atype.shape[1]
    begin, index, vectors, order, shift = edges[1:] if edges else (None,) * 5
    neighbor_kernels.pairs[(natom + 1,)](
        atype, frames.cells, frames.bins, frames.start, frames.bin_of, frames.member, frames.record, allowed,
        frames.degree, begin, index, vectors, order, shift,
        natom, nloc, ntypes, frames.room, frames.start.numel() - 1, edges.order.numel() if edges else 0,
        R_MAX=r_max, GUARD=guard_distance(r_max), PERIODIC=periodic, FILL=edges is not None, BLOCK=_CANDIDATES,
        **_OPTIONS,
    )  # fmt: skip
