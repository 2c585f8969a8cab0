"""The network of MACE: native modules for a configuration, our energy with their weights, and native's cuEquivariance.

Only this file and :mod:`~deepmd_gnn.mace_modules` touch mace-torch and e3nn. Weights keep the names, shapes and initial
values of ``mace.modules.ScaleShiftMACE``, so that they travel between the two unchanged.
"""

import importlib.util
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.deepmd_ops import Exchange
from deepmd_gnn.files.import_order import allow_e3nn_constants, import_mace
from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.mace_construction import construction, generator_seed, without_side_effects
from deepmd_gnn.mace_modules import interaction_from, product_from, readout_from, spherical_harmonics_up_to
from deepmd_gnn.nn.energy import Blocks, MaceEnergy
from deepmd_gnn.nn.joint_embedding import JointEmbedding
from deepmd_gnn.nn.linear import Weight
from deepmd_gnn.nn.mlip_parts import (
    change_activation,
    change_products,
    change_radial,
    charge_embedding,
    partial_charges,
)
from deepmd_gnn.nn.modules import ModuleList
from deepmd_gnn.nn.repulsion import Repulsion
from deepmd_gnn.nn.soft_transform import OldSoftTransform

allow_e3nn_constants()
import_mace()
from e3nn import o3  # noqa: E402
from mace import modules as mace_modules  # noqa: E402

without_side_effects(mace_modules)

if TYPE_CHECKING:
    # What is read and set of native MACE's modules, which have no types.

    class NativeInteraction(torch.nn.Module):
        """An interaction block."""

        avg_num_neighbors: float | torch.Tensor

    class ScaleShift(torch.nn.Module):
        """Scale and shift of the energies of the network."""

        scale: torch.Tensor

    class AtomicEnergies(torch.nn.Module):
        """E0 of each element."""

        atomic_energies: torch.Tensor

    class NativeMace(torch.nn.Module):
        """``mace.modules.ScaleShiftMACE``."""

        interactions: ModuleList[NativeInteraction]
        scale_shift: ScaleShift
        atomic_energies_fn: AtomicEnergies


