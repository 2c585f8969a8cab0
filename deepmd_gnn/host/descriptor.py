"""A network's node features as a descriptor of DeePMD-kit's own models, which put their fitting networks on it."""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from ase.data import atomic_numbers as ATOMIC_NUMBERS
from deepmd.pt.utils import env
from deepmd.pt.utils.update_sel import UpdateSel
from deepmd.pt.utils.utils import to_numpy_array, to_torch_tensor
from deepmd.utils.path import DPPath

from deepmd_gnn.config.options import check_type_map
from deepmd_gnn.config.versions import newer_writer, package_versions
from deepmd_gnn.files.portable import with_arrays
from deepmd_gnn.graph.arrangement import slots_per_chunk
from deepmd_gnn.host.counts import CachedNumbers, count_neighbors
from deepmd_gnn.host.descriptor_answers import DescriptorAnswers
from deepmd_gnn.host.inputs import GraphBuilder
from deepmd_gnn.host.labels import Sampled, check_files, warn_of_ignored_cells
from deepmd_gnn.host.protocol import Options
from deepmd_gnn.host.stored_options import pack, unpack
from deepmd_gnn.nn.elements import copy_elements
from deepmd_gnn.nn.network import EnergyNetwork

log = logging.getLogger("deepmd.deepmd_gnn")

# Of serialize(): goes up when older versions of this package would misread it.
FORMAT = 1
# Where the number of neighbours was not looked up (--skip-neighbor-stat).
_DEFAULT_ROOM = 256


