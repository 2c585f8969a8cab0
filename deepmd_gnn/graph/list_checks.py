"""Is the host's neighbour list whole? TorchScript compiles this; ``kernels/cpu/input_check.hpp`` does it in a ``.pt2``.

LAMMPS takes pairs out of the list for reasons of force fields, and hands it over without a word. The energy is then that
of another substance.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from deepmd_gnn.graph.arrangement import in_chunks
from deepmd_gnn.graph.atom_graph import AtomGraph, make_graph
from deepmd_gnn.graph.neighbor_search import NeighborPairs


class ListCheckMixin:
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that compares a list with the positions.

    At the first evaluation, whenever the number of owned atoms changes, and at every hundredth evaluation, because a
    setting may change between two runs of a script: the search costs a few per cent of an evaluation.
    """

    if TYPE_CHECKING:
        rcut: float
        slots: int
        type_map: list[str]
        pairs: NeighborPairs
        pair_allowed: list[list[bool]]
        out_bias: torch.Tensor
        atom_energies: Callable[..., torch.Tensor]

    # Of the list that was compared last: owned atoms, and evaluations since.
    listed_atoms: int
    list_age: int

    def check_indices(self, nlist: torch.Tensor, mapping: torch.Tensor | None, nall: int) -> None:
        """Refuse a list or a mapping that names atoms which are not there.

        Parameters
        ----------
        nlist : torch.Tensor
            Neighbours of the owned atoms, < 0 where empty, shape (nf, nloc, nnei).
        mapping : torch.Tensor, optional
            Owner of each extended atom, shape (nf, nall).
        nall : int
            Atoms of a frame, ghosts included.

        Raises
        ------
        ValueError
            If an index is out of range.
        """
        if mapping is not None and mapping.numel() > 0:
            least, greatest = int(mapping.min()), int(mapping.max())
            if least < 0 or greatest >= nlist.shape[1]:
                raise ValueError(
                    f"mace model: the mapping gives owners {least} to {greatest}, but the frame has {nlist.shape[1]} "
                    "owned atoms, counted from 0. Give the owned atom that each atom is an image of."
                )
        if nlist.numel() > 0 and int(nlist.max()) >= nall:
            raise ValueError(
                f"mace model: the neighbour list names atom {int(nlist.max())}, but there are {nall} atoms, ghosts "
                "included, counted from 0. Give indices of these atoms, without the bits of special_bonds."
            )

    def check_list(self, coord: torch.Tensor, atype: torch.Tensor, nloc: int, graph: AtomGraph) -> None:
        """Refuse a list that lacks pairs, if it is time to look.

        Parameters
        ----------
        coord : torch.Tensor
            Extended coordinates, Å, float64, shape (1, nall, 3); owned atoms first.
        atype : torch.Tensor
            Extended types, shape (1, nall).
        nloc : int
            Owned atoms.
        graph : AtomGraph
            Graph of the list, before the model's own exclusions.

        Raises
        ------
        ValueError
            If pairs are missing that the model does not exclude itself. Atoms that the list leaves out altogether
            may be missing if they have no energy of their own: then the rest is as if they were not there, as
            ``fix gcmc`` tries deletions.
        """
        fresh, due = True, True
        # In Python nobody hands over a list at every step, and what is frozen shall begin anew.
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            fresh = nloc != self.listed_atoms
            due = fresh or self.list_age >= 99
            self.list_age = 0 if due else self.list_age + 1
            self.listed_atoms = nloc
        if not due:
            return
        # Pairs that come in just before a cached list is rebuilt weigh next to nothing, and are the host's business.
        reach = self.rcut - 1.0e-3 if fresh else 0.9 * self.rcut
        expected, distance = self.pairs_of_owned(coord[0], atype[0], nloc)
        expected = expected[:, distance < reach]
        listed = graph.edge_atoms - 1  # without the guard in front
        length2 = graph.edge_vec.detach().square().sum(dim=1)
        if int((length2 < reach * reach).sum()) >= expected.shape[1]:
            return
        nall = atype.shape[1]
        there = torch.isin(expected[1] * nall + expected[0], listed[1] * nall + listed[0])
        lacking = expected[:, torch.nonzero(~there).view(-1)]
        seen = torch.zeros(nall, dtype=torch.bool, device=coord.device)
        seen[listed[:, 1:].reshape(-1)] = True
        types = atype[0].clamp(min=0)
        matters = seen | (self.lone_energies()[types].abs() > 1.0e-6)
        allowed = torch.tensor(self.pair_allowed, dtype=torch.bool, device=coord.device)
        wanted = matters[lacking].all(dim=0) & allowed[types[lacking[0]], types[lacking[1]]]
        lacking = lacking[:, torch.nonzero(wanted).view(-1)]
        if lacking.shape[1] > 0:
            first, second = int(lacking[1, 0]), int(lacking[0, 0])
            raise ValueError(
                f"mace model: the neighbour list lacks pairs within the cutoff, such as atoms {first} and {second} of the "
                "rank, counted from 0; the energy would be another substance's. In LAMMPS write special_bonds lj/coul 1 1 1, "
                "remove neigh_modify exclude, and use pair_style hybrid/overlay, not hybrid. fix gcmc and fix evaporate "
                "need atoms with E0 = 0, see docs/lammps.md."
            )

    def pairs_of_owned(
        self, coord: torch.Tensor, atype: torch.Tensor, nloc: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Search the neighbours of the owned atoms among all atoms.

        Parameters
        ----------
        coord : torch.Tensor
            Å, shape (nall, 3).
        atype : torch.Tensor
            Shape (nall,); atoms of type < 0 are no neighbours.
        nloc : int
            Owned atoms.

        Returns
        -------
        pairs : torch.Tensor
            Neighbour and centre, int64, shape (2, npair).
        distance : torch.Tensor
            Å, shape (npair,).
        """
        real = torch.nonzero(atype >= 0).view(-1)
        owned = torch.nonzero(atype[:nloc] >= 0).view(-1)
        at_home = real < nloc
        # The owned ones come first among the real ones, too. A ghost is nobody's own image here.
        source = torch.where(at_home, torch.arange(real.shape[0], device=real.device), 0)
        frame = torch.zeros_like(owned)
        if owned.shape[0] == 0:
            return torch.stack([owned, owned]), coord[:0, 0]
        position = coord.detach()
        center, neighbor = self.pairs.close_pairs(position[owned], position[real], frame, source, at_home)
        pairs = torch.stack([real[neighbor], owned[center]])
        return pairs, torch.linalg.norm(position[pairs[0]] - position[pairs[1]], dim=1)

    def lone_energies(self) -> torch.Tensor:
        """Energy of a lone atom of each type, eV, float64, shape (ntypes,)."""
        types = torch.arange(len(self.type_map), device=self.out_bias.device)
        none = types[:0]
        vectors = torch.zeros(0, 3, dtype=torch.float64, device=types.device)
        graph = make_graph(types, types, none, none, vectors, torch.stack([none, none]), self.rcut)
        return self.atom_energies(in_chunks(graph, self.slots), types, None).detach()
