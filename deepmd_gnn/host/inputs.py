"""From the host's tensors to a graph, with checks of what a user can get wrong."""

from typing import Final

import torch

from deepmd_gnn.config.mm_types import mm_pairs
from deepmd_gnn.config.options import exclusion_tables
from deepmd_gnn.graph.arrangement import for_training_kernels, in_chunks
from deepmd_gnn.graph.atom_graph import AtomGraph, with_charged_pairs
from deepmd_gnn.graph.builders import drop_pairs, graph_from_list, make_graph, sorted_by_receiver
from deepmd_gnn.graph.input_checks import check_cells, check_coordinates, check_types
from deepmd_gnn.graph.list_checks import ListCheck
from deepmd_gnn.graph.neighbor_search import NeighborPairs
from deepmd_gnn.kernels.triton.support import works_on


class GraphBuilder(torch.nn.Module):
    """Makes the graphs of a model from frames and from neighbour lists; a module without tensors, for TorchScript.

    Parameters
    ----------
    type_map : list[str]
        Names of the types.
    r_max : float
        Cutoff in Å.
    nlayers : int
        Interactions; with one, no ghost needs features of its owner.
    slots : int
        Edges of a chunk, see :func:`~deepmd_gnn.graph.arrangement.slots_per_chunk`.
    pair_exclude_types : list[list[int]]
        Pairs of types that do not see each other, besides pairs of MM types. Lists, not buffers: they belong to the
        input, and a checkpoint shall not bring others along.
    coulomb_cutoff : float
        Of the pairs of charges, Å; 0 if the network reads none.
    """

    excludes_pairs: Final[bool]

    def __init__(
        self,
        type_map: list[str],
        r_max: float,
        nlayers: int,
        slots: int,
        pair_exclude_types: list[list[int]],
        coulomb_cutoff: float = 0.0,
    ) -> None:
        super().__init__()
        pairs = pair_exclude_types + mm_pairs(type_map)
        self.type_map = type_map
        self.r_max = r_max
        self.nlayers = nlayers
        self.slots = slots
        self.excludes_pairs = bool(pairs)
        self.pair_allowed, _ = exclusion_tables(len(type_map), pairs, [])
        self.pairs = NeighborPairs(r_max)
        self.coulomb_cutoff = coulomb_cutoff
        self.far_pairs = NeighborPairs(max(coulomb_cutoff, r_max))
        self.lists = ListCheck(r_max, self.pair_allowed)
        # Whether edges are not arranged for sums in torch, but for generated kernels.
        self.for_kernels = False

    def of_frames(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None,
        trains_with_kernels: bool = False,
    ) -> AtomGraph:
        """Build the graph of whole frames, see :meth:`without_charges`; with pairs of charges if the network reads them."""
        graph = self.without_charges(coord, atype, box, trains_with_kernels)
        if self.coulomb_cutoff == 0.0:
            return graph
        nf, nloc = atype.shape
        position = coord.reshape(nf, nloc, 3).to(torch.float64)
        if box is not None:
            box = box.reshape(nf, 3, 3).to(device=coord.device, dtype=torch.float64)
        center, neighbor, vectors = self.far_pairs(position, atype, box)
        atoms = torch.stack([neighbor, center])
        return with_charged_pairs(graph, atoms, vectors, atoms, atype.reshape(-1) >= 0)

    def without_charges(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None,
        trains_with_kernels: bool = False,
    ) -> AtomGraph:
        """Build the graph of whole frames; neighbours are found here.

        Parameters
        ----------
        coord : torch.Tensor
            Å, shape (nf, nloc, 3) or (nf, nloc * 3).
        atype : torch.Tensor
            Types, shape (nf, nloc); −1 marks padding.
        box : torch.Tensor, optional
            Cells, Å, shape (nf, 9) or (nf, 3, 3); None for free boundaries.
        trains_with_kernels : bool
            Whether edges are not arranged for this model's network, but for the kernels of training.

        Returns
        -------
        AtomGraph

        Raises
        ------
        ValueError
            If coordinates, cell or types are invalid, or atoms coincide.
        """
        nf, nloc = atype.shape
        coord = coord.reshape(nf, nloc, 3).to(torch.float64)
        if box is not None:
            box = box.reshape(nf, 3, 3).to(device=coord.device, dtype=torch.float64)
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            found = self.on_gpu(coord, atype, box)
            if found is not None and trains_with_kernels:
                return for_training_kernels(found, False)
            if found is not None:
                return found if self.for_kernels else in_chunks(found, self.slots)
        check_types(atype, self.type_map)
        check_coordinates(coord)
        if box is not None:
            check_cells(box)
        center, neighbor, edge_vec = self.pairs(coord, atype, box)
        types = atype.reshape(-1)
        graph = make_graph(
            types, types, neighbor, center, edge_vec, torch.stack([neighbor, center]), self.r_max
        )
        graph = self.without_excluded_pairs(graph)
        return for_training_kernels(graph, False) if trains_with_kernels else self.arranged(graph)

    @torch.jit.unused
    def on_gpu(self, coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None) -> AtomGraph | None:
        """:meth:`without_charges` on a GPU; None elsewhere, and for bad input, about which torch code says more."""
        if not works_on(coord.device):
            return None
        from deepmd_gnn.kernels.triton.graphs import graph_on_device  # not everybody has Triton

        allowed = None
        if self.excludes_pairs:  # through pinned memory, for which the host need not wait
            table = torch.tensor(self.pair_allowed, dtype=torch.bool, pin_memory=coord.is_cuda)
            allowed = table.to(coord.device, non_blocking=True)
        return graph_on_device(coord, atype.to(torch.int64), box, self.r_max, len(self.type_map), allowed)

    def of_list(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: torch.Tensor | None,
        exchanged: bool,
    ) -> AtomGraph:
        """Build the graph of extended atoms from the host's list, not yet arranged.

        Parameters
        ----------
        coord : torch.Tensor
            Å, float64, shape (nf, nall, 3), owned atoms first.
        atype : torch.Tensor
            Shape (nf, nall).
        nlist : torch.Tensor
            Shape (nf, nloc, nnei), −1 where empty.
        mapping : torch.Tensor, optional
            Owner of each extended atom, shape (nf, nall).
        exchanged : bool
            Whether ranks exchange features.

        Returns
        -------
        AtomGraph
            With pairs that the model excludes itself.

        Raises
        ------
        ValueError
            If coordinates, types, list or mapping are invalid, or atoms coincide.
        """
        nf, nall = atype.shape
        check_types(atype, self.type_map)
        # With an exchange, or with one layer that needs none, `mapping` is not read: in DeePMD-kit's C++
        # interface on the CPU it then points to freed memory. (For a GPU it has been copied.)
        if exchanged and nf != 1:
            raise ValueError("mace model: communication tensors need exactly one frame.")
        if exchanged or (self.nlayers == 1 and nf == 1 and self.coulomb_cutoff == 0.0):
            mapping = None
        elif mapping is None and nall > nlist.shape[1]:
            raise ValueError(
                "mace model: ghost atoms need a mapping to their owners or communication tensors; neither was given."
            )
        check_coordinates(coord)
        self.lists.check_indices(nlist, mapping, nall)
        return graph_from_list(coord, atype, nlist, mapping, self.r_max)

    def with_charges_of_list(
        self,
        graph: AtomGraph,
        coord: torch.Tensor,
        atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: torch.Tensor | None,
        exchanged: bool,
    ) -> AtomGraph:
        """Add the pairs of charges to a graph of :meth:`of_list`, whose arguments these are, if the network reads any."""
        if self.coulomb_cutoff == 0.0:
            return graph
        owners = None if exchanged else mapping
        far = graph_from_list(coord, atype, nlist, owners, self.coulomb_cutoff)
        present = atype[:, : nlist.shape[1]].reshape(-1) >= 0
        return with_charged_pairs(
            graph, far.edge_index[:, 1:] - 1, far.edge_vec[1:], far.edge_atoms[:, 1:] - 1, present
        )

    def without_excluded_pairs(self, graph: AtomGraph) -> AtomGraph:
        """Drop the edges between types that do not see each other."""
        allowed = self.allowed_pairs(graph.edge_vec.device)
        return graph if allowed is None else drop_pairs(graph, allowed)

    def allowed_pairs(self, device: torch.device) -> torch.Tensor | None:
        """Which types see each other, bool, shape (ntypes, ntypes); None if all do."""
        if self.excludes_pairs:
            return torch.tensor(self.pair_allowed, dtype=torch.bool, device=device)
        return None

    def arranged(self, graph: AtomGraph) -> AtomGraph:
        """Arrange the edges as this model's network reads them."""
        return sorted_by_receiver(graph) if self.for_kernels else in_chunks(graph, self.slots)

    def lone_atoms(self, device: torch.device) -> AtomGraph:
        """One atom of each type, without neighbours; not yet arranged."""
        types = torch.arange(len(self.type_map), device=device)
        none = types[:0]
        vectors = torch.zeros(0, 3, dtype=torch.float64, device=device)
        return make_graph(types, types, none, none, vectors, torch.stack([none, none]), self.r_max)

    def without_pairs(self, graph: AtomGraph) -> AtomGraph:
        """Say of an arranged graph of :meth:`lone_atoms` that there are no pairs of charges, if the network reads any."""
        if self.coulomb_cutoff == 0.0:
            return graph
        vectors = torch.zeros(0, 3, dtype=torch.float64, device=graph.edge_vec.device)
        none = graph.edge_index[:, :0]
        return with_charged_pairs(graph, none, vectors, none, graph.node_types[1:] >= 0)