class GraphDescriptor(DescriptorAnswers):
    """Node features of a network.

    A subclass gives the network, its options and where they have vectors; what energies need is left out of the network.

    Parameters
    ----------
    type_map : list[str]
        Chemical symbols.
    ntypes : int, optional
        Their number, as the host knows it.
    exclude_types : list[list[int]], optional
        Pairs of types that do not see each other.
    trainable : bool
        Whether the weights are trained.
    **options : Any
        Options of the network.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """

    if TYPE_CHECKING:
        options: torch.Tensor

    def __init__(
        self,
        type_map: list[str],
        ntypes: int | None = None,  # noqa: ARG002 - the host's signature
        exclude_types: list[list[int]] | None = None,
        trainable: bool = True,
        **options: Any,
    ) -> None:
        torch.nn.Module.__init__(self)
        self.type_map = list(type_map)
        self.config = self.config_from_options(options)
        self.trainable = bool(trainable)
        self.rcut = float(self.config.r_max)
        sel = self.config.sel
        self.room = _DEFAULT_ROOM if isinstance(sel, str) else int(sel)
        self.exclude_types = [[int(i), int(j)] for i, j in exclude_types or []]
        self.network = self.new_network(self.atomic_numbers_of(self.type_map)).to(env.DEVICE)
        self.vectors = self.places_of_vectors()
        self.nlayers = self.network.nlayers
        self.channels = self.network.channels
        # What the statistic was counted from, for tasks that share it; empty once weights are loaded.
        self.counted: list[float] = []
        self.prepare()

    # --- what a network adds ------------------------------------------------------------------------------------

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> Options:
        """Check the options of a section and make the network's configuration; raise ValueError for bad ones."""
        raise NotImplementedError

    def new_network(self, atomic_numbers: list[int]) -> EnergyNetwork:
        """Build a network for these elements with initial weights, without what reads energies."""
        raise NotImplementedError

    def places_of_vectors(self) -> list[int]:
        """First component of the vectors of each layer's features, −1 where it has none."""
        raise NotImplementedError

    def described_options(self) -> dict[str, Any]:
        """What must not change under the weights: plain values."""
        raise NotImplementedError

    def section(self) -> dict[str, Any]:
        """Keys of a section that build this descriptor, plain values."""
        raise NotImplementedError

    def atomic_numbers_of(self, type_map: list[str]) -> list[int]:
        """Atomic numbers of the types; raise ValueError for a type that the network cannot have."""
        return check_type_map(type_map, ATOMIC_NUMBERS)

    # --- evaluation ---------------------------------------------------------------------------------------------

    def forward(
        self,
        extended_coord: torch.Tensor,
        extended_atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: torch.Tensor | None = None,
        comm_dict: dict[str, torch.Tensor] | None = None,
        fparam: torch.Tensor | None = None,  # noqa: ARG002 - the host's signature
        charge_spin: torch.Tensor | None = None,  # noqa: ARG002
    ) -> tuple[
        torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None
    ]:
        """Compute the descriptor; the host differentiates what it makes of it with respect to the coordinates.

        Parameters
        ----------
        extended_coord : torch.Tensor
            Å, shape (nf, nall * 3) or (nf, nall, 3), owned atoms first.
        extended_atype : torch.Tensor
            Shape (nf, nall).
        nlist : torch.Tensor
            Shape (nf, nloc, nnei), −1 where empty; as wide as :meth:`get_sel` says if the host has cut it.
        mapping : torch.Tensor, optional
            Owner of each extended atom, shape (nf, nall); on a CPU not read if `comm_dict` is given, elsewhere read instead of it.
        comm_dict : dict[str, torch.Tensor], optional
            Communication tensors of a rank.
        fparam, charge_spin : torch.Tensor, optional
            Not used.

        Returns
        -------
        tuple
            Scalars (nf, nloc, layers * channels); vectors (nf, nloc, ·, 3), None if there are none; three times None. Scalars
            and vectors have the host's precision.

        Raises
        ------
        ValueError
            If an atom has more neighbours than the list has room for, or the input is invalid.
        """
        nf, nloc, nnei = nlist.shape
        if nnei > self.room and bool((nlist >= 0).all(dim=2).any()):
            raise ValueError(
                f"mace descriptor: an atom has more than {self.room} neighbours within {self.rcut} Å (sel), and DeePMD-kit would leave "
                "some out. Write a larger sel into the descriptor section; docs/descriptor.md says how for a trained file."
            )
        nall = extended_atype.shape[1]
        if comm_dict is not None and nall == 0:
            # If virials of atoms are asked for, of which nothing is known here, the others would wait for ever: the host then
            # differentiates several times, through the exchange each time, and this rank does not take part in all of them.
            raise ValueError(
                "mace descriptor: a rank has neither atoms nor ghosts. Use fewer ranks, `processors` or `balance` in LAMMPS, so that "
                "every rank sees an atom."
            )
        coord = extended_coord.reshape(nf, nall, 3).to(torch.float64)
        if mapping is not None and coord.device.type != "cpu":
            comm_dict = None  # as in host/lowers.py
        graph = self.graphs.of_list(coord, extended_atype, nlist, mapping, comm_dict is not None)
        graph = self.graphs.arranged(self.graphs.without_excluded_pairs(graph))
        layers = self.network(graph, comm_dict)[1]
        scalars: list[torch.Tensor] = []
        vectors: list[torch.Tensor] = []
        for layer, place in zip(layers, self.vectors):  # noqa: B905 - TorchScript
            scalars.append(layer[1:, 0])  # the guard is the first row
            if place >= 0:
                vectors.append(layer[1:, place : place + 3].transpose(1, 2))
        found = torch.cat(scalars, dim=1)
        precision = env.GLOBAL_PT_FLOAT_PRECISION
        invariant = found.reshape(nf, nloc, found.shape[1]).to(dtype=precision)
        equivariant: torch.Tensor | None = None
        if len(vectors) > 0:
            rows = torch.cat(vectors, dim=1)
            equivariant = rows.reshape(nf, nloc, rows.shape[1], 3).to(dtype=precision)
        return invariant, equivariant, None, None, None

    # --- statistics ---------------------------------------------------------------------------------------------

    def compute_input_stats(
        self, merged: Callable[[], Sampled] | Sampled, path: DPPath | None = None
    ) -> None:
        """Set ``avg_num_neighbors`` if it is "auto", from the stat file if it has it, else from the data.

        Parameters
        ----------
        merged : list or Callable
            Sampled frames of each system, or a function that returns them.
        path : DPPath, optional
            Where statistics are kept.
        """
        origin = "given"
        if self.config.avg_num_neighbors == "auto":
            pairs = "".join(f"_without{i}-{j}" for i, j in sorted(self.exclude_types))
            cache = CachedNumbers(path, f"r{self.rcut:g}{pairs}")
            numbers, origin = cache.load("avg_num_neighbors"), "from the stat file"
            if numbers is None or len(numbers) != 2:
                allowed = self.graphs.pair_allowed if self.graphs.excludes_pairs else None
                numbers = count_neighbors(merged() if callable(merged) else merged, self.rcut, allowed)
                origin = "from the training data"
                cache.save("avg_num_neighbors", numbers)
            self.counted = numbers
            self.set_average()
        average = float(self.network.avg_num_neighbors)
        log.info("%s descriptor avg_num_neighbors: %.4f (%s)", self.type_name, average, origin)

    def set_average(self) -> None:
        """Set the mean number of neighbours to what was counted."""
        edges, atoms = self.counted
        self.network.avg_num_neighbors.fill_(edges / atoms if atoms else 1.0)

    def set_stat_mean_and_stddev(self, mean: torch.Tensor, stddev: torch.Tensor) -> None:  # noqa: ARG002
        """Set the statistic, shape (), see :meth:`get_stat_mean_and_stddev`."""
        self.network.avg_num_neighbors.copy_(mean)

    def get_stat_mean_and_stddev(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The statistic, ``avg_num_neighbors``, shape (), as the host's mean; nothing is divided by a deviation, which is 1."""
        mean = self.network.avg_num_neighbors
        return mean, torch.ones_like(mean)

    @classmethod
    def update_sel(
        cls, train_data: Any, type_map: list[str] | None, local_jdata: dict[str, Any]
    ) -> tuple[dict[str, Any], float | None]:
        """Fill in ``sel`` from the data; called by the trainer before the model is built."""
        host_keys = ("type", "trainable", "exclude_types")
        config = cls.config_from_options({k: v for k, v in local_jdata.items() if k not in host_keys})
        check_files(train_data)
        warn_of_ignored_cells(train_data)
        distance, sel = UpdateSel().update_one_sel(
            train_data, type_map, config.r_max, config.sel, mixed_type=True
        )
        return {**local_jdata, "sel": max(int(sel[0]), 1)}, distance

    # --- elements, sharing, storage -----------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make what depends on the elements besides the network: the builder of graphs, and the options beside the weights."""
        slots = slots_per_chunk(self.network.channels, self.network.dtype.itemsize)
        self.graphs = GraphBuilder(self.type_map, self.rcut, self.nlayers, slots, self.exclude_types)
        described = {"type": self.type_name, **self.described_options()}
        self.register_buffer("options", pack(described).to(env.DEVICE))
        if not self.trainable:
            self.network.requires_grad_(False)

    def change_type_map(self, type_map: list[str], model_with_new_type_stat: Any = None) -> None:  # noqa: ARG002
        """Take other elements: fewer, more or in another order (``dp --pt train --finetune``).

        Parameters
        ----------
        type_map : list[str]
            The new elements. Those that are known keep their weights, others start anew.
        model_with_new_type_stat : GraphDescriptor, optional
            Not used: the statistic belongs to the weights.
        """
        network = self.new_network(self.atomic_numbers_of(type_map)).to(env.DEVICE)
        known = {name: place for place, name in enumerate(self.type_map)}
        kept = [(known[name], new) for new, name in enumerate(type_map) if name in known]
        copy_elements(self.network, network, kept)
        places = dict(kept)
        self.network = network
        self.exclude_types = [
            [places[i], places[j]] for i, j in self.exclude_types if i in places and j in places
        ]
        self.type_map = list(type_map)
        self.prepare()

    def share_params(self, base_class: Any, shared_level: int, resume: bool = False) -> None:
        """Use the network of another descriptor from now on, statistic included (multi-task training).

        Parameters
        ----------
        base_class : GraphDescriptor
            Whose weights stay.
        shared_level : int
            0: everything.
        resume : bool
            Whether the statistics come from a checkpoint, so that they are not merged.

        Raises
        ------
        ValueError
            If the level is not 0, or the descriptors differ.
        """
        if int(shared_level) != 0:
            raise ValueError(
                f"{self.type_name} descriptor: shared at level {shared_level}, but only level 0 (all of it) is possible."
            )
        if type(base_class) is not type(self):
            raise ValueError(
                f'{self.type_name} descriptor: it cannot be shared with a model of "type": "{self.type_name}". Give both tasks a '
                "fitting_net of DeePMD-kit, or both that type."
            )
        refuse_others(base_class.options, self.options, "other task")
        if not resume and self.counted and base_class.counted:
            base_class.counted = [a + b for a, b in zip(self.counted, base_class.counted, strict=True)]
            base_class.set_average()
        self.network = base_class.network

    def serialize(self) -> dict[str, Any]:
        """Everything that rebuilds this descriptor, in the host's portable format."""
        return {
            "@class": "Descriptor",
            "@version": FORMAT,
            "@versions": package_versions(),
            "type": self.type_name,
            "type_map": list(self.type_map),
            "exclude_types": self.exclude_types,
            "trainable": self.trainable,
            **self.section(),
            "sel": self.room,
            "@variables": {name: to_numpy_array(value) for name, value in self.network.state_dict().items()},
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "GraphDescriptor":
        """Rebuild a descriptor from :meth:`serialize`."""
        newer = newer_writer(data.get("@versions"))
        if newer and data.get("@version", 1) > FORMAT:
            raise ValueError(
                f"{cls.type_name} descriptor: this file {newer}. (Its format is {data['@version']}.)"
            )
        variables = with_arrays(data)["@variables"]
        made = cls(**{key: value for key, value in data.items() if key[0] != "@" and key != "type"})
        made.network.load_state_dict({name: to_torch_tensor(value) for name, value in variables.items()})
        return made

    @torch.jit.unused
    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Compare the options of a file with this descriptor's, of which many are in no shape."""
        self.counted = []
        stored = state_dict.get(f"{prefix}options")
        if stored is not None:
            refuse_others(stored, self.options, "file")
            state_dict[f"{prefix}options"] = self.options
        torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *others)


def refuse_others(theirs: torch.Tensor, ours: torch.Tensor, place: str) -> None:
    """Compare the options of two descriptors that are to have the same weights; a function, because TorchScript files ask too.

    Parameters
    ----------
    theirs, ours : torch.Tensor
        Packed, uint8, shape (nbyte,).
    place : str
        Where theirs are.

    Raises
    ------
    ValueError
        If they differ.
    """
    stored, given = unpack(theirs), unpack(ours)
    found = [
        f"'{key}' is {stored.get(key)!r} in the {place} and {value!r} here"
        for key, value in given.items()
        if stored.get(key) != value
    ]
    if found:
        raise ValueError(
            f"{given['type']} descriptor: the weights of the {place} belong to another one: {'; '.join(found)}. Give both the same "
            "options; for other elements use --finetune."
        )
