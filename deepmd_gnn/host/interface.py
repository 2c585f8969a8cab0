"""What DeePMD-kit asks a model about itself: the base of :class:`~deepmd_gnn.host.model.GraphModel`; the names are the host's."""

from typing import TYPE_CHECKING, Any

import torch
from deepmd.dpmodel.output_def import FittingOutputDef, ModelOutputDef, OutputVariableDef

from deepmd_gnn.host.frame_values import Defaults, FrameValues
from deepmd_gnn.host.observed_types import observed_names
from deepmd_gnn.host.protocol import Options
from deepmd_gnn.host.stored_names import StoredModel
from deepmd_gnn.nn.network import EnergyNetwork


class HostInterface(StoredModel):
    """Attributes of a model, and the answers that follow from them."""

    model_type = "ener"
    # Of the model section, where a subclass is registered.
    type_name = ""
    # Of the network, for the log; the type if it is empty.
    title = ""
    # TorchScript would read these annotations; those that it needs are in GraphModel.
    if TYPE_CHECKING:
        excludes_atoms: bool

        config: Options
        energy_model: EnergyNetwork
        frame_values: FrameValues
        type_map: list[str]
        rcut: float
        """Cutoff of the network in Å."""
        coulomb_cutoff: float
        """Of the interaction of charges in Å, 0 without."""
        sel: int
        nlayers: int
        hessian_mode: bool
        pair_exclude_types: list[list[int]]
        atom_exclude_types: list[int]
        atom_counts: list[bool]
        """Which types contribute energy."""
        preset_out_bias: dict[str, list[Any]] | None
        versions: dict[str, str]
        out_bias: torch.Tensor
        """E0 of each type, eV, float64, shape (1, ntypes, 1)."""
        out_std: torch.Tensor
        min_nbor_dist: torch.Tensor

    @property
    def atomic_model(self) -> "HostInterface":
        """The host reads capabilities from here."""
        return self

    @property
    def observed_type(self) -> list[str] | None:
        """Elements seen in the training data, None if unknown."""
        return observed_names(self.observed, self.type_map)

    @torch.jit.export
    def get_type_map(self) -> list[str]:
        """Chemical symbols."""
        return self.type_map

    @torch.jit.export
    def get_ntypes(self) -> int:
        """Number of elements."""
        return len(self.type_map)

    @torch.jit.export
    def get_rcut(self) -> float:
        """Cutoff radius in Å, of whatever reaches farthest."""
        return max(self.rcut, self.coulomb_cutoff)

    @torch.jit.export
    def get_sel(self) -> list[int]:
        """Expected number of neighbours; a hint, never a limit."""
        return [self.sel]

    @torch.jit.export
    def get_nsel(self) -> int:
        """Expected number of neighbours."""
        return self.sel

    @torch.jit.export
    def get_nnei(self) -> int:
        """Expected number of neighbours."""
        return self.sel

    @torch.jit.export
    def use_self_built_nlist(self) -> bool:
        """Python inference shall call ``forward``, whose own search never truncates to `sel`."""
        return True

    @torch.jit.export
    def get_dim_fparam(self) -> int:
        """Quantities of a frame that the energy depends on, see :mod:`~deepmd_gnn.host.frame_values`."""
        return self.frame_values.number

    @torch.jit.export
    def get_dim_aparam(self) -> int:
        """No atomic parameters."""
        return 0

    @torch.jit.export
    def has_default_fparam(self) -> bool:
        """Whether frames need not say their quantities."""
        return self.frame_values.has_defaults

    def get_default_fparam(self) -> Defaults | None:
        """Quantities of frames that do not say them, None if they must."""
        values = self.frame_values
        return Defaults(values.stand_ins[: values.number]) if values.has_defaults else None

    @torch.jit.export
    def has_chg_spin_ebd(self) -> bool:
        """No embedding of charge and spin."""
        return False

    @torch.jit.export
    def get_dim_chg_spin(self) -> int:
        """No embedding of charge and spin."""
        return 0

    @torch.jit.export
    def has_default_chg_spin(self) -> bool:
        """No embedding of charge and spin."""
        return False

    def get_default_chg_spin(self) -> None:
        """No embedding of charge and spin."""
        return

    @torch.jit.export
    def get_sel_type(self) -> list[int]:
        """Types whose atoms contribute, as the host's models name them: all but the excluded ones."""
        selected: list[int] = []
        for index, counts in enumerate(self.atom_counts):
            if counts:
                selected.append(index)
        return selected

    @torch.jit.export
    def is_aparam_nall(self) -> bool:
        """No atomic parameters."""
        return False

    @torch.jit.export
    def mixed_types(self) -> bool:
        """One neighbour list for all types."""
        return True

    @torch.jit.export
    def has_message_passing(self) -> bool:
        """Whether ghosts need features, or charges, that their owners compute."""
        return self.nlayers > 1 or self.coulomb_cutoff > 0.0

    @torch.jit.export
    def need_sorted_nlist_for_lower(self) -> bool:
        """Any order will do."""
        return False

    @torch.jit.export
    def model_output_type(self) -> list[str]:
        """An energy model."""
        return ["energy"]

    @torch.jit.export
    def get_observed_type_list(self) -> list[str]:
        """Elements seen in the training data; where that is unknown, those with an E0."""
        observed: list[str] = []
        known = int(self.observed.min()) >= 0
        for index, name in enumerate(self.type_map):
            seen = int(self.observed[index]) > 0 if known else float(self.out_bias[0, index, 0].abs()) > 1e-6
            if seen:
                observed.append(name)
        return observed

    def fitting_output_def(self) -> FittingOutputDef:
        """Energy, differentiable in coordinates and cell."""
        energy = OutputVariableDef(
            "energy",
            shape=[1],
            reducible=True,
            r_differentiable=True,
            c_differentiable=True,
            r_hessian=self.hessian_mode,
        )
        return FittingOutputDef([energy])

    def atomic_output_def(self) -> FittingOutputDef:
        """Energy, differentiable in coordinates and cell, and which atoms are real."""
        mask = OutputVariableDef(
            "mask", shape=[1], reducible=False, r_differentiable=False, c_differentiable=False
        )
        return FittingOutputDef([*self.fitting_output_def().get_data().values(), mask])

    def model_output_def(self) -> ModelOutputDef:
        """Outputs of the whole model."""
        return ModelOutputDef(self.atomic_output_def())

    def translated_output_def(self) -> dict[str, OutputVariableDef]:
        """Outputs of ``forward`` by their public names, as the host's energy models define them."""
        inner = self.model_output_def().get_data()
        names = {
            "atom_energy": "energy",
            "energy": "energy_redu",
            "force": "energy_derv_r",
            "virial": "energy_derv_c_redu",
            "atom_virial": "energy_derv_c",
            "mask": "mask",
        }
        if self.hessian_mode:
            names["hessian"] = "energy_derv_r_derv_r"
        outputs = {public: inner[name] for public, name in names.items()}
        for public in ("force", "virial", "atom_virial"):
            outputs[public].squeeze(-2)  # in place: one energy, so no axis for it
        return outputs

    @torch.jit.export
    def get_min_nbor_dist(self) -> float:
        """Shortest distance in the training data in Å, −1 if unknown.

        Not None, as the host has it: its ``compress`` would then ask for training data before it asks this model,
        which cannot be compressed whatever the data.
        """
        return float(self.min_nbor_dist.item())

    def compression_needs_min_nbor_dist(self) -> bool:
        """Asked by the exportable backend's ``compress``."""
        return False

    def enable_compression(self, *options: Any, **named: Any) -> None:
        """Refuse: what the host tabulates does not exist here.

        Raises
        ------
        NotImplementedError
            Says what to do instead.
        """
        raise NotImplementedError(
            "mace model: 'dp compress' tabulates DeePMD-kit's own descriptors, not graph networks. Freeze to .pt2 instead, which has "
            "tables of the radial networks and generated kernels: deepmd-gnn freeze model.ckpt.pt -o mace.pt2."
        )

    def do_grad_r(self, var_name: str | None = None) -> bool:  # noqa: ARG002 - the host's signature
        """Forces are available."""
        return True

    def do_grad_c(self, var_name: str | None = None) -> bool:  # noqa: ARG002
        """Virials are available."""
        return True

    def set_case_embd(self, case_idx: int) -> None:
        """Refuse: MACE has no case embedding."""
        raise NotImplementedError(f"mace model: no case embedding, so case {case_idx} cannot be set.")

    def get_model_info(self) -> dict[str, Any]:
        """Architecture and statistics, plain values."""
        return {
            **self.config.to_dict(),
            "type_map": self.type_map,
            "avg_num_neighbors": float(self.energy_model.avg_num_neighbors),
            "scale": float(self.energy_model.scale),
            "atomic_energies": self.out_bias.flatten().tolist(),
        }

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

    def prepare_compiled_training(self) -> None:
        """Called before a training step is compiled; a subclass says here what will not be as in eager training."""

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
