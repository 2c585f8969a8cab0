"""From the host's tensors to the graph of a MACE model, with checks of what a user can get wrong."""

from typing import TYPE_CHECKING

import torch

from deepmd_gnn.config.mm_types import mm_pairs
from deepmd_gnn.config.options import exclusion_tables
from deepmd_gnn.graph.arrangement import in_chunks
from deepmd_gnn.graph.atom_graph import AtomGraph, drop_pairs, graph_from_list, make_graph, sorted_by_receiver
from deepmd_gnn.graph.input_checks import check_cells, check_coordinates, check_types
from deepmd_gnn.graph.list_checks import ListCheckMixin
from deepmd_gnn.graph.neighbor_search import NeighborPairs
from deepmd_gnn.kernels.triton.support import works_on


class GraphMixin(ListCheckMixin):
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that builds graphs."""

    if TYPE_CHECKING:
        type_map: list[str]
        rcut: float
        nlayers: int
        slots: int
        launches_kernels: bool
        pairs: NeighborPairs
        excludes_pairs: bool
        excludes_atoms: bool
        pair_allowed: list[list[bool]]
        atom_counts: list[bool]
        pair_exclude_types: list[list[int]]
        atom_exclude_types: list[int]

    def set_exclusions(self) -> None:
        """Tabulate the pairs of types that do not see each other, and the types without energy.

        Lists, not buffers: they belong to the input, and a checkpoint shall not bring others along.
        """
        pairs = self.pair_exclude_types + mm_pairs(self.type_map)
        self.pair_allowed, self.atom_counts = exclusion_tables(
            len(self.type_map), pairs, self.atom_exclude_types
        )
        self.excludes_pairs = bool(pairs)
        self.excludes_atoms = bool(self.atom_exclude_types)

    def graph_of_frames(
        self, coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None, chunked: bool = True
    ) -> AtomGraph:
        """Graph of whole frames, neighbours found here; see :meth:`forward` for the arguments.

        Without `chunked` the edges are not arranged for sums in torch but have `order` and `begin`.
        """
        nf, nloc = atype.shape
        coord = coord.reshape(nf, nloc, 3).to(torch.float64)
        if box is not None:
            box = box.reshape(nf, 3, 3).to(device=coord.device, dtype=torch.float64)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            found = self.graph_on_gpu(coord, atype, box)
            if found is not None:
                return in_chunks(found, self.slots) if chunked else found
        check_types(atype, self.type_map)
        check_coordinates(coord)
        if box is not None:
            check_cells(box)
        center, neighbor, edge_vec = self.pairs(coord, atype, box)
        types = atype.reshape(-1)
        graph = make_graph(
            types, types, neighbor, center, edge_vec, torch.stack([neighbor, center]), self.rcut
        )
        graph = self.without_excluded_pairs(graph)
        return in_chunks(graph, self.slots) if chunked else sorted_by_receiver(graph)

    @torch.jit.unused
    def graph_on_gpu(
        self, coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None
    ) -> AtomGraph | None:
        """Graph of whole frames on a GPU; None elsewhere and for bad input, about which the code in torch says more."""
        if not works_on(coord.device):
            return None
        from deepmd_gnn.kernels.triton.graphs import graph_on_device  # not everybody has Triton

        allowed = None
        if self.excludes_pairs:  # through pinned memory, for which the host need not wait
            table = torch.tensor(self.pair_allowed, dtype=torch.bool, pin_memory=coord.is_cuda)
            allowed = table.to(coord.device, non_blocking=True)
        return graph_on_device(coord, atype.to(torch.int64), box, self.rcut, len(self.type_map), allowed)

    def graph_of_list(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: torch.Tensor | None,
        exchanged: bool,
    ) -> AtomGraph:
        """Graph of extended atoms from the host's list; see :meth:`forward_common_lower` for the arguments."""
        nf, nall = atype.shape
        check_types(atype, self.type_map)
        # With an exchange, or with one layer that needs none, `mapping` is not read: in DeePMD-kit's C++
        # interface on the CPU it then points to freed memory.
        if exchanged and nf != 1:
            raise ValueError("mace model: communication tensors need exactly one frame.")
        if exchanged or (self.nlayers == 1 and nf == 1):
            mapping = None
        elif mapping is None and nall > nlist.shape[1]:
            raise ValueError(
                "mace model: ghost atoms need a mapping to their owners or communication tensors; neither was given."
            )
        coord = coord.reshape(nf, nall, 3).to(torch.float64)
        check_coordinates(coord)
        self.check_indices(nlist, mapping, nall)
        graph = graph_from_list(coord, atype, nlist, mapping, self.rcut)
        if nf == 1:  # several frames come from Python, whose lists are whole
            self.check_list(coord, atype, nlist.shape[1], graph)
        graph = self.without_excluded_pairs(graph)
        return sorted_by_receiver(graph) if self.launches_kernels else in_chunks(graph, self.slots)

    def without_excluded_pairs(self, graph: AtomGraph) -> AtomGraph:
        """Drop the edges between types that do not see each other."""
        if self.excludes_pairs:
            allowed = torch.tensor(self.pair_allowed, dtype=torch.bool, device=graph.edge_vec.device)
            graph = drop_pairs(graph, allowed)
        return graph
