"""The exportable face of the model: DeePMD-kit's edge-list ("graph") lower, for ``dp --pt-expt``.

The host finds these methods by name; none of them is compiled by TorchScript.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from deepmd.dpmodel.output_def import FittingOutputDef
from torch.fx.experimental.proxy_tensor import make_fx

from deepmd_gnn.graph import AtomGraph

# Inputs of the host's edge-list lower before the communication tensors.
_INPUTS = 13
_COMM = ("send_list", "send_proc", "recv_proc", "send_num", "recv_num", "communicator", "nlocal", "nghost")


class ExportMixin:
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that the exportable backend calls."""

    if TYPE_CHECKING:
        rcut: float
        nlayers: int
        training: bool

        atom_energies: Callable[..., torch.Tensor]
        fitting_output_def: Callable[[], FittingOutputDef]
        without_excluded_pairs: Callable[[AtomGraph], AtomGraph]

    def uses_graph_lower(self) -> bool:
        """The edge list is this model's own form of input."""
        return True

    def supports_graph_export(self) -> bool:
        """The edge-list lower can be exported."""
        return True

    def graph_edge_dtype(self) -> str:
        """Edge vectors are float64 whatever the precision of the network."""
        return "float64"

    def uses_compact_edge_pairs(self) -> bool:
        """Plain edges."""
        return False

    def supports_edge_parallel(self) -> bool:
        """Several ranks share a system."""
        return True

    def dense_lower_supports_comm(self) -> bool:
        """Only the edge-list lower exchanges features."""
        return False

    def has_message_passing_across_ranks(self) -> bool:
        """Whether ghosts need features that their owners compute."""
        return self.nlayers > 1

    def supports_native_spin(self) -> bool:
        """No spins."""
        return False

    @property
    def pair_excl(self) -> None:
        """Excluded pairs are dropped inside the model."""
        return

    @property
    def atom_excl(self) -> None:
        """Excluded atoms are muted inside the model."""
        return

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
    ) -> dict[str, torch.Tensor]:
        """Evaluate the host's edge list; DeePMD-kit's internal names on one flat axis of atoms.

        Parameters
        ----------
        atype : torch.Tensor
            Types of the atoms of all frames, on a rank the owned ones first, shape (N,).
        n_node, n_local : torch.Tensor
            Atoms and owned atoms per frame, shape (nf,).
        edge_index : torch.Tensor
            Neighbour and centre, shape (2, E).
        edge_vec : torch.Tensor
            Neighbour minus centre, Å, shape (E, 3).
        edge_mask : torch.Tensor
            False for the host's guard edges, shape (E,).
        do_atomic_virial : bool
            Also return the virial of each atom.
        comm_dict : dict[str, torch.Tensor], optional
            Communication tensors of a rank.
        destination_order, destination_row_ptr, source_order, source_row_ptr, destination_sorted : Any
            Not needed.
        fparam, aparam, charge_spin, spin : torch.Tensor, optional
            Not used by MACE.

        Returns
        -------
        dict[str, torch.Tensor]
            ``energy`` (N, 1), ``energy_redu`` (nf, 1), ``energy_derv_r`` (N, 1, 3), ``energy_derv_c_redu``
            (nf, 1, 9) and with `do_atomic_virial` ``energy_derv_c`` (N, 1, 9).
        """
        from deepmd.dpmodel.utils.neighbor_graph import NeighborGraph
        from deepmd.pt_expt.model.edge_transform_output import fit_output_to_model_output_graph

        leaf = edge_vec.detach().requires_grad_(True)
        energy = self.atom_energies(
            self._graph_of_edges(atype, edge_index, leaf, edge_mask), atype, comm_dict
        )
        graph = NeighborGraph(
            n_node=n_node, edge_index=edge_index, edge_vec=leaf, edge_mask=edge_mask, n_local=n_local
        )
        return fit_output_to_model_output_graph(
            {"energy": energy.unsqueeze(1)},
            self.fitting_output_def(),
            graph,
            do_atomic_virial=do_atomic_virial,
            create_graph=self.training,
            node_capacity=atype.shape[0],
            n_local=n_local,
            force_precision=leaf.dtype,
        )

    def _graph_of_edges(
        self, atype: torch.Tensor, edge_index: torch.Tensor, edge_vec: torch.Tensor, edge_mask: torch.Tensor
    ) -> AtomGraph:
        """Put the guard in front; masked edges become edges beyond the cutoff, where everything vanishes."""
        guard = edge_index.new_zeros(2, 1)
        far = torch.full_like(edge_vec, 2.0 * self.rcut)
        vectors = torch.cat([far[:1], torch.where(edge_mask.unsqueeze(1), edge_vec, far)])
        types = torch.cat([atype.new_zeros(1), atype.clamp(min=0)])
        graph = AtomGraph(types, types, torch.cat([guard, edge_index + 1], dim=1), vectors, edge_index)
        return self.without_excluded_pairs(graph)

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
            Sample inputs: the first ten arguments of :meth:`forward_common_lower_graph`.
        fparam, aparam, charge_spin : torch.Tensor, optional
            Further inputs of the host's order, not used by MACE.
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
        """Trace the edge-list lower for several ranks: eight communication tensors follow the other inputs."""
        return self._traced(inputs, do_atomic_virial, options)

    def _traced(
        self, samples: tuple[torch.Tensor | None, ...], do_atomic_virial: bool, options: dict[str, Any]
    ) -> torch.nn.Module:
        from deepmd.pt_expt.model.make_model import _translate_energy_keys

        def lower(*inputs: torch.Tensor) -> dict[str, torch.Tensor]:
            comm = dict(zip(_COMM, inputs[_INPUTS:], strict=True)) if len(inputs) > _INPUTS else None
            atype, n_node, n_local, edge_index, edge_vec, edge_mask = inputs[:6]
            inner = self.forward_common_lower_graph(
                atype,
                n_node,
                n_local,
                edge_index,
                edge_vec,
                edge_mask,
                do_atomic_virial=do_atomic_virial,
                comm_dict=comm,
            )
            return _translate_energy_keys(
                inner, do_grad_r=True, do_grad_c=True, do_atomic_virial=do_atomic_virial, local=True
            )

        options.pop("destination_sorted", None)
        return make_fx(lower, **options)(*samples)
