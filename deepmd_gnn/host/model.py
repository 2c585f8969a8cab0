"""A DeePMD-kit model of any network that gives atomic energies on a graph: how it is made, its statistics, elements and storage.

It is an :class:`~deepmd_gnn.host.interface.HostInterface`, an :class:`~deepmd_gnn.host.evaluation.Evaluation`, an
:class:`~deepmd_gnn.host.embedding.Embedding`, :class:`~deepmd_gnn.host.uncertainty.Uncertain` and has the host's :class:`~deepmd_gnn.host.lowers.Lowers`, one above the other.
"""

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
from deepmd_gnn.graph.arrangement import slots_per_chunk
from deepmd_gnn.graph.compilation import compilation
from deepmd_gnn.host import bias, patches, statistics
from deepmd_gnn.host.frame_values import FrameValues, frame_features
from deepmd_gnn.host.inputs import GraphBuilder
from deepmd_gnn.host.labels import Sampled, check_files, warn_of_ignored_cells
from deepmd_gnn.host.lowers import Lowers
from deepmd_gnn.host.observed_types import unknown_types
from deepmd_gnn.host.protocol import Options
from deepmd_gnn.host.sharing import Descriptor, FittingNet
from deepmd_gnn.host.storage import definition, rebuilt, serialized
from deepmd_gnn.host.stored_options import pack
from deepmd_gnn.host.stored_uncertainty import forget_uncertainty
from deepmd_gnn.kernels.tables.scripted import tabulate
from deepmd_gnn.nn.elements import copy_elements
from deepmd_gnn.nn.network import EnergyNetwork
from deepmd_gnn.nn.uncertainty import LastLayerUncertainty

# Where the number of neighbours was not looked up (--skip-neighbor-stat): only a hint.
_DEFAULT_SEL = 128
# A hint, and where the initial weights came from: weights that are loaded do not depend on them.
_FREE = ("sel", "seed")


class GraphModel(Lowers):
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
        # Of the interaction of charges, 0 without.
        charged = bool(getattr(self.config, "use_coulomb_term", False))
        self.coulomb_cutoff = float(getattr(self.config, "coulomb_cutoff", 0.0)) if charged else 0.0
        sel = self.config.sel
        self.sel = _DEFAULT_SEL if isinstance(sel, str) else int(sel)
        self.pair_exclude_types = [[int(i), int(j)] for i, j in pair_exclude_types or []]
        self.atom_exclude_types = [int(i) for i in atom_exclude_types or []]
        self.preset_out_bias = preset_out_bias
        self.energy_model = self.new_network(self.atomic_numbers_of(self.type_map)).to(env.DEVICE)
        self.nlayers = self.energy_model.nlayers
        self.frame_values = FrameValues(frame_features(self))
        self.uncertainty = LastLayerUncertainty().to(env.DEVICE)
        self.last_layer_size = self._last_layer_size()
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
        options = {key: value for key, value in self.config.to_dict().items() if key not in _FREE}
        return {
            "network_options": {**options, "type_map": list(self.type_map)},
            "readout_options": {},
        }

    def atomic_numbers_of(self, type_map: list[str]) -> list[int]:
        """Atomic numbers of the types; raise ValueError for a type that the network cannot have."""
        return check_type_map(type_map, ATOMIC_NUMBERS)

    @classmethod
    def check_training(cls, config: Options) -> None:
        """Refuse, before the work begins, a training that this machine cannot do."""

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
        """Evaluate frames for the regression of E0.

        Parameters
        ----------
        coord, atype, box : array_like
            As in ``forward``, arrays or tensors: Å, shapes (nf, nloc, 3), (nf, nloc) and (nf, 9).
        fparam : array_like, optional
            Quantities of the frames, shape (nf, nquantity).
        aparam, charge_spin, spin : Any
            Not used.

        Returns
        -------
        dict[str, torch.Tensor]
            ``energy`` of the atoms, eV, shape (nf, nloc, 1).
        """
        coord = torch.as_tensor(coord, device=env.DEVICE)
        atype = torch.as_tensor(atype, device=env.DEVICE).long()
        box = None if box is None else torch.as_tensor(box, device=env.DEVICE)
        values = None if fparam is None else torch.as_tensor(fparam, device=env.DEVICE)
        was_training = self.training
        self.eval()
        try:
            return {"energy": self.forward(coord, atype, box, values)["atom_energy"]}
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

    @torch.jit.unused
    def _last_layer_size(self) -> int:
        weights = dict(self.energy_model.named_parameters())
        return sum(weights[name].numel() for name in self.energy_model.last_layer())

    # --- elements, sharing, storage -----------------------------------------------------------------------------

    def set_exclusions(self) -> None:
        """Make the builder of graphs, and tabulate the types without energy."""
        slots = slots_per_chunk(self.energy_model.channels, self.energy_model.dtype.itemsize)
        self.graphs = GraphBuilder(
            self.type_map, self.rcut, self.nlayers, slots, self.pair_exclude_types, self.coulomb_cutoff
        )
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
        forget_uncertainty(self, "the elements are others")
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

    def __prepare_scriptable__(self) -> "GraphModel":
        """What torch asks a module for before it scripts it: with radial tables, if the weights are final."""
        if compilation().tabulates_scripted:
            tabulate(self)
        return self

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
