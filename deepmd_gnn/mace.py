"""``"type": "mace"``: MACE as a model of DeePMD-kit. What is MACE's own; the rest is :class:`~deepmd_gnn.host.model.GraphModel`."""

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

import deepmd_gnn.mace_descriptor  # noqa: F401 - registered before the model, which has the same type
from deepmd_gnn.config.adapters import lora
from deepmd_gnn.config.described import options_of
from deepmd_gnn.config.mace import MaceConfig, fail
from deepmd_gnn.config.options import check_mm_types, config_from_options, warn_of_jumps
from deepmd_gnn.graph.atom_graph import AtomGraph, is_compiled, trains_with_kernels
from deepmd_gnn.host.model import GraphModel
from deepmd_gnn.host.protocol import Options
from deepmd_gnn.host.registry import register
from deepmd_gnn.kernels.triton.support import trains_on
from deepmd_gnn.mace_construction import generator_seed
from deepmd_gnn.mace_network import CuEquivarianceEvaluator, build_energy, check_available
from deepmd_gnn.nn.adapters import LowRankAdapters
from deepmd_gnn.nn.energy import MaceEnergy
from deepmd_gnn.nn.stages import Stages
from deepmd_gnn.nn.trainable import freeze_parts

log = logging.getLogger("deepmd.deepmd_gnn")


