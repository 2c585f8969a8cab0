"""A DeePMD-kit model of any network that gives atomic energies on a graph: the host's names, answered by the other files here.

``forward`` → :class:`~deepmd_gnn.host.inputs.GraphBuilder` → :class:`~deepmd_gnn.host.evaluation.Evaluation` →
:mod:`~deepmd_gnn.host.results`.
"""

import functools
import json
from collections.abc import Callable
from typing import Any, Final

import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from deepmd.pt.utils import env
from deepmd.pt.utils.update_sel import UpdateSel
from deepmd.utils.path import DPPath

from deepmd_gnn.config.isolated_atoms import energies_in_section
from deepmd_gnn.config.options import check_type_map, exclusion_tables
from deepmd_gnn.config.sections import set_sel
from deepmd_gnn.config.versions import package_versions
from deepmd_gnn.export import traced_edge_lower, traced_program
from deepmd_gnn.graph.arrangement import slots_per_chunk
from deepmd_gnn.host import bias, patches, statistics
from deepmd_gnn.host.edge_lower import evaluate_edges
from deepmd_gnn.host.embedding import Embedding
from deepmd_gnn.host.hessian import hessian
from deepmd_gnn.host.inputs import GraphBuilder
from deepmd_gnn.host.labels import Sampled, cell_of_batch, check_files, warn_of_ignored_cells
from deepmd_gnn.host.observed_types import unknown_types
from deepmd_gnn.host.padded_lower import evaluate_slots
from deepmd_gnn.host.protocol import Options
from deepmd_gnn.host.results import mask_of, public_results, results_of_frames
from deepmd_gnn.host.sharing import Descriptor, FittingNet
from deepmd_gnn.host.storage import definition, rebuilt, serialized
from deepmd_gnn.host.stored_options import pack
from deepmd_gnn.nn.elements import copy_elements
from deepmd_gnn.nn.network import EnergyNetwork

# Where the number of neighbours was not looked up (--skip-neighbor-stat): only a hint.
_DEFAULT_SEL = 128


