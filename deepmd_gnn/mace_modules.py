"""From modules of native MACE to ours (:mod:`deepmd_gnn.nn`): with :mod:`~deepmd_gnn.mace_network` all that touches mace and e3nn.

Weights keep their names, shapes and values. Couplings and normalisations are read from the native modules, never written
down a second time.
"""

from typing import Any

import numpy as np
import torch

from deepmd_gnn.files.import_order import allow_e3nn_constants
from deepmd_gnn.nn.convolution import Convolution
from deepmd_gnn.nn.gates import Affine, Gate, NormedNetwork
from deepmd_gnn.nn.interactions import (
    AttentiveInteraction,
    Interaction,
    InteractionBlock,
    NonLinearInteraction,
)
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
from e3nn import o3  # noqa: E402


def interaction_from(block: Any, ntypes: int) -> InteractionBlock:
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


def readout_from(module: Any, gate: str, channels: int) -> Readout | BiasReadout:
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
