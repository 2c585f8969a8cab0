"""``"type": "mace"``: the DeePMD-kit face of the MACE energy. An adapter, no physics."""

import json
import sys
from typing import TYPE_CHECKING, Any, Final

import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from deepmd.infer.deep_eval import DeepEval
from deepmd.pt.model.descriptor import BaseDescriptor
from deepmd.pt.model.model.model import BaseModel
from deepmd.pt.utils import env

from deepmd_gnn.config.options import check_mm_types, check_type_map, config_from_options, warn_of_jumps
from deepmd_gnn.config.versions import package_versions
from deepmd_gnn.graph.arrangement import slots_per_chunk
from deepmd_gnn.graph.atom_graph import AtomGraph, trains_compiled
from deepmd_gnn.graph.derivatives import Differentiable, atomic_derivatives, edge_gradient
from deepmd_gnn.graph.edge_sums import rows_between
from deepmd_gnn.graph.neighbor_search import NeighborPairs
from deepmd_gnn.host.bias import BiasMixin
from deepmd_gnn.host.edge_lower import ExportMixin
from deepmd_gnn.host.embedding import EmbeddingMixin
from deepmd_gnn.host.hessian import HessianMixin
from deepmd_gnn.host.inputs import GraphMixin
from deepmd_gnn.host.interface import InterfaceMixin
from deepmd_gnn.host.labels import cell_of_batch
from deepmd_gnn.host.model_size import count_mace_models
from deepmd_gnn.host.observed_types import unknown_types
from deepmd_gnn.host.padded_lower import DenseMixin
from deepmd_gnn.host.sharing import Descriptor
from deepmd_gnn.host.storage import StorageMixin
from deepmd_gnn.host.stored_names import StoredNames
from deepmd_gnn.kernels.triton.replay import Replay
from deepmd_gnn.mace_cuequivariance import CuEquivarianceMixin
from deepmd_gnn.mace_network import on_cpu
from deepmd_gnn.nn.energy import MaceEnergy
from deepmd_gnn.nn.trainable import freeze_parts

if TYPE_CHECKING:
    from deepmd_gnn.kernels.triton.modules import TritonKernels

# Where the number of neighbours was not looked up (--skip-neighbor-stat): only a hint, see MaceConfig.sel.
_DEFAULT_SEL = 128