def on_cpu() -> AbstractContextManager[Any]:
    """Create tensors on the CPU; torch makes every call slower for it, so only where that is not the default."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def build_energy(config: MaceConfig, atomic_numbers: list[int]) -> MaceEnergy:
    """Build the network with native's initial weights.

    Parameters
    ----------
    config : MaceConfig
        Architecture and given statistics.
    atomic_numbers : list[int]
        Elements in the order of the type map.

    Returns
    -------
    MaceEnergy
        On the CPU.
    """
    with on_cpu():  # as a whole: parts made on two devices do not fit together
        native: Any = build_native(config, atomic_numbers, to_run=False)
        seed = generator_seed(config.seed)
        radial = native.radial_embedding
        if config.distance_transform == "OldSoft":
            radial.distance_transform = OldSoftTransform(radial.distance_transform.covalent_radii)
        change_radial(radial, config)
        interactions = [interaction_from(block, len(atomic_numbers)) for block in native.interactions]
        change_activation(interactions, config.radial_mlp_activation)
        dims = [[ir.dim for _, ir in block.linear.irreps_out] for block in native.products]
        products = [product_from(block) for block in native.products]
        change_products(products, dims, config, len(atomic_numbers), seed)
        readouts = [readout_from(block, config.gate, config.channels) for block in native.readouts]
        blocks = Blocks(
            Weight(native.node_embedding.linear.weight),
            radial,
            spherical_harmonics_up_to(config.max_ell),
            Repulsion(native.pair_repulsion_fn) if config.pair_repulsion else torch.nn.Identity(),
            interactions,
            products,
            readouts,
            dims,
            charge_embedding(config, seed)
            or (
                JointEmbedding(config.features, native.joint_embedding)
                if config.features
                else torch.nn.Identity()
            ),
            readout_from(native.embedding_readout, config.gate, config.channels)
            if config.use_embedding_readout
            else torch.nn.Identity(),
            partial_charges(config, seed, readouts) if config.use_coulomb_term else torch.nn.Identity(),
        )
        return MaceEnergy(config, native.atomic_numbers, blocks, Exchange())


def build_native(
    config: MaceConfig, atomic_numbers: list[int], cueq_config: Any = None, *, to_run: bool = True
) -> "NativeMace":
    """Build native MACE for a configuration.

    Parameters
    ----------
    config : MaceConfig
        Architecture. Statistics that are "auto" become 1.
    atomic_numbers : list[int]
        Elements in the order of the type map.
    cueq_config : mace.modules.wrapper_ops.CuEquivarianceConfig, optional
        Evaluate with cuEquivariance.
    to_run : bool
        Whether the modules will be evaluated, not only read.

    Returns
    -------
    torch.nn.Module
        ``mace.modules.ScaleShiftMACE`` in float64 on the CPU, its own atomic energies zero.
    """
    blocks = mace_modules.interaction_classes
    with construction(generator_seed(config.seed), to_run=to_run), on_cpu():
        native = mace_modules.ScaleShiftMACE(
            r_max=config.r_max,
            num_bessel=config.num_radial_basis,
            num_polynomial_cutoff=config.num_cutoff_basis,
            max_ell=config.max_ell,
            interaction_cls=blocks[config.interaction],
            interaction_cls_first=blocks[config.interaction_first],
            num_interactions=config.num_interactions,
            num_elements=len(atomic_numbers),
            hidden_irreps=o3.Irreps(config.hidden_irreps),
            MLP_irreps=o3.Irreps(config.MLP_irreps),
            atomic_energies=np.zeros(len(atomic_numbers)),
            avg_num_neighbors=1.0 if config.avg_num_neighbors == "auto" else config.avg_num_neighbors,
            atomic_numbers=atomic_numbers,
            correlation=config.correlations,
            gate=_gates()[config.gate],
            pair_repulsion=config.pair_repulsion,
            apply_cutoff=config.apply_cutoff,
            # The old transform replaces today's in MaceEnergy.
            distance_transform=str(config.distance_transform).removeprefix("Old"),
            radial_MLP=list(config.radial_MLP),
            radial_type=config.radial_type,
            # The class default depends on whether cuequivariance is installed.
            use_reduced_cg=False,
            atomic_inter_scale=1.0 if config.scale == "auto" else config.scale,
            atomic_inter_shift=0.0,
            use_so3=config.use_so3,
            use_agnostic_product=config.use_agnostic_product,
            use_last_readout_only=config.use_last_readout_only,
            edge_irreps=None if config.edge_irreps is None else o3.Irreps(config.edge_irreps),
            use_edge_irreps_first=config.use_edge_irreps_first,
            keep_last_layer_irreps=config.keep_last_layer_irreps,
            readout_cls=getattr(mace_modules, config.readout_cls),
            use_embedding_readout=config.use_embedding_readout,
            embedding_specs={feature.name: feature.native() for feature in config.features} or None,
            cueq_config=cueq_config,
        )
    # Constants that have no elements for this configuration are made by a constructor that has no dtype.
    return native.double()


def _gates() -> dict[str, Any]:
    """Non-linearities of the readout: native's, and those that its modules take but its table does not name."""
    functional = torch.nn.functional
    return {**mace_modules.gate_dict, "elu": functional.elu, "relu": torch.relu, "sigmoid": torch.sigmoid}


def build_cuequivariance(config: MaceConfig, atomic_numbers: list[int], fused: bool) -> "NativeMace":
    """Build native MACE on cuEquivariance, as native's own conversion configures it.

    Parameters
    ----------
    config, atomic_numbers :
        See :func:`build_native`.
    fused : bool
        Whether with the fused convolution, a CUDA kernel.

    Returns
    -------
    torch.nn.Module
        See :func:`build_native`.
    """
    from mace.modules.wrapper_ops import CuEquivarianceConfig

    settings = CuEquivarianceConfig(
        enabled=True,
        layout="ir_mul",
        group="O3_e3nn",
        optimize_all=True,
        conv_fusion=fused,
    )
    return build_native(config, atomic_numbers, cueq_config=settings)


# From the checkout: the name on PyPI is another plugin's.
INSTALL = 'pip install ".[cueq]" in the checkout'