class GraphModel(Embedding):
    """Model of a network.

    A subclass gives the network (:meth:`new_network`), its options (:meth:`config_from_options`) and, if it has them, what
    else is its own; :func:`~deepmd_gnn.host.registry.register` enters it into the host.

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
        Options of the network and generic keys of the host.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """

    # What the statistics were counted from, for tasks that share them; empty once weights are loaded.
    counted: dict[str, list[float]]
    excludes_atoms: Final[bool]  # type: ignore[misc]
    __jit_unused_properties__ = [  # noqa: RUF012 - torch's name
        "atomic_model", "descriptor", "fitting_net", "observed_type", "pair_excl", "atom_excl", "replay",
    ]  # fmt: skip

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
        patches.apply()  # of modules of the host that were not loaded when the model was registered
        self.hessian_mode = bool(hessian_mode)
        self.type_map = list(type_map)
        self.config = self.config_from_options(options)
        self.rcut = float(self.config.r_max)
        sel = self.config.sel
        self.sel = _DEFAULT_SEL if isinstance(sel, str) else int(sel)
        self.pair_exclude_types = [[int(i), int(j)] for i, j in pair_exclude_types or []]
        self.atom_exclude_types = [int(i) for i in atom_exclude_types or []]
        self.preset_out_bias = preset_out_bias
        self.energy_model = self.new_network(self.atomic_numbers_of(self.type_map)).to(env.DEVICE)
        self.nlayers = self.energy_model.nlayers
        self.set_exclusions()
        self.counted = {}
        ntypes = len(self.type_map)
        self.register_buffer("out_bias", torch.zeros(1, ntypes, 1, dtype=torch.float64, device=env.DEVICE))
        self.register_buffer("out_std", torch.ones(1, ntypes, 1, dtype=torch.float64, device=env.DEVICE))
        self.set_option_tensors()
        self.register_buffer("observed", unknown_types(ntypes).to(env.DEVICE))
        bias.set_given_bias(self)
        # Both travel with a frozen file. The host replaces the script by the input's model section, if it has one.
        self.model_def_script = json.dumps(definition(self))
        self.versions = package_versions()

    # --- what a network adds ------------------------------------------------------------------------------------

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> Options:
        """Check the options of a model section and make the network's configuration; raise ValueError for bad ones."""
        raise NotImplementedError

    def new_network(self, atomic_numbers: list[int]) -> EnergyNetwork:
        """Build a network for these elements with initial weights."""
        raise NotImplementedError

    def described_options(self) -> dict[str, dict[str, Any]]:
        """What must not change under the weights, in two parts, see :mod:`~deepmd_gnn.host.stored_options`."""
        return {
            "network_options": {**self.config.to_dict(), "type_map": list(self.type_map)},
            "readout_options": {},
        }

    def atomic_numbers_of(self, type_map: list[str]) -> list[int]:
        """Atomic numbers of the types; raise ValueError for a type that the network cannot have."""
        return check_type_map(type_map, ATOMIC_NUMBERS)

    @classmethod
    def check_training(cls, config: Options) -> None:
        """Refuse, before the work begins, a training that this machine cannot do."""

    # --- evaluation ---------------------------------------------------------------------------------------------

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
                return self.predict_with_hessian(coord, atype, box, do_atomic_virial)
        return self.predict(coord, atype, box, do_atomic_virial)

    def predict(
        self, coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None, do_atomic_virial: bool
    ) -> dict[str, torch.Tensor]:
        """:meth:`forward` without second derivatives."""
        nloc = atype.shape[1]
        graph = self.graphs.of_frames(coord, atype, box)
        energy, force, atom_virial = self.evaluate(graph, atype, nloc, nloc, None)
        inner = results_of_frames(energy, force, atom_virial)
        return public_results(inner, mask_of(atype), "", do_atomic_virial)

    @torch.jit.unused
    def predict_with_hessian(
        self, coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None, do_atomic_virial: bool
    ) -> dict[str, torch.Tensor]:
        """:meth:`forward` with second derivatives, see :func:`~deepmd_gnn.host.hessian.hessian`."""
        return hessian(lambda x: self.predict(x, atype, box, do_atomic_virial), coord, self.training)

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
        owned = extended_atype[:, :nloc]
        coord = extended_coord.reshape(nf, nall, 3).to(torch.float64)
        graph = self.graphs.of_list(coord, extended_atype, nlist, mapping, comm_dict is not None)
        if nf == 1:  # several frames come from Python, whose lists are whole
            lacking = self.graphs.lists.lacking_pairs(coord, extended_atype, nloc, graph)
            if lacking.shape[1] > 0:
                has_energy = self.lone_energies().abs() > 1.0e-6
                self.graphs.lists.refuse(lacking, graph, extended_atype, has_energy)
        graph = self.graphs.arranged(self.graphs.without_excluded_pairs(graph))
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
            Sample inputs: the first ten arguments of :meth:`forward_common_lower_graph`.
        fparam, aparam, charge_spin : torch.Tensor, optional
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
        """Trace the edge-list lower for several ranks: eight communication tensors follow the other inputs."""
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

    # --- statistics ---------------------------------------------------------------------------------------------

    def compute_or_load_stat(
        self,
        sampled_func: Callable[[], Sampled],
        stat_file_path: DPPath | None = None,
        preset_observed_type: list[str] | None = None,
    ) -> None:
        """See :func:`~deepmd_gnn.host.statistics.compute_or_load_stat`."""
        statistics.compute_or_load_stat(self, sampled_func, stat_file_path, preset_observed_type)

    def get_out_bias(self) -> torch.Tensor:
        """E0 of each type in eV, shape (1, ntypes, 1)."""
        return self.out_bias

    def set_out_bias(self, out_bias: torch.Tensor) -> None:
        """Set E0 of each type in eV, shape (1, ntypes, 1)."""
        self.out_bias.copy_(torch.as_tensor(out_bias).view_as(self.out_bias))

    def change_out_bias(
        self, merged: Callable[[], Sampled] | Sampled, bias_adjust_mode: str = "change-by-statistic"
    ) -> None:
        """See :func:`~deepmd_gnn.host.bias.change_out_bias`."""
        bias.change_out_bias(self, merged, bias_adjust_mode)

    def predict_atomic_outputs_for_stat(
        self,
        coord: Any,
        atype: Any,
        box: Any,
        fparam: Any = None,
        aparam: Any = None,
        charge_spin: Any = None,
        spin: Any = None,
    ) -> dict[str, torch.Tensor]:
        """Atomic energies of frames, for the regression of E0; arrays or tensors."""
        coord = torch.as_tensor(coord, device=env.DEVICE)
        atype = torch.as_tensor(atype, device=env.DEVICE).long()
        box = None if box is None else torch.as_tensor(box, device=env.DEVICE)
        was_training = self.training
        self.eval()
        try:
            return {"energy": self.forward(coord, atype, box)["atom_energy"]}
        finally:
            self.train(was_training)

    @classmethod
    def update_sel(
        cls, train_data: Any, type_map: list[str] | None, local_jdata: dict[str, Any]
    ) -> tuple[dict[str, Any], float | None]:
        """Fill in ``sel`` from the data and E0 from their file; called by the trainer before the model is built."""
        patches.apply()
        config = cls.config_from_options(local_jdata)
        cls.check_training(config)
        check_files(train_data)
        warn_of_ignored_cells(train_data)
        distance, sel = UpdateSel().update_one_sel(
            train_data, type_map, config.r_max, config.sel, mixed_type=True
        )
        # Data without any pair have no neighbours, but no buffer has room for none.
        return set_sel(energies_in_section(local_jdata, type_map), max(int(sel[0]), 1)), distance

    # --- elements, sharing, storage -----------------------------------------------------------------------------

    def set_exclusions(self) -> None:
        """Make the builder of graphs, and tabulate the types without energy."""
        slots = slots_per_chunk(self.energy_model.channels, self.energy_model.dtype.itemsize)
        self.graphs = GraphBuilder(self.type_map, self.rcut, self.nlayers, slots, self.pair_exclude_types)
        _, self.atom_counts = exclusion_tables(len(self.type_map), [], self.atom_exclude_types)
        self.excludes_atoms = bool(self.atom_exclude_types)  # type: ignore[misc]

    def set_option_tensors(self) -> None:
        """Keep the options beside the weights, for those who load them (:mod:`~deepmd_gnn.host.stored_options`)."""
        for name, options in self.described_options().items():
            self.register_buffer(name, pack(options).to(env.DEVICE))

    def change_type_map(self, type_map: list[str], model_with_new_type_stat: Any = None) -> None:
        """Take other elements: fewer, more or in another order (``dp --pt train --finetune``).

        Parameters
        ----------
        type_map : list[str]
            The new elements. Those the model knows keep their weights and E0, others start anew.
        model_with_new_type_stat : GraphModel, optional
            Model of the new data, with `type_map`, that gives new elements their E0.
        """
        numbers = self.atomic_numbers_of(type_map)
        kept = [
            (self.type_map.index(name), new) for new, name in enumerate(type_map) if name in self.type_map
        ]
        network = self.new_network(numbers).to(env.DEVICE)
        copy_elements(self.energy_model, network, kept)
        energies = self.out_bias.new_zeros(1, len(type_map), 1)
        observed = unknown_types(len(type_map)).to(self.observed.device)
        if model_with_new_type_stat is not None:
            energies.copy_(model_with_new_type_stat.get_out_bias())
            observed.copy_(model_with_new_type_stat.observed)
        for old, new in kept:
            energies[0, new] = self.out_bias[0, old]
            observed[new] = self.observed[old]
        self.energy_model = network
        self.out_bias = energies
        self.observed = observed
        self.out_std = torch.ones_like(energies)
        self.type_map = list(type_map)
        place = dict(kept)
        self.pair_exclude_types = [
            [place[i], place[j]] for i, j in self.pair_exclude_types if i in place and j in place
        ]
        self.atom_exclude_types = [place[i] for i in self.atom_exclude_types if i in place]
        self.set_exclusions()
        self.set_option_tensors()

    @property
    def descriptor(self) -> Descriptor:
        """What multi-task training can share: everything before the readouts."""
        return Descriptor(self)

    @property
    def fitting_net(self) -> FittingNet:
        """What belongs to one task: readouts and scale."""
        return FittingNet(self)

    def get_descriptor(self) -> Descriptor:
        """See :attr:`descriptor`."""
        return self.descriptor

    def get_fitting_net(self) -> FittingNet:
        """See :attr:`fitting_net`."""
        return self.fitting_net

    def serialize(self) -> dict[str, Any]:
        """Everything that rebuilds this model, in the host's portable format."""
        return serialized(self)

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "GraphModel":
        """Rebuild a model from :meth:`serialize`, see :func:`~deepmd_gnn.host.storage.rebuilt`."""
        return rebuilt(cls, data)

    def __getattr__(self, name: str) -> Any:
        """The host looks its parts up as if they were submodules (``atomic_model.__getattr__("fitting_net")``)."""
        if name in ("descriptor", "fitting_net"):
            return object.__getattribute__(self, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Accept a plain number for ``min_nbor_dist``, as one of the host's trainers assigns it."""
        if name == "min_nbor_dist" and not isinstance(value, torch.Tensor):
            value = torch.tensor(
                -1.0 if value is None else float(value), dtype=torch.float64, device=env.DEVICE
            )
        super().__setattr__(name, value)
