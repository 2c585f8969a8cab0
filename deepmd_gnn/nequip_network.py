"""The network of NequIP for a configuration: its irreps, couplings, normalisations and initial weights.

Irreps are counted by e3nn, so that weights have the names, shapes and order of the package ``nequip`` 0.6, which is not needed.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.deepmd_ops import Exchange
from deepmd_gnn.files.import_order import allow_e3nn_constants
from deepmd_gnn.mace_construction import generator_seed
from deepmd_gnn.mace_modules import spherical_harmonics_up_to
from deepmd_gnn.nn.convolution import Convolution
from deepmd_gnn.nn.linear import Linear, LinearPath
from deepmd_gnn.nn.nequip import ConvNetLayer, NequipEnergy, Parts
from deepmd_gnn.nn.nequip_parts import AtomwiseLinear, Nonlinearity, PathNetwork, RadialBasis, ScalarReadout

allow_e3nn_constants()
from e3nn import o3  # noqa: E402
from e3nn.math import normalize2mom  # noqa: E402

SCALAR = o3.Irrep("0e")


class Weights:
    """Normally distributed initial weights, float64 on the CPU.

    Parameters
    ----------
    seed : int or list[int], optional
        None takes the next numbers of torch's generator.
    """

    def __init__(self, seed: int | list[int] | None) -> None:
        state = generator_seed(seed)
        self.generator = None if state is None else torch.Generator().manual_seed(state)

    def __call__(self, *shape: int) -> torch.Tensor:
        """The next ones, in this shape."""
        return torch.randn(*shape, dtype=torch.float64, device="cpu", generator=self.generator)


def build_energy(config: NequipConfig, atomic_numbers: list[int]) -> NequipEnergy:
    """Build the network with initial weights.

    Parameters
    ----------
    config : NequipConfig
        Architecture and given statistics.
    atomic_numbers : list[int]
        Elements in the order of the type map.

    Returns
    -------
    NequipEnergy
        On the CPU.
    """
    with torch.device("cpu"):
        draw, ntypes = Weights(config.seed), len(atomic_numbers)
        harmonics = o3.Irreps(config.irreps_edge_sh)
        features = o3.Irreps(config.chemical_embedding_irreps_out)
        embedding = AtomwiseLinear(draw(ntypes * features.dim))
        layers = []
        for index in range(config.num_layers):
            # Only even scalars of the last layer are read.
            last = index == config.num_layers - 1
            layer, features = _layer(config, features, harmonics, ntypes, draw, last)
            layers.append(layer)
        hidden = o3.Irreps(config.conv_to_output_hidden_irreps_out).dim
        readout = ScalarReadout(draw(features.count(SCALAR) * hidden), draw(hidden), 0)
        basis = RadialBasis(
            config.r_max, config.num_basis, config.BesselBasis_trainable, config.PolynomialCutoff_p
        )
        parts = Parts(embedding, basis, spherical_harmonics_up_to(max(1, harmonics.lmax)), layers, readout)
        return NequipEnergy(config, torch.tensor(atomic_numbers), parts, Exchange())


def _layer(
    config: NequipConfig, inputs: Any, harmonics: Any, ntypes: int, draw: Weights, last: bool
) -> tuple[ConvNetLayer, Any]:
    """A layer and the irreps of its features, as in ``nequip.nn.ConvNetLayer``."""
    reached = {ir for _, first in inputs for _, second in harmonics for ir in first * second}
    hidden = [(mul, ir) for mul, ir in o3.Irreps(config.feature_irreps_hidden) if ir in reached]
    scalars = o3.Irreps([(mul, ir) for mul, ir in hidden if ir.l == 0])
    gated = o3.Irreps([(mul, ir) for mul, ir in hidden if ir.l > 0])
    gates = o3.Irreps([(mul, SCALAR) for mul, _ in gated] if config.nonlinearity_type == "gate" else [])
    outputs = scalars + gates.simplify() + gated
    if (
        config.nonlinearity_type == "gate"
    ):  # e3nn sorts what goes into a gate; of equal irreps the first stays the first
        outputs = outputs.sort().irreps
    outputs = outputs.simplify()
    wanted = [ir for _, ir in outputs if ir == SCALAR or not last]
    layer = _block(config, inputs, harmonics, (scalars, gated, outputs), wanted, ntypes, draw)
    return layer, scalars + gated


def _block(
    config: NequipConfig,
    inputs: Any,
    harmonics: Any,
    irreps: tuple[Any, Any, Any],
    wanted: list[Any],
    ntypes: int,
    draw: Weights,
) -> ConvNetLayer:
    """A layer with the weights of all irreps, as ``nequip.nn.InteractionBlock`` has them, and paths to `wanted` ones.

    `irreps` are the scalars, the other features, and what messages become before the non-linearity.
    """
    scalars, gated, outputs = irreps
    channels = inputs[0].mul
    paths = [
        (i, j, ir)
        for i, (_, first) in enumerate(inputs)
        for j, (_, second) in enumerate(harmonics)
        for ir in first * second
        if ir in outputs
    ]
    kept = [number for number, (_, _, ir) in enumerate(paths) if ir in wanted]
    widths = [config.num_basis, *[config.invariant_neurons] * config.invariant_layers, len(paths) * channels]
    gain = float(normalize2mom(torch.nn.functional.silu).cst)
    return ConvNetLayer(
        _mixing(inputs, draw),
        _convolution(inputs, harmonics, [paths[number] for number in kept]),
        PathNetwork([draw(*sizes) for sizes in pairwise(widths)], gain, kept, channels),
        _collecting([ir for _, _, ir in paths], channels, outputs, wanted, draw),
        _self_connection(inputs, outputs, wanted, ntypes, draw) if config.use_sc else None,
        _nonlinearity(config, scalars, gated, outputs, wanted),
    )


def _starts(irreps: Any, channels: int) -> list[int]:
    """First component of each term when its channels are counted in multiples of `channels`."""
    return np.cumsum([0] + [ir.dim * (mul // channels) for mul, ir in irreps]).tolist()


def _convolution(inputs: Any, harmonics: Any, paths: list[tuple[int, int, Any]]) -> Convolution:
    """Couple the paths; a "uvu" product in e3nn's "component" normalisation, for harmonics of the opposite vectors."""
    size = (max(1, harmonics.lmax) + 1) ** 2
    columns = []
    for i, j, third in paths:
        first, second = inputs[i].ir, harmonics[j].ir
        factor = third.dim**0.5 * (-1) ** second.l
        wigner = o3.wigner_3j(first.l, second.l, third.l, dtype=torch.float64) * factor
        column = torch.zeros(size, first.dim * third.dim, dtype=torch.float64)
        column[second.l**2 : second.l**2 + second.dim] = wigner.transpose(0, 1).reshape(second.dim, -1)
        columns.append(column)
    dims = [ir.dim for _, ir in inputs]
    return Convolution(torch.cat(columns, dim=1), dims, [(i, third.dim) for i, _, third in paths])


