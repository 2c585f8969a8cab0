"""The only file that touches mace-torch and e3nn: builds native modules and rebuilds them from :mod:`mace_blocks`.

Weights keep the names, shapes and initial values of ``mace.modules.ScaleShiftMACE``, so that they travel between the
two unchanged. Couplings and normalisations are read from the native modules, never written down a second time.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.files.import_order import allow_e3nn_constants, import_mace
from deepmd_gnn.mace_construction import construction, without_side_effects
from deepmd_gnn.nn.convolution import Convolution
from deepmd_gnn.nn.gates import Affine, Gate, NormedNetwork
from deepmd_gnn.nn.interactions import AttentiveInteraction, Interaction, NonLinearInteraction
from deepmd_gnn.nn.linear import (
    Linear,
    LinearPath,
    RadialNetwork,
    SphericalHarmonics,
)
from deepmd_gnn.nn.monomials import symmetric_polynomial
from deepmd_gnn.nn.readouts import BiasReadout, Readout
from deepmd_gnn.nn.symmetric_contraction import Contraction, Product, SymmetricContraction

allow_e3nn_constants()
import_mace()
from e3nn import o3  # noqa: E402
from mace import modules as mace_modules  # noqa: E402

without_side_effects(mace_modules)


def _seed(seed: int | list[int] | None) -> int | None:
    return None if seed is None else int(np.random.SeedSequence(seed).generate_state(1)[0])


def on_cpu() -> AbstractContextManager[Any]:
    """Create tensors on the CPU; torch makes every call slower for it, so only where that is not the default."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def build_cuequivariance(config: MaceConfig, atomic_numbers: list[int], fused: bool) -> torch.nn.Module:
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


def build_native(
    config: MaceConfig, atomic_numbers: list[int], cueq_config: Any = None, *, to_run: bool = True
) -> torch.nn.Module:
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
    with construction(_seed(config.seed), to_run=to_run), on_cpu():
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
            gate=mace_modules.gate_dict[config.gate],
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
            cueq_config=cueq_config,
        )
    # Constants that have no elements for this configuration are made by a constructor that has no dtype.
    return native.double()


def interaction_from(block: Any, ntypes: int) -> torch.nn.Module:
    """Take over an interaction block.

    Parameters
    ----------
    block : torch.nn.Module
        One of native MACE's :data:`~deepmd_gnn.config.mace.INTERACTIONS`.
    ntypes : int
        Number of elements.

    Returns
    -------
    torch.nn.Module
        A block of :mod:`~deepmd_gnn.nn.interactions` with the same weights.
    """
    name = type(block).__name__
    if "AttResidual" in name:
        return AttentiveInteraction(
            linear_from(block.linear_up),
            linear_from(block.linear_down),
            convolution_from(block.conv_tp),
            radial_network_from(block.conv_tp_weights),
            linear_from(block.linear),
            linear_from(block.skip_linear),
        )
    if "NonLinear" in name:
        return NonLinearInteraction(
            linear_from(block.source_embedding),
            linear_from(block.target_embedding),
            linear_from(block.linear_up),
            convolution_from(block.conv_tp),
            normed_network_from(block.conv_tp_weights),
            linear_from(block.skip_tp),
            linear_from(block.linear_res),
            linear_from(block.linear_1),
            linear_from(block.linear_2),
            normed_network_from(block.density_fn),
            gate_from(block.equivariant_nonlin),
            block.alpha,
            block.beta,
        )
    return Interaction(
        linear_from(block.linear_up),
        convolution_from(block.conv_tp),
        radial_network_from(block.conv_tp_weights),
        linear_from(block.linear),
        linear_from(block.skip_tp, ntypes),
        radial_network_from(block.density_fn) if "Density" in name else None,
        "Residual" in name,
    )


def product_from(block: Any) -> Product:
    """Take over a product basis block."""
    return Product(
        symmetric_contraction_from(block.symmetric_contractions),
        linear_from(block.linear),
        bool(block.use_agnostic_product),
    )


def _starts(irreps: o3.Irreps) -> list[int]:
    """First component of each irrep when the channels are counted apart."""
    return np.cumsum([0] + [ir.dim for _, ir in irreps]).tolist()


def linear_from(module: Any, ntypes: int = 0) -> Linear:
    """Take over an ``o3.Linear``, or with `ntypes` a fully connected tensor product with the one-hot element."""
    typed = ntypes > 0
    inputs = module.irreps_in1 if typed else module.irreps_in
    source, target = _starts(inputs), _starts(module.irreps_out)
    paths, offset = [], 0
    for instruction in module.instructions:
        index = instruction.i_in1 if typed else instruction.i_in
        dim = inputs[index].ir.dim
        # The Wigner coefficient (l, 0, l) is the unit matrix divided by √(2l + 1).
        factor = instruction.path_weight / (dim**0.5 if typed else 1.0)
        width = instruction.path_shape[-1]
        paths.append(
            LinearPath(
                source[index], target[instruction.i_out], dim, offset, inputs[index].mul, width, factor
            )
        )
        offset += int(np.prod(instruction.path_shape))
    reached = {instruction.i_out for instruction in module.instructions}
    for index, (mul, ir) in enumerate(module.irreps_out):
        if index not in reached:
            paths.append(LinearPath(0, target[index], ir.dim, 0, 0, mul, 0.0))
    paths.sort(key=lambda path: path.target)
    return Linear(module.weight, paths, ntypes)


