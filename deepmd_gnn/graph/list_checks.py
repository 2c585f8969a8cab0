"""Is the host's neighbour list whole? TorchScript compiles this; ``kernels/cpu/input_check.hpp`` does it in a ``.pt2``.

LAMMPS takes pairs out of the list for reasons of force fields, and hands it over without a word. The energy is then that
of another substance.
"""

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.neighbor_search import NeighborPairs


class ListCheck(torch.nn.Module):
    """Compares a host's list with the positions.

    At the first evaluation, whenever the number of owned atoms changes, and at every hundredth evaluation, because a
    setting may change between two runs of a script: the search costs a few per cent of an evaluation.

    Parameters
    ----------
    r_max : float
        Cutoff in Å.
    pair_allowed : list[list[bool]]
        Which types see each other.
    """

    # Of the list that was compared last: owned atoms, and evaluations since.
    listed_atoms: int
    list_age: int

    def __init__(self, r_max: float, pair_allowed: list[list[bool]]) -> None:
        super().__init__()
        self.r_max = r_max
        self.pair_allowed = pair_allowed
        self.pairs = NeighborPairs(r_max)
        self.listed_atoms, self.list_age = -1, 0

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

    def lacking_pairs(
        self, coord: torch.Tensor, atype: torch.Tensor, nloc: int, graph: AtomGraph
    ) -> torch.Tensor:
        """Find pairs within the cutoff that a list lacks, if it is time to look.

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

        Returns
        -------
        torch.Tensor
            Neighbour and centre, int64, shape (2, npair).
        """
        fresh, due = True, True
        # In Python nobody hands over a list at every step, and what is frozen shall begin anew.
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            fresh = nloc != self.listed_atoms
            due = fresh or self.list_age >= 99
            self.list_age = 0 if due else self.list_age + 1
            self.listed_atoms = nloc
        if not due:
            return torch.zeros(2, 0, dtype=torch.int64, device=coord.device)
        # Pairs that come in just before a cached list is rebuilt weigh next to nothing, and are the host's business.
        reach = self.r_max - 1.0e-3 if fresh else 0.9 * self.r_max
        return self.lacking_within(reach, coord, atype, nloc, graph)

    def lacking_within(
        self, reach: float, coord: torch.Tensor, atype: torch.Tensor, nloc: int, graph: AtomGraph
    ) -> torch.Tensor:
        """Find pairs within a distance that a list lacks.

        Parameters
        ----------
        reach : float
            Å.
        coord, atype, nloc, graph
            As for :meth:`lacking_pairs`.

        Returns
        -------
        torch.Tensor
            Neighbour and centre, int64, shape (2, npair).
        """
        expected, distance = self.pairs_of_owned(coord[0], atype[0], nloc)
        expected = expected[:, distance < reach]
        listed = graph.edge_atoms - 1  # without the guard in front
        length2 = graph.edge_vec.detach().square().sum(dim=1)
        if int((length2 < reach * reach).sum()) >= expected.shape[1]:
            return torch.zeros(2, 0, dtype=torch.int64, device=coord.device)
        nall = atype.shape[1]
        there = torch.isin(expected[1] * nall + expected[0], listed[1] * nall + listed[0])
        return expected[:, torch.nonzero(~there).view(-1)]

    def refuse(
        self, lacking: torch.Tensor, graph: AtomGraph, atype: torch.Tensor, has_energy: torch.Tensor
    ) -> None:
        """Refuse a list that lacks pairs which the model does not exclude itself.

        Parameters
        ----------
        lacking : torch.Tensor
            From :meth:`lacking_pairs`, shape (2, npair).
        graph : AtomGraph
            Graph of the list.
        atype : torch.Tensor
            Extended types, shape (1, nall).
        has_energy : torch.Tensor
            Which types have energy when alone, bool, shape (ntypes,). Atoms that the list leaves out altogether may be
            missing if they have none: then the rest is as if they were not there, as ``fix gcmc`` tries deletions.

        Raises
        ------
        ValueError
            If such pairs are missing.
        """
        seen = torch.zeros(atype.shape[1], dtype=torch.bool, device=atype.device)
        seen[(graph.edge_atoms - 1)[:, 1:].reshape(-1)] = True
        types = atype[0].clamp(min=0)
        matters = seen | has_energy[types]
        allowed = torch.tensor(self.pair_allowed, dtype=torch.bool, device=atype.device)
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