def check_available() -> None:
    """Raise if the package is missing.

    Raises
    ------
    ImportError
        Names the option, the package and what to do.
    """
    missing = [
        name for name in ("cuequivariance", "cuequivariance_torch") if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise ImportError(
            f"mace model: 'enable_cueq' is true, but {' and '.join(missing)} cannot be imported. "
            f"Install it with {INSTALL}, or leave 'enable_cueq' out: checkpoints are the same with and without it."
        )


class CuEquivarianceEvaluator:
    """Energies of a graph by cuEquivariance, from the parameters of a :class:`MaceEnergy`.

    Not a module: it has no state that a checkpoint should hold.

    Parameters
    ----------
    config : MaceConfig
        Architecture.
    network : MaceEnergy
        Whose parameters are used; also gives the elements.

    Raises
    ------
    ImportError
        If cuEquivariance is not installed.
    ValueError
        If cuEquivariance arranges the weights of this architecture in another way.
    """

    def __init__(self, config: MaceConfig, network: MaceEnergy) -> None:
        check_available()
        if config.distance_transform == "OldSoft":  # native's modules have today's
            raise ValueError(
                "mace model: 'enable_cueq' does not cover this architecture: distance_transform is OldSoft. Leave 'enable_cueq' out."
            )
        numbers = network.atomic_numbers.tolist()
        # Where the network is, not what the machine has: it may be trained on the CPU of a machine with a GPU.
        fused = network.atomic_numbers.device.type == "cuda"
        self.module = build_cuequivariance(config, numbers, fused).to(network.dtype)
        self.module.requires_grad_(False)
        self.module.scale_shift.scale.fill_(1.0)  # ours is applied below
        self.elements = numbers
        self.shapes = {name: p.shape for name, p in self.module.named_parameters()}
        arranged = self.arrange(network)
        different = [name for name, shape in self.shapes.items() if name not in arranged]
        if different:
            raise ValueError(
                f"mace model: 'enable_cueq' does not cover this architecture: no weights for {', '.join(different)}. "
                "Leave 'enable_cueq' out."
            )

    def arrange(self, network: MaceEnergy) -> dict[str, torch.Tensor]:
        """Parameters of the cuEquivariance module, as functions of ours.

        Parameters
        ----------
        network : MaceEnergy
            With the weights.

        Returns
        -------
        dict[str, torch.Tensor]
            By name, in that module's shapes; gradients flow back.
        """
        ours = dict(network.named_parameters())
        arranged = {
            name: ours[name].reshape(shape)
            for name, shape in self.shapes.items()
            if name in ours and ours[name].numel() == shape.numel()
        }
        for index in range(len(network.products)):
            prefix = f"products.{index}.symmetric_contractions."
            name = f"{prefix}weight"
            parts: list[torch.Tensor] = [p for _, p in _ordered(ours, prefix) if p.numel()]
            if name in self.shapes and parts:
                arranged[name] = torch.cat(parts, dim=1).reshape(self.shapes[name])
        return arranged

    def __call__(self, network: MaceEnergy, graph: AtomGraph) -> torch.Tensor:
        """Evaluate.

        Parameters
        ----------
        network : MaceEnergy
            With the weights and statistics.
        graph : AtomGraph
            Without ghosts: every sender is a node.

        Returns
        -------
        torch.Tensor
            eV, float64, shape (nnode,): the same as `network` gives.
        """
        nnode, device, dtype = graph.node_types.shape[0], graph.edge_vec.device, network.dtype
        self.module.to(device)
        for block in self.module.interactions:
            block.avg_num_neighbors = network.avg_num_neighbors.to(dtype)
        zeros = torch.zeros(nnode, 3, dtype=dtype, device=device)
        data = {
            # All the geometry is in the shifts: native adds positions of receiver minus sender to them.
            "positions": zeros,
            "shifts": -graph.edge_vec.to(dtype),
            "unit_shifts": torch.zeros_like(graph.edge_vec, dtype=dtype),
            "cell": torch.zeros(3, 3, dtype=dtype, device=device),
            "edge_index": graph.edge_index,
            "node_attrs": torch.nn.functional.one_hot(graph.node_types, network.ntypes).to(dtype),
            "batch": torch.zeros(nnode, dtype=torch.int64, device=device),
            "ptr": torch.tensor([0, nnode], device=device),
            "head": torch.zeros(1, dtype=torch.int64, device=device),
        }
        out: dict[str, Any] = torch.func.functional_call(
            self.module, self.arrange(network), (data,), {"training": True, "compute_force": False}
        )
        return network.scale * out["node_energy"].to(torch.float64)


def _ordered(ours: dict[str, torch.nn.Parameter], prefix: str) -> list[tuple[str, torch.nn.Parameter]]:
    """Weights of a contraction in cuEquivariance's order: by irrep, the highest correlation first."""

    def place(key: str) -> tuple[int, int]:
        _, irrep, weight = key.removeprefix(prefix).split(
            ".", 2
        )  # contractions.{irrep}.weights_max or weights.{n}
        return int(irrep), -1 if weight == "weights_max" else int(weight.split(".")[1])

    found = [key for key in ours if key.startswith(f"{prefix}contractions.")]
    return [(key, ours[key]) for key in sorted(found, key=place)]