def radial_network_from(module: Any) -> RadialNetwork:
    """Take over a ``FullyConnectedNet`` with SiLU."""
    layers = list(module.children())
    gain = float(layers[0].act.cst) if layers[0].act is not None else 1.0
    return RadialNetwork([layer.weight for layer in layers], gain)


def normed_network_from(module: Any) -> NormedNetwork:
    """Take over a ``RadialMLP``."""
    layers = [
        Affine(layer.weight, layer.bias) if isinstance(layer, torch.nn.Linear) else layer
        for layer in module.net
    ]
    return NormedNetwork(torch.nn.Sequential(*layers))


def gate_from(module: Any) -> Gate:
    """Take over a ``GatedEquivariantBlock``: its slices of the features, counted in components."""
    channels = module.irreps_gated[0].mul if len(module.irreps_gated) else module.irreps_scalars[0].mul
    scalars = range(module._s_start // channels, (module._s_start + module._s_len) // channels)
    gates: list[int] = []
    gated: list[int] = []
    for start, _, dim, _, offset in module._gated_info:
        gated += range(start // channels, start // channels + dim)
        gates += [(module._g_start + offset) // channels] * dim
    return Gate(list(scalars), gates, gated, (module._scalar_cst, module._gate_cst))


def convolution_from(module: Any) -> Convolution:
    """Take over the "uvu" tensor product of an interaction block."""
    harmonics = _starts(module.irreps_in2)
    columns, paths = [], []
    for instruction in module.instructions:
        first, second = module.irreps_in1[instruction.i_in1].ir, module.irreps_in2[instruction.i_in2].ir
        third = module.irreps_out[instruction.i_out].ir
        wigner = o3.wigner_3j(first.l, second.l, third.l, dtype=torch.float64) * instruction.path_weight
        column = torch.zeros(harmonics[-1], first.dim * third.dim, dtype=torch.float64)
        begin = harmonics[instruction.i_in2]
        column[begin : begin + second.dim] = wigner.transpose(0, 1).reshape(second.dim, -1)
        columns.append(column)
        paths.append((instruction.i_in1, third.dim))
    return Convolution(torch.cat(columns, dim=1), [ir.dim for _, ir in module.irreps_in1], paths)


def symmetric_contraction_from(module: Any) -> SymmetricContraction:
    """Take over MACE's symmetric contraction: dense couplings become coefficients of distinct monomials."""
    orders = range(1, module.contractions[0].correlation + 1)
    couplings = []
    for contraction in module.contractions:
        tensors = [contraction.U_tensors(order).double().numpy() for order in orders]
        # Scalars come without the axis of components.
        couplings.append(
            [u if u.ndim == order + 2 else u[None] for order, u in zip(orders, tensors, strict=True)]
        )
    polynomial = symmetric_polynomial(couplings)
    contractions = [
        Contraction(torch.from_numpy(coefficients), [native.weights_max, *native.weights])
        for coefficients, native in zip(polynomial.coefficients, module.contractions, strict=True)
    ]
    return SymmetricContraction(
        contractions,
        [torch.from_numpy(p) for p in polynomial.prefixes],
        [torch.from_numpy(p) for p in polynomial.lasts],
    )


def readout_from(module: Any, gate: str, channels: int) -> torch.nn.Module:
    """Take over a readout block with one head."""
    if not hasattr(module, "linear_1"):
        return Readout([module.linear.weight.view(channels, 1)], "None", 1.0)
    activation = module.non_linearity.acts[0]
    gain = float(activation.cst) if activation is not None and gate != "None" else 1.0
    if hasattr(module, "linear_mid"):
        biases = [module.linear_mid.bias, module.linear_2.bias]
        weights = [module.linear_1.weight, module.linear_mid.weight, module.linear_2.weight]
        return BiasReadout(weights, biases, gate, gain)
    return Readout(
        [module.linear_1.weight.view(channels, -1), module.linear_2.weight.view(-1, 1)], gate, gain
    )


def spherical_harmonics_up_to(max_ell: int) -> SphericalHarmonics:
    """Recursion for e3nn's spherical harmonics; its signs and factors are measured on one vector."""
    direction = torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64)
    steps = []
    for ell in range(1, max_ell):
        low, first, high = (
            o3.spherical_harmonics(k, direction, normalize=True, normalization="component")
            for k in (ell, 1, ell + 1)
        )
        wigner = o3.wigner_3j(ell, 1, ell + 1, dtype=torch.float64).reshape(-1, 2 * ell + 3)
        bare = (low.unsqueeze(2) * first.unsqueeze(1)).flatten(1) @ wigner
        steps.append(wigner * (high * bare).sum() / bare.square().sum())
    return SphericalHarmonics(steps)
