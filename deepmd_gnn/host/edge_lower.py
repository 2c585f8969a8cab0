"""The exportable face of the model: DeePMD-kit's edge-list ("graph") lower, for ``dp --pt-expt``.

The host finds these methods by name; none of them is compiled by TorchScript.
"""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from deepmd_gnn.graph.arrangement import for_compiled_training, in_chunks
from deepmd_gnn.graph.atom_graph import AtomGraph, guard_distance, trains_compiled, without_direction
from deepmd_gnn.graph.edge_sums import edge_lists, rows_between, sum_over_edges
from deepmd_gnn.graph.padding import in_slots
from deepmd_gnn.host.freezing import enter_stage
from deepmd_gnn.kernels.cpu.input_check import checked_input, checks_input
from deepmd_gnn.kernels.cpu.memory import results
from deepmd_gnn.kernels.install import calls_kernels, installed

if TYPE_CHECKING:
    from deepmd_gnn.nn.energy import MaceEnergy

# Inputs of the host's edge-list lower before the communication tensors.
_INPUTS = 13
_COMM = ("send_list", "send_proc", "recv_proc", "send_num", "recv_num", "communicator", "nlocal", "nghost")


class ExportMixin:
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that the exportable backend calls."""

    # Which types have energy when alone, while a graph is traced.
    lone_types: list[bool]

    if TYPE_CHECKING:
        rcut: float
        nlayers: int
        slots: int
        training: bool

        excludes_pairs: bool
        pair_allowed: list[list[bool]]
        type_map: list[str]
        energy_model: MaceEnergy
        lone_energies: Callable[[], torch.Tensor]
        evaluate: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]

    def uses_graph_lower(self) -> bool:
        """The edge list is this model's own form of input."""
        training = sys.modules.get("deepmd.pt_expt.train.training")
        if training is not None and self.training:  # the host asks before it compiles a training step
            from deepmd_gnn.host.compiled_training import vectorise

            vectorise(training)
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
        destination_order, destination_row_ptr, source_order, source_row_ptr : torch.Tensor, optional
            The edges grouped by centre and by neighbour.
        destination_sorted : bool
            Not needed.
        fparam, aparam, charge_spin, spin : torch.Tensor, optional
            Not used by MACE.

        Returns
        -------
        dict[str, torch.Tensor]
            ``energy`` (N, 1), ``energy_redu`` (nf, 1), ``energy_derv_r`` (N, 1, 3), ``energy_derv_c_redu``
            (nf, 1, 9) and with `do_atomic_virial` ``energy_derv_c`` (N, 1, 9).
        """
        total = atype.shape[0]
        # On a rank the ghosts follow the owned atoms; only these are nodes, and only their number is data.
        nowned = total
        if comm_dict is not None:
            nowned = n_local[0].item()  # type: ignore[assignment]
            torch._check(nowned >= 0)
            torch._check(nowned <= total)
        lists = (destination_order, destination_row_ptr, source_order, source_row_ptr)
        kinds, index = self._checked(atype, n_local, edge_index, edge_vec, edge_mask, comm_dict is not None)
        graph = self._graph_of_edges(kinds, nowned, index, edge_vec, edge_mask, lists)
        energy, force, atom_virial = self.evaluate(
            graph, rows_between(atype, 0, nowned).unsqueeze(0), nowned, total, comm_dict
        )
        sum_over_frames = _frame_sums(n_node, total, graph)
        atom_energy = torch.cat([energy[0], energy.new_zeros(total - nowned, 1)])
        if not self.training and not checks_input():
            unknown = (atype < -1) | (atype >= len(self.type_map))
            atom_energy = torch.where(unknown.unsqueeze(1), torch.nan, atom_energy)
        result = {
            "energy": atom_energy,
            "energy_redu": sum_over_frames(atom_energy),
            "energy_derv_r": force[0].unsqueeze(1),
            "energy_derv_c_redu": sum_over_frames(atom_virial[0]).unsqueeze(1),
        }
        if do_atomic_virial:
            result["energy_derv_c"] = atom_virial[0].unsqueeze(1)
        return result

    def _checked(
        self,
        atype: torch.Tensor,
        n_local: torch.Tensor,
        edge_index: torch.Tensor,
        edge_vec: torch.Tensor,
        edge_mask: torch.Tensor,
        exchanged: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Types and edges that can be used as indices."""
        ntypes = len(self.type_map)
        if not checks_input():
            # The operator runs on CPUs. Elsewhere nothing can be refused: what is wrong stays within the tables, and
            # atoms of unknown types get no number.
            return atype.clamp(0, ntypes - 1), edge_index.clamp(0, atype.shape[0] - 1)
        names = torch.tensor(list(", ".join(self.type_map).encode()), dtype=torch.uint8)
        allowed = torch.tensor(self.pair_allowed, dtype=torch.bool)
        has_energy = torch.tensor(self.lone_types, dtype=torch.bool)
        vectors = edge_vec.detach()
        ranks = 2 if exchanged else 1
        return checked_input(
            atype, n_local, edge_index, vectors, edge_mask, names, allowed, has_energy, ranks, self.rcut
        )

    def _graph_of_edges(
        self,
        kinds: torch.Tensor,
        nowned: int,
        edge_index: torch.Tensor,
        edge_vec: torch.Tensor,
        edge_mask: torch.Tensor,
        lists: tuple[torch.Tensor | None, ...],
    ) -> AtomGraph:
        """Put the guard in front; masked edges become edges beyond the cutoff, where everything vanishes."""
        sender, center = edge_index[0], edge_index[1]
        mask = edge_mask & (center < nowned)
        if self.excludes_pairs:
            allowed = torch.tensor(self.pair_allowed, dtype=torch.bool, device=kinds.device)
            mask = mask & allowed[kinds[sender], kinds[center]]
        far = torch.full_like(edge_vec, guard_distance(self.rcut))
        # A compiled graph cannot refuse atoms at the same place; it must not give them a finite energy either.
        undefined = torch.where(without_direction(edge_vec), torch.nan, 0.0).unsqueeze(1)
        vectors = torch.where(mask.unsqueeze(1), edge_vec + undefined, far)
        vectors = torch.cat([far[:1], vectors])
        receiver = torch.where(center < nowned, center + 1, 0)
        index = torch.cat([edge_index.new_zeros(2, 1), torch.stack([sender + 1, receiver])], dim=1)
        types = torch.cat([kinds.new_zeros(1), kinds])
        incoming, outgoing, order, begin = None, None, None, None
        # Compiled training cannot keep a size that depends on data in one graph.
        if not self.training and lists[0] is not None:
            owned = rows_between(lists[1], 0, nowned + 1)
            # The guard's edge in front belongs to no list, because it brings nothing.
            order, begin = lists[0] + 1, torch.cat([owned.new_zeros(1), owned])
            incoming = edge_lists(order, begin)
            leaving_begin = torch.cat([owned.new_zeros(1), lists[3]])  # type: ignore[list-item]
            outgoing = edge_lists(lists[2] + 1, leaving_begin)
        nodes = rows_between(types, 0, nowned + 1)
        graph = AtomGraph(nodes, types, index, vectors, index, incoming, outgoing, order, begin)
        if incoming is not None and not calls_kernels():
            return in_slots(graph)
        if not self.training:
            return graph
        # The number of chunks depends on the data: nothing for a graph that is being traced.
        arrange = in_chunks if get_proxy_mode() is None else for_compiled_training
        return arrange(graph, self.slots)

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
            inner = self.forward_common_lower_graph(
                *inputs[:10],  # type: ignore[arg-type, misc]
                do_atomic_virial=do_atomic_virial,
                comm_dict=comm,
            )
            named = _translate_energy_keys(
                inner, do_grad_r=True, do_grad_c=True, do_atomic_virial=do_atomic_virial, local=True
            )
            return results(named)

        options.pop("destination_sorted", None)
        self.lone_types = (self.lone_energies().abs() > 1.0e-6).tolist()
        ranks = "several ranks" if len(samples) > _INPUTS else "one rank"
        enter_stage(f"tracing for {ranks}")
        with installed(self.energy_model):
            traced = make_fx(lower, **options)(*samples)
        enter_stage(f"exporting and compiling for {ranks}")
        return traced


def _frame_sums(n_node: torch.Tensor, total: int, graph: AtomGraph) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make a function that sums the atoms of every frame, shape (N, ·) → (nf, ·)."""
    atom = torch.arange(total, device=n_node.device)
    end = torch.cumsum(n_node, dim=0)
    frame = (atom.unsqueeze(1) >= end).sum(dim=1)
    atoms = (
        edge_lists(atom, torch.cat([torch.zeros_like(end[:1]), end])) if graph.incoming is not None else None
    )
    opaque = trains_compiled(graph)
    return lambda values: sum_over_edges(values, frame, n_node.shape[0], atoms, opaque)
