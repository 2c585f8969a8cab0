"""DeePMD-kit's padded neighbour list for exported models.

Frozen files use the edge list (:mod:`~deepmd_gnn.host.edge_lower`), which needs no padding; this form is for programs that
trace the padded one themselves.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from deepmd_gnn.graph.atom_graph import AtomGraph, guard_distance


class DenseMixin:
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that can be traced over a padded neighbour list."""

    if TYPE_CHECKING:
        rcut: float
        excludes_pairs: bool
        pair_allowed: list[list[bool]]
        evaluate: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

    def forward_common_lower_exportable(
        self,
        extended_coord: torch.Tensor,
        extended_atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: torch.Tensor,
        fparam: torch.Tensor | None = None,
        aparam: torch.Tensor | None = None,
        do_atomic_virial: bool = False,
        charge_spin: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.nn.Module:
        """Trace the padded lower.

        Parameters
        ----------
        extended_coord : torch.Tensor
            Å, shape (nf, nall, 3), owned atoms first.
        extended_atype : torch.Tensor
            Shape (nf, nall).
        nlist : torch.Tensor
            Shape (nf, nloc, nnei), −1 where empty; of any width, pairs beyond the cutoff have no effect.
        mapping : torch.Tensor
            Owner of each extended atom, shape (nf, nall).
        fparam, aparam, charge_spin : torch.Tensor, optional
            Not used by MACE.
        do_atomic_virial : bool
            Whether the traced module returns the virial of each atom.
        **options : Any
            For ``make_fx``.

        Returns
        -------
        torch.nn.Module
            Takes the seven tensors, returns the names of :meth:`~deepmd_gnn.mace.MaceModel.forward_common_lower`.
        """

        def lower(
            coord: torch.Tensor, atype: torch.Tensor, nlist: torch.Tensor, mapping: torch.Tensor, *_: Any
        ) -> dict[str, torch.Tensor]:
            nf, nall = atype.shape
            nloc = nlist.shape[1]
            graph = self._graph_of_slots(coord.reshape(nf, nall, 3).to(torch.float64), atype, nlist, mapping)
            energy, force, atom_virial = self.evaluate(graph, atype[:, :nloc], nloc, nall, None)
            result = {
                "energy": energy,
                "energy_redu": energy.sum(dim=1),
                "energy_derv_r": force.unsqueeze(2),
                "energy_derv_c_redu": atom_virial.sum(dim=1).unsqueeze(1),
            }
            if do_atomic_virial:
                result["energy_derv_c"] = atom_virial.unsqueeze(2)
            return result

        return make_fx(lower, **options)(
            extended_coord, extended_atype, nlist, mapping, fparam, aparam, charge_spin
        )

    def _graph_of_slots(
        self, coord: torch.Tensor, atype: torch.Tensor, nlist: torch.Tensor, mapping: torch.Tensor
    ) -> AtomGraph:
        """One edge for every slot of the list; the shape of a traced graph cannot depend on which are filled."""
        nf, nloc, _ = nlist.shape
        nall = atype.shape[1]
        frame = torch.arange(nf, device=nlist.device).view(-1, 1, 1)
        atom = torch.arange(nloc, device=nlist.device).view(1, -1, 1).expand_as(nlist)
        other = (nlist.clamp(min=0) + frame * nall).flatten()
        row = (atom + frame * nall).flatten()
        center = (atom + frame * nloc).flatten()
        kinds, position = atype.flatten(), coord.view(-1, 3)
        vectors = position[other] - position[row]
        mask = (nlist.flatten() >= 0) & (kinds[other] >= 0) & (kinds[row] >= 0)
        mask = mask & (vectors.detach().square().sum(dim=1) <= self.rcut**2)
        if self.excludes_pairs:
            allowed = torch.tensor(self.pair_allowed, dtype=torch.bool, device=atype.device)
            mask = mask & allowed[kinds[other].clamp(min=0), kinds[row].clamp(min=0)]
        far = torch.full_like(vectors, guard_distance(self.rcut))
        guard = center.new_zeros(2, 1)
        sender = mapping.flatten()[other] + torch.div(other, nall, rounding_mode="floor") * nloc
        types = torch.cat([kinds.new_zeros(1), atype[:, :nloc].flatten().clamp(min=0)])
        return AtomGraph(
            types,
            types,
            torch.cat([guard, torch.stack([sender + 1, center + 1])], dim=1),
            torch.cat(
                [
                    far.new_full((1, 3), guard_distance(self.rcut)),
                    torch.where(mask.unsqueeze(1), vectors, far),
                ]
            ),
            torch.cat([guard, torch.stack([other + 1, row + 1])], dim=1),
        )