def _mixing(irreps: Any, draw: Weights) -> Linear:
    """``o3.Linear`` from irreps to themselves."""
    paths, offset = [], 0
    for (mul, ir), start in zip(irreps, _starts(irreps, irreps[0].mul), strict=False):
        paths.append(LinearPath(start, start, ir.dim, offset, mul, mul, mul**-0.5))
        offset += mul**2
    return Linear(draw(offset), paths)


def _collecting(paths: list[Any], channels: int, outputs: Any, wanted: list[Any], draw: Weights) -> Linear:
    """``o3.Linear`` after the convolution: terms of the same irrep, in the order of their paths, are its channels."""
    width = min(mul for mul, _ in outputs)
    sources = np.cumsum([0] + [ir.dim for ir in paths if ir in wanted]).tolist()
    numbers = iter(sources)
    source_of = [next(numbers) if ir in wanted else -1 for ir in paths]
    offsets: dict[Any, int] = {}
    offset = 0
    for ir in sorted(set(paths)):
        offsets[ir] = offset
        offset += paths.count(ir) * channels * outputs.count(ir)
    kept, target = [], 0
    for mul, ir in outputs:
        if ir not in wanted:
            continue
        terms = [number for number, other in enumerate(paths) if other == ir]
        factor = (len(terms) * channels) ** -0.5
        for place, number in enumerate(terms):
            begin = offsets[ir] + place * channels * mul
            kept.append(LinearPath(source_of[number], target, ir.dim, begin, channels, mul, factor))
        target += ir.dim * (mul // width)
    return Linear(draw(offset), kept, channels=width)


def _self_connection(inputs: Any, outputs: Any, wanted: list[Any], ntypes: int, draw: Weights) -> Linear:
    """``o3.FullyConnectedTensorProduct`` of the features with the one-hot element."""
    width = min(mul for mul, _ in outputs)
    targets = _starts([(mul, ir) for mul, ir in outputs if ir in wanted], width)
    place = dict(zip(wanted, targets, strict=False))
    paths, offset, blocks, reached = [], 0, [], set()
    for (mul, ir), source in zip(inputs, _starts(inputs, inputs[0].mul), strict=False):
        number = outputs.count(ir)
        if number == 0:
            continue
        if ir in wanted:
            paths.append(LinearPath(source, place[ir], ir.dim, offset, mul, number, (mul * ntypes) ** -0.5))
            reached.add(ir)
        blocks.append((mul, number))
        offset += mul * ntypes * number
    for mul, ir in outputs:
        if ir in wanted and ir not in reached:
            paths.append(LinearPath(0, place[ir], ir.dim, 0, 0, mul, 0.0))
    paths.sort(key=lambda path: path.target)
    return Linear(draw(offset), paths, ntypes, width, blocks)


def _nonlinearity(
    config: NequipConfig, scalars: Any, gated: Any, outputs: Any, wanted: list[Any]
) -> Nonlinearity:
    """Where the non-linearity finds what it needs among the outputs of the block."""
    width = min(mul for mul, _ in outputs)
    present = [(mul, ir) for mul, ir in outputs if ir in wanted]
    starts = _starts(present, width)
    place = dict(zip([ir for _, ir in present], starts, strict=False))
    silu, tanh = (float(normalize2mom(f).cst) for f in (torch.nn.functional.silu, torch.tanh))
    return Nonlinearity(
        config.nonlinearity_type,
        width,
        [(place[ir], ir.p == 1) for _, ir in scalars if ir in wanted],
        [
            # Gates follow the even scalars in the order of what they gate.
            (place[ir], ir.dim, place[SCALAR] + 1 + number)
            for number, (_, ir) in enumerate(gated)
            if ir in wanted
        ],
        (silu, tanh),
        starts[-1],
    )