@register("mace")
class MaceModel(GraphModel):
    """MACE for DeePMD-kit's PyTorch backends.

    Parameters
    ----------
    type_map : list[str]
        Chemical symbols and MM types (:mod:`~deepmd_gnn.config.mm_types`).
    **options : Any
        Fields of :class:`~deepmd_gnn.config.mace.MaceConfig` (or their aliases), and parameters and generic keys of
        :class:`~deepmd_gnn.host.model.GraphModel`.

    Raises
    ------
    ValueError
        If an option is unknown or out of range.
    """

    title = "MACE"

    if TYPE_CHECKING:
        config: MaceConfig
        energy_model: MaceEnergy

    def __init__(self, type_map: list[str], *args: Any, **options: Any) -> None:
        super().__init__(type_map, *args, **options)
        if self.coulomb_cutoff > 0.0 and (self.pair_exclude_types or self.atom_exclude_types):
            key = "pair_exclude_types" if self.pair_exclude_types else "atom_exclude_types"
            fail(
                key,
                getattr(self, key),
                "left out with use_coulomb_term: every atom has a charge, and all of them interact",
            )
        self.trains_with_cueq = self.config.enable_cueq
        self.set_adapters()
        warn_of_jumps(self.config)

    @classmethod
    def config_from_options(cls, options: dict[str, Any]) -> MaceConfig:
        """Pick the configuration out of a model section, see :func:`~deepmd_gnn.config.options.config_from_options`."""
        return config_from_options(options)

    def new_network(self, atomic_numbers: list[int]) -> MaceEnergy:
        """Build the network for these atomic numbers; parts the user froze are not trained."""
        network = build_energy(self.config, atomic_numbers)
        freeze_parts(network, self.config.freeze)
        return network

    @torch.jit.unused
    def set_adapters(self) -> None:
        """Begin new adapters of the network as it is, if the user wants any."""
        chosen = lora(self.config.adapters)
        seed = generator_seed(self.config.seed)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        self.adapters = None if chosen is None else LowRankAdapters(self.energy_model, chosen, generator)

    def change_type_map(self, type_map: list[str], model_with_new_type_stat: Any = None) -> None:
        """See :meth:`~deepmd_gnn.host.model.GraphModel.change_type_map`; adapters become part of the weights."""
        self.merge_adapters()
        before = self.adapters
        super().change_type_map(type_map, model_with_new_type_stat)
        self.set_adapters()
        if self.adapters is not None and before is not None:
            self.adapters.has_weights = before.has_weights

    @torch.jit.unused
    def merge_adapters(self) -> None:
        """Give the network the weights that its adapters make."""
        if self.adapters is not None:
            self.adapters.merge(self.energy_model)

    # Not marked for TorchScript, which would give it to its own modules.
    def train(self, mode: bool = True) -> "MaceModel":
        """Evaluation has whole weights."""
        super().train(mode)
        if not mode:
            self.merge_adapters()
        return self

    def __prepare_scriptable__(self) -> "MaceModel":
        """What TorchScript compiles: the same model with whole weights."""
        if self.adapters is None:
            super().__prepare_scriptable__()
            return self
        self.merge_adapters()
        whole = copy.copy(self)
        whole.__dict__["_modules"] = {
            name: part for name, part in self._modules.items() if name != "adapters"
        }
        whole.adapters = None
        return whole.__prepare_scriptable__()

    def described_options(self) -> dict[str, dict[str, Any]]:
        """The options that belong to features and to readouts, one spelling for equal models."""
        return options_of(self.config, self.type_map, self.pair_exclude_types, self.atom_exclude_types)

    def atomic_numbers_of(self, type_map: list[str]) -> list[int]:
        """Atomic numbers of the types; MM types need an architecture without energy of a lone atom."""
        numbers = super().atomic_numbers_of(type_map)
        check_mm_types(type_map, self.config)
        return numbers

    @classmethod
    def check_training(cls, config: Options) -> None:
        """Refuse cuEquivariance where it is not installed."""
        if isinstance(config, MaceConfig) and config.enable_cueq:
            check_available()

    def network_energies(
        self,
        graph: AtomGraph,
        comm_dict: dict[str, torch.Tensor] | None,
        stages: Stages | None = None,
    ) -> torch.Tensor:
        """Energies of the nodes, eV, float64, shape (nnode,); trained through cuEquivariance if the user wants it."""
        if not torch.jit.is_scripting() and self.adapters is not None and self.training:  # type: ignore[attr-defined]
            return self.adapters.energies(self.energy_model, graph)
        # A compiled graph has our own code: cuEquivariance's cannot be compiled with second derivatives.
        if not torch.jit.is_scripting() and trains_with_kernels(graph):  # type: ignore[attr-defined]
            return self.energies_by_kernels(graph)
        uses_cueq = self.trains_with_cueq and self.training and not is_compiled(graph)
        if uses_cueq and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.cuequivariance_energies(graph)
        return self.energy_model.energies(graph, comm_dict, stages)

    @torch.jit.export
    def forward_charges(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None = None,
        fparam: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Charges of the atoms of frames, of a model with ``use_coulomb_term``; also of a ``.pth`` that torch has loaded.

        Parameters
        ----------
        coord, atype, box, fparam : torch.Tensor
            As in ``forward``: Å, shapes (nf, nloc, 3), (nf, nloc), (nf, 9) and (nf, nquantity).

        Returns
        -------
        torch.Tensor
            e, float64, shape (nf, nloc); 0 for virtual atoms. Their sum is the total charge.

        Raises
        ------
        RuntimeError
            If the model has no charges.
        """
        if self.coulomb_cutoff == 0.0:
            raise RuntimeError(
                "mace model: the model has no charges of atoms; they come with use_coulomb_term."
            )
        graph = self.with_frame_values(self.graphs.of_frames(coord, atype, box), fparam, atype.shape[0])
        with torch.no_grad():  # no return inside, which TorchScript does not survive
            features = self.energy_model(graph, None)[1]
            charges = self.energy_model.charges(features, graph)
        return charges[1:].view(atype.shape[0], atype.shape[1])

    def prepare_compiled_training(self) -> None:
        """Compare kernels with the torch code, and say that cuEquivariance, which cannot be compiled with second derivatives, is not used."""
        self.trains_with_kernels(self.out_bias.device)
        if self.trains_with_cueq:
            log.warning(
                "MACE enable_cueq: not used together with enable_compile, which compiles the model's own code; numbers are the "
                "same. Leave one of the two out."
            )

    @torch.jit.unused
    def trains_with_kernels(self, device: torch.device) -> bool:
        """Whether the next step of training launches generated kernels: on a GPU where Triton works.

        Kernels have no third derivatives, which a loss on Hessians would need; with cuEquivariance they would have no use.
        """
        return (
            trains_on(device)
            and not self.hessian_mode
            and not self.trains_with_cueq
            and self.adapters is None
            and not self.energy_model.has_charges
            and not any(one.gated or one.limited for one in self.energy_model.products)
            and self.kernels_agree_with_torch()
        )

    @torch.jit.unused
    def kernels_agree_with_torch(self) -> bool:
        """Whether the kernels of training give the torch code's derivatives, asked once; if not, the log says why."""
        agree: bool | None = self.__dict__.get("_launches_kernels")
        if agree is not None:
            return agree
        if get_proxy_mode() is not None:  # nothing can be compared while a graph is traced
            return False
        from deepmd_gnn.kernels.triton.training_check import (
            disagreement,  # not every build of torch brings Triton
        )

        def launch(by_kernels: bool) -> None:
            object.__setattr__(self, "_launches_kernels", by_kernels)

        reason = disagreement(self, launch) if any(p.requires_grad for p in self.parameters()) else None
        if reason is not None:
            log.warning(
                "mace model: training runs the torch code instead of generated kernels, which is slower: %s",
                reason,
            )
        launch(reason is None)
        return reason is None

    @torch.jit.unused
    def training_step(
        self, graph: AtomGraph, atype: torch.Tensor, nloc: int, nall: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See :meth:`~deepmd_gnn.host.evaluation.Evaluation.training_step`, also for shapes: on a GPU, steps of one size are captured as CUDA graphs."""
        if graph.edge_vec.device.type != "cuda" or get_proxy_mode() is not None:
            return self.derivatives(graph, atype, nloc, nall)
        from deepmd_gnn.kernels.triton.training_replay import TrainingReplay

        replay = self.__dict__.get("_training_replay")
        if replay is None or replay.model() is not self:
            replay = TrainingReplay(self)
            object.__setattr__(self, "_training_replay", replay)
        return replay(graph, atype, nloc, nall)

    @torch.jit.unused
    def energies_by_kernels(self, graph: AtomGraph) -> torch.Tensor:
        """Energies of the nodes by generated kernels, eV, float64, shape (nnode,); writes them at the first step."""
        from deepmd_gnn.kernels.triton.training import (
            TrainingKernels,  # not every build of torch brings Triton
        )

        kernels = self.__dict__.get("_training_kernels")
        if kernels is None or not kernels.fits(self.energy_model):
            kernels = TrainingKernels(self.energy_model)
            # While a graph is traced nothing can be launched; then each kernel is compiled when it is needed.
            if graph.edge_vec.device.type == "cuda" and get_proxy_mode() is None:
                kernels.compile(graph.edge_vec.device)
            object.__setattr__(self, "_training_kernels", kernels)
        with kernels.installed(self.energy_model, eager=not is_compiled(graph)):
            return self.energy_model(graph, None)[0]  # type: ignore[no-any-return]

    @torch.jit.unused
    def cuequivariance_energies(self, graph: AtomGraph) -> torch.Tensor:
        """Energies of the nodes by cuEquivariance, eV, float64, shape (nnode,); builds the evaluator at the first step."""
        evaluator = self.__dict__.get("_cuequivariance")
        if evaluator is None or evaluator.elements != self.energy_model.atomic_numbers.tolist():
            evaluator = CuEquivarianceEvaluator(self.config, self.energy_model)
            object.__setattr__(self, "_cuequivariance", evaluator)
        return evaluator(self.energy_model, graph)
