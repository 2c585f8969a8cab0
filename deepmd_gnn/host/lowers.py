"""The calls with which DeePMD-kit evaluates a model, each from its own form of input: frames, neighbour list, edge list.

Every one makes a graph (:class:`~deepmd_gnn.host.inputs.GraphBuilder`), evaluates it
(:class:`~deepmd_gnn.host.evaluation.Evaluation`) and names the results (:mod:`~deepmd_gnn.host.results`).
"""

import functools
from typing import Any

import torch

from deepmd_gnn.deepmd_ops import refuse_ranks
from deepmd_gnn.export import traced_edge_lower, traced_program
from deepmd_gnn.host.edge_lower import evaluate_edges
from deepmd_gnn.host.hessian import hessian
from deepmd_gnn.host.labels import cell_of_batch
from deepmd_gnn.host.padded_lower import evaluate_slots
from deepmd_gnn.host.results import mask_of, public_results, results_of_frames
from deepmd_gnn.host.uncertainty import Uncertain


class Lowers(Uncertain):
    """A model that answers ``forward`` and the host's lower interfaces."""

    def forward(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None = None,
        fparam: torch.Tensor | None = None,
        aparam: torch.Tensor | None = None,
        do_atomic_virial: bool = False,
        charge_spin: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Evaluate frames of atoms; finds the neighbours itself.

        Parameters
        ----------
        coord : torch.Tensor
            Å, shape (nf, nloc, 3) or (nf, nloc * 3).
        atype : torch.Tensor
            Types, int64, shape (nf, nloc); −1 marks padding.
        box : torch.Tensor, optional
            Cells, Å, shape (nf, 9) or (nf, 3, 3); None for free boundaries.
        fparam : torch.Tensor, optional
            Quantities of the frames that the energy depends on, shape (nf, nquantity).
        aparam, charge_spin : torch.Tensor, optional
            Not used.
        do_atomic_virial : bool
            Also return the virial of each atom.

        Returns
        -------
        dict[str, torch.Tensor]
            ``energy`` (nf, 1) and ``atom_energy`` (nf, nloc, 1) in eV, ``force`` (nf, nloc, 3) in eV/Å,
            ``virial`` (nf, 9) and ``atom_virial`` (nf, nloc, 9) in eV, ``mask`` (nf, nloc); float64. With
            `hessian_mode` also ``hessian``, eV/Å², (nf, 3 nloc, 3 nloc).

        Raises
        ------
        ValueError
            If coordinates, cell or types are invalid, or atoms coincide.
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            box = cell_of_batch(coord, box)
            if self.hessian_mode:
                return self.predict_with_hessian(coord, atype, box, fparam, do_atomic_virial)
        return self.predict(coord, atype, box, fparam, do_atomic_virial)

    def predict(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None,
        fparam: torch.Tensor | None,
        do_atomic_virial: bool,
    ) -> dict[str, torch.Tensor]:
        """:meth:`forward` without second derivatives."""
        nf, nloc = atype.shape
        by_kernels = False
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            by_kernels = self.training and self.trains_with_kernels(coord.device)
            if by_kernels:  # the loss is differentiated with respect to weights, whatever a trainer marks
                coord, box = coord.detach(), None if box is None else box.detach()
        graph = self.graphs.of_frames(coord, atype, box, by_kernels)
        graph = self.with_frame_values(graph, fparam, nf)
        energy, force, atom_virial = self.evaluate(graph, atype, nloc, nloc, None)
        inner = results_of_frames(energy, force, atom_virial)
        return public_results(inner, mask_of(atype), "", do_atomic_virial)

    @torch.jit.unused
    def predict_with_hessian(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None,
        fparam: torch.Tensor | None,
        do_atomic_virial: bool,
    ) -> dict[str, torch.Tensor]:
        """:meth:`forward` with second derivatives, see :func:`~deepmd_gnn.host.hessian.hessian`."""
        return hessian(lambda x: self.predict(x, atype, box, fparam, do_atomic_virial), coord, self.training)

    def enable_hessian(self) -> None:
        """Compute the Hessian from now on; the trainer asks for it if the loss has a Hessian term."""
        self.hessian_mode = True

    @torch.jit.export
    def forward_common_lower(
        self,
        extended_coord: torch.Tensor,
        extended_atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: torch.Tensor | None = None,
        fparam: torch.Tensor | None = None,
        aparam: torch.Tensor | None = None,
        do_atomic_virial: bool = False,
        comm_dict: dict[str, torch.Tensor] | None = None,
        extra_nlist_sort: bool = False,
        extended_coord_corr: torch.Tensor | None = None,
        charge_spin: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Evaluate extended atoms with the host's neighbour list; DeePMD-kit's internal names.

        Parameters
        ----------
        extended_coord : torch.Tensor
            Å, shape (nf, nall, 3), owned atoms first.
        extended_atype : torch.Tensor
            Shape (nf, nall).
        nlist : torch.Tensor
            Shape (nf, nloc, nnei), −1 where empty; may be wider than the cutoff, of any width and order.
        mapping : torch.Tensor, optional
            Owner of each extended atom, shape (nf, nall); on a CPU not read if `comm_dict` is given, elsewhere read instead of it.
        comm_dict : dict[str, torch.Tensor], optional
            Communication tensors of a rank.
        fparam : torch.Tensor, optional
            Quantities of the frames that the energy depends on, shape (nf, nquantity).
        aparam, do_atomic_virial, extra_nlist_sort, extended_coord_corr, charge_spin : Any
            Not used.

        Returns
        -------
        dict[str, torch.Tensor]
            ``energy`` (nf, nloc, 1), ``energy_redu`` (nf, 1), ``energy_derv_r`` (nf, nall, 1, 3),
            ``energy_derv_c`` (nf, nall, 1, 9), ``energy_derv_c_redu`` (nf, 1, 9), ``mask`` (nf, nloc); float64.
        """
        nf, nall = extended_atype.shape
        nloc = nlist.shape[1]
        owned = extended_atype[:, :nloc]
        coord = extended_coord.reshape(nf, nall, 3).to(torch.float64)
        if mapping is not None and coord.device.type != "cpu":
            # LAMMPS on one rank, with `atom_modify map yes`. The host's exchange takes the features of all ghosts through the
            # memory of the CPU, in every layer.
            comm_dict = None
        if comm_dict is not None and self.coulomb_cutoff > 0.0:
            refuse_ranks(comm_dict)
        graph = self.graphs.of_list(coord, extended_atype, nlist, mapping, comm_dict is not None)
        if nf == 1:  # several frames come from Python, whose lists are whole
            lacking = self.graphs.lists.lacking_pairs(coord, extended_atype, nloc, graph)
            if lacking.shape[1] > 0:
                has_energy = self.lone_energies().abs() > 1.0e-6
                self.graphs.lists.refuse(lacking, graph, extended_atype, has_energy)
        graph = self.graphs.arranged(self.graphs.without_excluded_pairs(graph))
        exchanged = comm_dict is not None
        graph = self.graphs.with_charges_of_list(graph, coord, extended_atype, nlist, mapping, exchanged)
        graph = self.with_frame_values(graph, fparam, nf)
        energy, force, atom_virial = self.evaluate(graph, owned, nloc, nall, comm_dict)
        result = results_of_frames(energy, force, atom_virial)
        result["mask"] = mask_of(owned)
        return result

    @torch.jit.export
    def forward_lower(
        self,
        extended_coord: torch.Tensor,
        extended_atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: torch.Tensor | None = None,
        fparam: torch.Tensor | None = None,
        aparam: torch.Tensor | None = None,
        do_atomic_virial: bool = False,
        comm_dict: dict[str, torch.Tensor] | None = None,
        charge_spin: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Evaluate the atoms of a rank (LAMMPS): :meth:`forward_common_lower` under the names of the C++ interface."""
        inner = self.forward_common_lower(
            extended_coord, extended_atype, nlist, mapping, fparam, aparam, do_atomic_virial, comm_dict, False, None, charge_spin
        )  # fmt: skip
        return public_results(inner, inner["mask"], "extended_", do_atomic_virial)

    # --- the exportable backend ---------------------------------------------------------------------------------

    def forward_common_lower_graph(
        self,
        atype: torch.Tensor,
        n_node: torch.Tensor,
        n_local: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vec: torch.Tensor,
        edge_mask: torch.Tensor,
        destination_order: torch.Tensor | None = None,
        destination_row_ptr: torch.Tensor | None = None,
        source_order: torch.Tensor | None = None,
        source_row_ptr: torch.Tensor | None = None,
        destination_sorted: bool = False,
        do_atomic_virial: bool = False,
        fparam: torch.Tensor | None = None,
        aparam: torch.Tensor | None = None,
        charge_spin: torch.Tensor | None = None,
        spin: torch.Tensor | None = None,
        comm_dict: dict[str, torch.Tensor] | None = None,
        has_energy: list[bool] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Evaluate the host's edge list, see :func:`~deepmd_gnn.host.edge_lower.evaluate_edges`."""
        groups = (destination_order, destination_row_ptr, source_order, source_row_ptr)
        lists = None if destination_order is None else tuple(group for group in groups if group is not None)
        return evaluate_edges(
            self,
            atype,
            n_node,
            n_local,
            (edge_index, edge_vec, edge_mask),
            lists,
            do_atomic_virial,
            comm_dict,
            has_energy,
            fparam,
        )

    def forward_lower_graph_exportable(
        self,
        *inputs: torch.Tensor,
        fparam: torch.Tensor | None = None,
        aparam: torch.Tensor | None = None,
        do_atomic_virial: bool = False,
        charge_spin: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.nn.Module:
        """Trace the edge-list lower for one rank.

        Parameters
        ----------
        *inputs : torch.Tensor
            Sample inputs: the first ten arguments of :meth:`forward_common_lower_graph`, in the shapes of
            :func:`~deepmd_gnn.host.edge_lower.evaluate_edges`.
        fparam : torch.Tensor, optional
            Quantities of the frames, shape (nf, nquantity), for a model that has any.
        aparam, charge_spin : torch.Tensor, optional
            Further inputs of the host's order, not used.
        do_atomic_virial : bool
            Whether the traced module returns the virial of each atom.
        **options : Any
            For ``make_fx``; the host's ``destination_sorted`` is not needed.

        Returns
        -------
        torch.nn.Module
            Takes the same 13 inputs, returns the host's public names.
        """
        return self._traced((*inputs, fparam, aparam, charge_spin), do_atomic_virial, options)

    def forward_lower_graph_exportable_with_comm(
        self, *inputs: torch.Tensor | None, do_atomic_virial: bool = False, **options: Any
    ) -> torch.nn.Module:
        """:meth:`forward_lower_graph_exportable` for several ranks: eight communication tensors follow, see :mod:`~deepmd_gnn.export`."""
        return self._traced(inputs, do_atomic_virial, options)

    def _traced(
        self, samples: tuple[torch.Tensor | None, ...], do_atomic_virial: bool, options: dict[str, Any]
    ) -> torch.nn.Module:
        options.pop("destination_sorted", None)
        has_energy = (self.lone_energies().abs() > 1.0e-6).tolist()
        lower = functools.partial(self.forward_common_lower_graph, has_energy=has_energy)
        return traced_edge_lower(lower, self.energy_model, samples, do_atomic_virial, options)

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
        """Trace :func:`~deepmd_gnn.host.padded_lower.evaluate_slots`; takes the seven tensors."""
        program = functools.partial(evaluate_slots, self, do_atomic_virial)
        samples = (extended_coord, extended_atype, nlist, mapping, fparam, aparam, charge_spin)
        return traced_program(program, samples, options)
