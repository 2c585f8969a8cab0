"""Repeated evaluation of systems of one size as a CUDA graph: one launch instead of some hundred.

What is launched does not depend on the number of edges but by the sizes of arrays, so that the arrays of edges have room for
more: the kernels stop at the last receiver's last edge, and edges behind it have a gradient of zero.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels.triton.captures import aside, on_current_device, record

log = logging.getLogger("deepmd.deepmd_gnn")
Result = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
# Larger systems keep the GPU busy without.
MOST_NODES = 16384
# A captured graph keeps its memory, some bytes for each atom: from so many atoms on only where so many times that is free.
CHEAP_NODES, BYTES_OF_NODE, FREE = 4096, 100_000, 10
# Evaluations of a size before it is captured, sizes that are kept, and room for more edges.
BEFORE_CAPTURE, KEPT, ROOM = 2, 4, 1.15


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: AtomGraph
    atype: torch.Tensor
    result: Result


class Replay:
    """Evaluate graphs, from the third one of a size on by replaying a captured evaluation.

    Parameters
    ----------
    evaluate : Callable
        From a graph, the types of the atoms, shape (nf, nloc), and the numbers of atoms and output rows per frame to
        energies, forces and virials of atoms; it must not ask the device for a number.
    """

    def __init__(self, evaluate: Callable[[AtomGraph, torch.Tensor, int, int], Result]) -> None:
        self.evaluate = evaluate
        self.captured: OrderedDict[tuple[int, ...], _Captured] = OrderedDict()
        self.seen: dict[tuple[int, ...], int] = {}
        self.works = True

    def __call__(self, graph: AtomGraph, atype: torch.Tensor, nloc: int, nall: int) -> Result:
        """Evaluate a graph.

        Parameters
        ----------
        graph : AtomGraph
            For generated kernels, with `order` and `begin`.
        atype : torch.Tensor
            Types of the atoms, shape (nf, nloc).
        nloc, nall : int
            Atoms and output rows per frame.

        Returns
        -------
        energy, force, atom_virial : torch.Tensor
            eV, eV/Å and eV, shapes (nf, nloc, 1), (nf, nall, 3) and (nf, nall, 9).
        """
        size = (*atype.shape, nloc, nall)
        if not self.works or graph.node_types.shape[0] > MOST_NODES or not on_current_device(graph.edge_vec):
            return self.evaluate(graph, atype, nloc, nall)
        captured = self.captured.get(size)
        if captured is not None and captured.inputs.edge_vec.shape[0] >= graph.edge_vec.shape[0]:
            self.captured.move_to_end(size)
            return self._replay(captured, graph, atype)
        self.seen[size] = self.seen.get(size, 0) + 1
        if self.seen[size] <= BEFORE_CAPTURE or not _affordable(graph.node_types.shape[0]):
            return self.evaluate(graph, atype, nloc, nall)
        try:
            self._capture(size, graph, atype, nloc, nall)
        except RuntimeError as error:  # out of memory, or something that cannot be captured
            self.works = False
            self.captured.clear()
            log.info("mace model: evaluations are not captured as a CUDA graph: %s", error)
            return self.evaluate(graph, atype, nloc, nall)
        return self._replay(self.captured[size], graph, atype)

    def _capture(
        self, size: tuple[int, ...], graph: AtomGraph, atype: torch.Tensor, nloc: int, nall: int
    ) -> None:
        self.captured.pop(size, None)
        while len(self.captured) >= KEPT:
            self.captured.popitem(last=False)
        nedge = int(graph.edge_vec.shape[0] * ROOM) + 1024
        inputs = with_room(graph, nedge)
        types = atype.clone()
        aside(lambda: self.evaluate(inputs, types, nloc, nall))
        captured, result = record(lambda: self.evaluate(inputs, types, nloc, nall))
        self.captured[size] = _Captured(captured, inputs, types, result)

    def _replay(self, captured: _Captured, graph: AtomGraph, atype: torch.Tensor) -> Result:
        captured.atype.copy_(atype)
        filled(captured.inputs, graph)
        captured.graph.replay()
        return tuple(value.clone() for value in captured.result)  # type: ignore[return-value]


def _affordable(nnode: int) -> bool:
    """Whether the memory of a captured evaluation will not be missed."""
    return nnode <= CHEAP_NODES or torch.cuda.mem_get_info()[0] > FREE * BYTES_OF_NODE * nnode


def filled(inputs: AtomGraph, graph: AtomGraph) -> None:
    """Copy a graph into arrays that :func:`with_room` has made; what is left of a larger one would be counted where edges are summed."""
    inputs.node_types.copy_(graph.node_types)
    if inputs.sender_types is not inputs.node_types:
        inputs.sender_types.copy_(graph.sender_types)
    _filled(inputs.edge_index.t(), graph.edge_index.t())
    _filled(inputs.edge_vec, graph.edge_vec.detach())
    if inputs.edge_atoms is not inputs.edge_index:
        _filled(inputs.edge_atoms.t(), graph.edge_atoms.t())
    assert graph.order is not None
    assert graph.begin is not None
    assert inputs.order is not None
    assert inputs.begin is not None
    inputs.order[: graph.order.shape[0]].copy_(graph.order)
    inputs.begin.copy_(graph.begin)


def _filled(rows: torch.Tensor, edges: torch.Tensor) -> None:
    """Copy rows of edges, and the guard's, which come first, into the room behind them; shapes (·, n) and (nedge, n)."""
    rows[: edges.shape[0]].copy_(edges)
    rows[edges.shape[0] :].copy_(edges[:1].expand(rows.shape[0] - edges.shape[0], -1))


def with_room(graph: AtomGraph, nedge: int) -> AtomGraph:
    """Copy a graph into arrays with room for more edges; those in the room are copies of the guard's."""
    room = nedge - graph.edge_vec.shape[0]

    def longer(values: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat([values, values.narrow(dim, 0, 1).repeat_interleave(room, dim)], dim)

    assert graph.order is not None
    assert graph.begin is not None
    types = graph.node_types.clone()
    index = longer(graph.edge_index, 1)
    order = torch.nn.functional.pad(graph.order, (0, nedge - graph.order.shape[0]))
    return AtomGraph(
        types,
        types if graph.sender_types is graph.node_types else graph.sender_types.clone(),
        index,
        longer(graph.edge_vec.detach(), 0),
        index if graph.edge_atoms is graph.edge_index else longer(graph.edge_atoms, 1),
        graph.mode,
        order=order,
        begin=graph.begin.clone(),
    )