@BaseModel.register("mace")
class MaceModel(
    StoredNames,
    InterfaceMixin,
    BiasMixin,
    GraphMixin,
    EmbeddingMixin,
    HessianMixin,
    CuEquivarianceMixin,
    ExportMixin,
    DenseMixin,
    StorageMixin,
    BaseModel,
):
    """MACE for DeePMD-kit's PyTorch backend.

    Parameters
    ----------
    type_map : list[str]
        Chemical symbols and MM types (:mod:`~deepmd_gnn.config.mm_types`).
    pair_exclude_types : list[list[int]], optional
        Pairs of types that do not see each other, besides the pairs of MM types.
    atom_exclude_types : list[int], optional
        Types whose atoms contribute no energy.
    preset_out_bias : dict, optional
        DeePMD-kit's way to give atomic energies: ``{"energy": [null, -13.6]}``.
    hessian_mode : bool
        Compute second derivatives too; the host's trainer sets it.
    **options : Any
        Fields of :class:`~deepmd_gnn.config.mace.MaceConfig` (or their aliases) and generic keys of the host.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """

    model_type = "ener"
    excludes_pairs: Final[bool]  # type: ignore[misc]
    excludes_atoms: Final[bool]  # type: ignore[misc]
    # What the statistics were counted from, for tasks that share them; empty once weights are loaded.
    counted: dict[str, list[float]]
    __jit_unused_properties__ = [  # noqa: RUF012 - torch's name
        "atomic_model",
        "descriptor",
        "fitting_net",
        "observed_type",
        "pair_excl",
        "atom_excl",
        "replay",
    ]

    def __init__(
        self,
        type_map: list[str],
        pair_exclude_types: list[list[int]] | None = None,
        atom_exclude_types: list[int] | None = None,
        preset_out_bias: dict[str, list[Any]] | None = None,
        hessian_mode: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.hessian_mode = bool(hessian_mode)
        self.type_map = list(type_map)
        self.config = config_from_options(options)
        self.trains_with_cueq = self.config.enable_cueq
        numbers = check_type_map(self.type_map, ATOMIC_NUMBERS)
        check_mm_types(self.type_map, self.config)
        warn_of_jumps(self.config)
        ntypes = len(numbers)
        self.rcut = float(self.config.r_max)
        self.nlayers = int(self.config.num_interactions)
        self.num_channels = self.config.channels
        sel = self.config.sel
        self.sel = _DEFAULT_SEL if isinstance(sel, str) else int(sel)
        self.pair_exclude_types = [[int(i), int(j)] for i, j in pair_exclude_types or []]
        self.atom_exclude_types = [int(i) for i in atom_exclude_types or []]
        self.preset_out_bias = preset_out_bias
        self.pairs = NeighborPairs(self.rcut)
        self.listed_atoms, self.list_age = -1, 0
        self.energy_model = self.new_network(numbers)
        itemsize = self.energy_model.dtype.itemsize
        self.slots = slots_per_chunk(self.num_channels, itemsize)
        self.launches_kernels = False
        self.counted = {}
        self.set_exclusions()
        self.register_buffer("out_bias", torch.zeros(1, ntypes, 1, dtype=torch.float64, device=env.DEVICE))
        self.register_buffer("out_std", torch.ones(1, ntypes, 1, dtype=torch.float64, device=env.DEVICE))
        self.set_option_tensors()
        self.register_buffer("observed", unknown_types(ntypes).to(env.DEVICE))
        self._set_given_bias()
        # Both travel with a frozen file. The host replaces the script by the input's model section, if it has one.
        self.model_def_script = json.dumps(self._definition())
        self.versions = package_versions()

    def new_network(self, numbers: list[int]) -> MaceEnergy:
        """Build the network for these atomic numbers; parts the user froze are not trained."""
        with on_cpu():  # as a whole: parts made on two devices do not fit together
            network = MaceEnergy(self.config, numbers)
        network.to(env.DEVICE)
        freeze_parts(network, self.config.freeze)
        return network

    def launch_kernels(self, kernels: "TritonKernels") -> None:
        """Evaluate with generated kernels from now on, on a GPU; the model cannot be trained or scripted any more.

        Parameters
        ----------
        kernels : TritonKernels
            Of this model's network.
        """
        kernels.install(self.energy_model)
        self.launches_kernels = True
        self.replay = Replay(self._evaluate)

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
        fparam, aparam, charge_spin : torch.Tensor, optional
            Not used by MACE.
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
                return self.predict_with_hessian(coord, atype, box, do_atomic_virial)
        return self.predict(coord, atype, box, do_atomic_virial)

    def predict(
        self, coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None, do_atomic_virial: bool
    ) -> dict[str, torch.Tensor]:
        """:meth:`forward` without second derivatives."""
        nf, nloc = atype.shape
        graph = self.graph_of_frames(coord, atype, box, not self.launches_kernels)
        energy, force, atom_virial = self.evaluate(graph, atype, nloc, nloc, None)
        result = {
            "atom_energy": energy,
            "energy": energy.sum(dim=1),
            "force": force,
            "virial": atom_virial.sum(dim=1),
            "mask": (atype >= 0).to(torch.int32),
        }
        if do_atomic_virial:
            result["atom_virial"] = atom_virial
        return result

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
            Owner of each extended atom, shape (nf, nall); not read if `comm_dict` is given.
        comm_dict : dict[str, torch.Tensor], optional
            Communication tensors of a rank.
        fparam, aparam, do_atomic_virial, extra_nlist_sort, extended_coord_corr, charge_spin : Any
            Not used.

        Returns
        -------
        dict[str, torch.Tensor]
            ``energy`` (nf, nloc, 1), ``energy_redu`` (nf, 1), ``energy_derv_r`` (nf, nall, 1, 3),
            ``energy_derv_c`` (nf, nall, 1, 9), ``energy_derv_c_redu`` (nf, 1, 9), ``mask`` (nf, nloc); float64.
        """
        nf, nall = extended_atype.shape
        nloc = nlist.shape[1]
        graph = self.graph_of_list(extended_coord, extended_atype, nlist, mapping, comm_dict is not None)
        energy, force, atom_virial = self.evaluate(graph, extended_atype[:, :nloc], nloc, nall, comm_dict)
        return {
            "energy": energy,
            "energy_redu": energy.sum(dim=1),
            "energy_derv_r": force.unsqueeze(2),
            "energy_derv_c": atom_virial.unsqueeze(2),
            "energy_derv_c_redu": atom_virial.sum(dim=1).unsqueeze(1),
            "mask": (extended_atype[:, :nloc] >= 0).to(torch.int32),
        }

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
        result = {
            "atom_energy": inner["energy"],
            "energy": inner["energy_redu"],
            "extended_force": inner["energy_derv_r"].squeeze(2),
            "virial": inner["energy_derv_c_redu"].squeeze(1),
            "mask": inner["mask"],
        }
        if do_atomic_virial:
            result["extended_virial"] = inner["energy_derv_c"].squeeze(2)
        return result

    def evaluate(
        self,
        graph: AtomGraph,
        atype: torch.Tensor,
        nloc: int,
        nall: int,
        comm_dict: dict[str, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Energies and derivatives of a graph: the one path behind every interface.

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
            Shapes (nf, nloc, 1), (nf, nall, 3), (nf, nall, 9).
        """
        if self.launches_kernels and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.replay(graph, atype, nloc, nall)
        return self._evaluate(graph, atype, nloc, nall, comm_dict)

    def _evaluate(
        self,
        graph: AtomGraph,
        atype: torch.Tensor,
        nloc: int,
        nall: int,
        comm_dict: dict[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        nf = atype.shape[0]
        differentiable = self.training or graph.edge_vec.requires_grad
        with Differentiable():  # forces need autograd also where the caller switched it off
            # A leaf, unless the coordinates carry a graph themselves (second derivatives).
            edge_vec = (
                graph.edge_vec
                if graph.edge_vec.requires_grad
                else graph.edge_vec.detach().requires_grad_(True)
            )
            leaf = AtomGraph(
                graph.node_types,
                graph.sender_types,
                graph.edge_index,
                edge_vec,
                graph.edge_atoms,
                graph.incoming,
                graph.outgoing,
                graph.order,
                graph.begin,
                graph.node_place,
                graph.chunk_nodes,
                graph.chunk_widths,
                graph.chunk_table,
            )
            energy = self.atom_energies(leaf, atype.reshape(-1), comm_dict)
            gradient = edge_gradient(energy, edge_vec, differentiable)
            force, atom_virial = atomic_derivatives(gradient, leaf, nf * nall)
        if not differentiable:
            energy, force, atom_virial = energy.detach(), force.detach(), atom_virial.detach()
        return energy.view(nf, nloc, 1), force.view(nf, nall, 3), atom_virial.view(nf, nall, 9)

    def atom_energies(
        self, graph: AtomGraph, atype: torch.Tensor, comm_dict: dict[str, torch.Tensor] | None
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

        Returns
        -------
        torch.Tensor
            float64, shape (natom,).
        """
        nnode = graph.node_types.shape[0]
        kinds = rows_between(graph.node_types, 1, nnode)
        if self.uses_cuequivariance(graph) and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            energy = self.cuequivariance_energies(graph)
        else:
            energy = self.energy_model(graph, comm_dict)[0]
        energy = rows_between(energy, 1, nnode, trains_compiled(graph))
        energy = energy + self.out_bias[0, :, 0][kinds]
        counts = atype >= 0
        if self.excludes_atoms:
            counts = counts & torch.tensor(self.atom_counts, device=counts.device)[kinds]
        return torch.where(counts, energy, torch.zeros_like(energy))

    def __setattr__(self, name: str, value: Any) -> None:
        """Accept a plain number for ``min_nbor_dist``, as one of the host's trainers assigns it."""
        if name == "min_nbor_dist" and not isinstance(value, torch.Tensor):
            value = torch.tensor(
                -1.0 if value is None else float(value), dtype=torch.float64, device=env.DEVICE
            )
        super().__setattr__(name, value)


# The host looks up what it shares between tasks by the type of the section.
BaseDescriptor.register("mace")(Descriptor)
count_mace_models(DeepEval)

# If this module is imported before DeePMD-kit, the exportable backend has loaded its entry point while this module
# was still half initialised: register there now.
if "deepmd.pt_expt" in sys.modules:
    from deepmd_gnn.pt_expt import register

    register(MaceModel)

# The same for the wrapper around the host's Python inference, which needs the host's whole model package.
if hasattr(sys.modules.get("deepmd.pt.model.model"), "get_model"):
    from deepmd_gnn.host.device_inference import wrap_inference

    wrap_inference()
