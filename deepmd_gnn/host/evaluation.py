"""From a graph to energies, forces and virials: the one path behind every interface of a model."""

from typing import TYPE_CHECKING

import torch

from deepmd_gnn.graph.atom_graph import (
    AtomGraph,
    check_fields,
    frames_of_senders,
    with_edge_vec,
    with_values,
)
from deepmd_gnn.graph.derivatives import (
    Differentiable,
    charged_gradients,
    edge_gradient,
    pair_derivatives,
)
from deepmd_gnn.graph.edge_sums import rows_between, rows_of_atoms
from deepmd_gnn.host.gpu_memory import evaluated
from deepmd_gnn.host.inputs import GraphBuilder
from deepmd_gnn.host.interface import HostInterface
from deepmd_gnn.kernels.triton.replay import Replay
from deepmd_gnn.nn.stages import Stages, keep_memory, new_stages

if TYPE_CHECKING:
    from deepmd_gnn.kernels.triton.modules import TritonKernels


class Evaluation(HostInterface):
    """A model that evaluates graphs."""

    if TYPE_CHECKING:
        graphs: GraphBuilder
        replay: Replay | None
    else:
        # Of a model that launches generated kernels; without annotation, which TorchScript would read.
        replay = None

    def launch_kernels(self, kernels: "TritonKernels") -> None:
        """Evaluate with generated kernels from now on, on a GPU; the model cannot be trained or scripted any more.

        Parameters
        ----------
        kernels : TritonKernels
            Of this model's network.
        """
        kernels.install(self.energy_model)
        self.graphs.for_kernels = True
        self.replay = Replay(self.derivatives)

    def evaluate(
        self,
        graph: AtomGraph,
        atype: torch.Tensor,
        nloc: int,
        nall: int,
        comm_dict: dict[str, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energies and derivatives of a graph.

        Parameters
        ----------
        graph : AtomGraph
            The graph.
        atype : torch.Tensor
            Types of the owned atoms, shape (nf, nloc).
        nloc, nall : int
            Owned atoms and output rows per frame.
        comm_dict : dict[str, torch.Tensor], optional
            Communication tensors of a rank.

        Returns
        -------
        energy, force, atom_virial : torch.Tensor
            eV, eV/Å and eV, shapes (nf, nloc, 1), (nf, nall, 3) and (nf, nall, 9).
        """
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            check_fields(graph)
            if self.replay is not None:
                return self.with_kernels(graph, atype, nloc, nall, comm_dict)
            if graph.mode == "training kernels" and graph.values is None and self.training:
                return self.training_step(graph, atype, nloc, nall)
        return self.derivatives(graph, atype, nloc, nall, comm_dict)

    @torch.jit.unused
    def with_kernels(
        self,
        graph: AtomGraph,
        atype: torch.Tensor,
        nloc: int,
        nall: int,
        comm_dict: dict[str, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """:meth:`evaluate` with generated kernels; quantities of frames are not part of what is repeated."""
        replay = None if graph.values is not None else self.replay

        def evaluate() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            if replay is None:
                return self.derivatives(graph, atype, nloc, nall, comm_dict)
            return replay(graph, atype, nloc, nall)

        return evaluated(evaluate, graph, atype.shape[0])

    def with_frame_values(self, graph: AtomGraph, fparam: torch.Tensor | None, nframe: int) -> AtomGraph:
        """Add the quantities of frames to a graph, if the energy depends on any.

        Parameters
        ----------
        graph : AtomGraph
            Arranged; all frames have the same number of rows.
        fparam : torch.Tensor, optional
            Shape (nframe, nquantity).
        nframe : int
            Frames.

        Returns
        -------
        AtomGraph
        """
        if self.frame_values.number == 0:
            return graph
        values = self.frame_values(fparam, nframe, graph.edge_vec.device)
        return with_values(graph, values, frames_of_senders(graph, nframe))

    def derivatives(
        self,
        graph: AtomGraph,
        atype: torch.Tensor,
        nloc: int,
        nall: int,
        comm_dict: dict[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """:meth:`evaluate` itself, without what repeats it."""
        nf = atype.shape[0]
        differentiable = self.training or graph.edge_vec.requires_grad
        stages: Stages | None = None
        # Charges depend on all sums at once; their derivatives are autograd's.
        staged = self.energy_model.tabulated() and graph.mode == "chunks" and graph.far_vec is None
        if staged and not differentiable:
            stages = new_stages()
            if graph.edge_vec.device.type == "cpu":
                keep_memory()
        with Differentiable():  # forces need autograd also where the caller switched it off
            # A leaf, unless the coordinates carry a graph themselves (second derivatives).
            edge_vec = (
                graph.edge_vec
                if graph.edge_vec.requires_grad
                else graph.edge_vec.detach().requires_grad_(True)
            )
            far_vec, far_atoms = graph.far_vec, graph.far_atoms
            if far_vec is not None and not far_vec.requires_grad:
                far_vec = far_vec.detach().requires_grad_(True)
            leaf = with_edge_vec(graph, edge_vec, far_vec)
            # Once for all cases: TorchScript copies what is called, and compiles every copy at the first calls.
            of_nodes = self.network_energies(leaf, comm_dict, stages)
            energy = self.counted_energies(of_nodes, leaf, atype.reshape(-1))
            # Where kernels run neither the guard nor virtual atoms have edges, so that their energies need not be left out.
            source = of_nodes if leaf.mode == "kernels" and not self.excludes_atoms else energy
            by_pair = torch.jit.annotate(torch.Tensor | None, None)
            if stages is not None:
                gradient = self.energy_model.staged_gradient(energy, leaf, stages)
            elif far_vec is not None:
                gradient, by_pair = charged_gradients(energy, edge_vec, far_vec, differentiable)
            else:
                gradient = edge_gradient(source, edge_vec, differentiable)
            force, atom_virial = self.energy_model.distribution(gradient, leaf, nf * nall)
            if by_pair is not None and far_vec is not None and far_atoms is not None:
                far_force, far_virial = pair_derivatives(by_pair, far_vec, far_atoms, nf * nall)
                force, atom_virial = force + far_force, atom_virial + far_virial
        if not differentiable:
            energy, force, atom_virial = energy.detach(), force.detach(), atom_virial.detach()
        return energy.view(nf, nloc, 1), force.view(nf, nall, 3), atom_virial.view(nf, nall, 9)

    def atom_energies(
        self,
        graph: AtomGraph,
        atype: torch.Tensor,
        comm_dict: dict[str, torch.Tensor] | None,
        stages: Stages | None = None,
    ) -> torch.Tensor:
        """Energy of each node in eV, E0 included; zero for virtual atoms and excluded types.

        Parameters
        ----------
        graph : AtomGraph
            The graph.
        atype : torch.Tensor
            Types of the nodes without the guard, −1 for virtual atoms, shape (natom,).
        comm_dict : dict[str, torch.Tensor], optional
            Communication tensors of a rank.
        stages : Stages, optional
            Where the sums over neighbours are differentiated in stages, see :mod:`~deepmd_gnn.nn.stages`.

        Returns
        -------
        torch.Tensor
            float64, shape (natom,).
        """
        return self.counted_energies(self.network_energies(graph, comm_dict, stages), graph, atype)

    def counted_energies(self, energy: torch.Tensor, graph: AtomGraph, atype: torch.Tensor) -> torch.Tensor:
        """:meth:`atom_energies` from those of the nodes as the network gives them, eV, shape (nnode,)."""
        kinds = rows_between(graph.node_types, 1, graph.node_types.shape[0])
        energy = rows_of_atoms(energy, graph) + self.out_bias[0, :, 0][kinds]
        return torch.where(self.atoms_that_count(kinds, atype), energy, torch.zeros_like(energy))

    def atoms_that_count(self, kinds: torch.Tensor, atype: torch.Tensor) -> torch.Tensor:
        """Which atoms have an energy, from their types and the given ones, −1 for virtual atoms; shape (natom,)."""
        counts = atype >= 0
        if self.excludes_atoms:
            # Numbers, no tensor of them: a GPU that captures an evaluation would have to wait for one.
            for kind, counted in enumerate(self.atom_counts):
                if not counted:
                    counts = counts & (kinds != kind)
        return counts

    @torch.jit.unused
    def training_step(
        self, graph: AtomGraph, atype: torch.Tensor, nloc: int, nall: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """:meth:`evaluate` of a training step with generated kernels, which may repeat what it has captured."""
        return self.derivatives(graph, atype, nloc, nall)

    @torch.jit.unused
    def trains_with_kernels(self, device: torch.device) -> bool:  # noqa: ARG002 - of a subclass
        """Whether the next step of training launches generated kernels; a network may have some on a GPU."""
        return False

    def network_energies(
        self,
        graph: AtomGraph,
        comm_dict: dict[str, torch.Tensor] | None,
        stages: Stages | None = None,
    ) -> torch.Tensor:
        """Energies of the nodes as the network gives them, eV, float64, shape (nnode,)."""
        return self.energy_model.energies(graph, comm_dict, stages)

    def lone_energies(self) -> torch.Tensor:
        """Energy of a lone atom of each type, eV, float64, shape (ntypes,)."""
        types = torch.arange(len(self.type_map), device=self.out_bias.device)
        graph = self.graphs.without_pairs(self.graphs.arranged(self.graphs.lone_atoms(types.device)))
        if self.frame_values.number > 0:
            graph = with_values(graph, self.frame_values.anything(types.device), frames_of_senders(graph, 1))
        return self.atom_energies(graph, types, None).detach()
