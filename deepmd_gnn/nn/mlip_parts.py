"""What options of mlip's MACE change in a network that has been made without them."""

from typing import Any

import torch

from deepmd_gnn.config.charges import LARGEST_CHARGE
from deepmd_gnn.config.embeddings import CHARGE
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.nn.activations import gain_of
from deepmd_gnn.nn.charges import ChargeEmbedding, PartialCharges
from deepmd_gnn.nn.interactions import InteractionBlock
from deepmd_gnn.nn.linear import RadialNetwork
from deepmd_gnn.nn.node_features import NodeGate, SoftEnvelope, SoftLimit
from deepmd_gnn.nn.readouts import BiasReadout, Readout
from deepmd_gnn.nn.symmetric_contraction import Product

# Distances at which mlip samples the radial functions.
_SAMPLES = 1000


def change_radial(radial: Any, config: MaceConfig) -> None:
    """Put the soft envelope into native's radial embedding, and divide its basis by a root mean square.

    Parameters
    ----------
    radial : torch.nn.Module
        ``RadialEmbeddingBlock`` in float64; changed.
    config : MaceConfig
        Its options.
    """
    if config.radial_envelope == "soft_envelope":
        radial.cutoff_fn = SoftEnvelope(float(config.r_max))
    if config.avg_r_min is None:
        return
    distance = torch.linspace(config.avg_r_min, config.r_max, _SAMPLES, dtype=torch.float64).unsqueeze(1)
    values = radial.bessel_fn(distance) * radial.cutoff_fn(distance)
    radial.bessel_fn = Scaled(radial.bessel_fn, float(values.square().mean() ** -0.5))


class Scaled(torch.nn.Module):
    """A radial basis times a number.

    Parameters
    ----------
    basis : torch.nn.Module
        From distances, shape (nedge, 1), to values, shape (nedge, nbasis).
    factor : float
        The number.
    """

    def __init__(self, basis: torch.nn.Module, factor: float) -> None:
        super().__init__()
        self.basis = basis
        self.factor = factor

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        """Values at distances in Å, shape (nedge, 1) → (nedge, nbasis)."""
        return self.basis(distance) * self.factor  # type: ignore[no-any-return]


def change_activation(interactions: list[InteractionBlock], activation: str) -> None:
    """Give the radial networks another activation than SiLU, whose normalisation is native's."""
    if activation == "silu":
        return
    for block in interactions:
        for module in block.modules():
            if isinstance(module, RadialNetwork):
                module.activation, module.gain = activation, gain_of(activation)


def change_products(
    products: list[Product], dims: list[list[int]], config: MaceConfig, ntypes: int, seed: int | None
) -> None:
    """Give product blocks a gate and a limit of their features.

    Parameters
    ----------
    products : list[Product]
        Changed.
    dims : list[list[int]]
        Components of the irreps of each.
    config : MaceConfig
        Options.
    ntypes : int
        Elements.
    seed : int, optional
        Of the initial weights.
    """
    channels = config.channels
    for layer, (product, sizes) in enumerate(zip(products, dims, strict=True)):
        if config.gate_nodes:
            width = len(sizes) * channels
            shapes: list[tuple[int, ...]] = [(channels * ntypes * width,), (ntypes, width)]
            # The linear map divides by the root of the elements, which these weights do not need.
            weight, bias = _normal(seed, 10 + layer, shapes)
            product.set_gate(NodeGate(sizes, channels, ntypes, weight * ntypes**0.5, bias))
        if config.soft_normalization is not None:
            product.set_limit(SoftLimit(sizes, float(config.soft_normalization)))


def charge_embedding(config: MaceConfig, seed: int | None) -> ChargeEmbedding | None:
    """Make mlip's embedding of the total charge, if the options want it."""
    if not config.use_total_charge_embedding:
        return None
    return ChargeEmbedding(0.5 * _normal(seed, 1, [(2 * LARGEST_CHARGE + 1, config.channels)])[0])


def partial_charges(
    config: MaceConfig, seed: int | None, readouts: list[Readout | BiasReadout]
) -> PartialCharges:
    """Make charges from what the readouts read, with initial weights like theirs."""
    weights = [dict(readout.named_parameters()) for readout in readouts]
    sizes: list[tuple[int, ...]] = [
        (sum(known[name].numel() for name in readout.last_layer()),)
        for known, readout in zip(weights, readouts, strict=True)
    ]
    column = [one.name for one in config.quantities].index(CHARGE)
    return PartialCharges(_normal(seed, 2, sizes), column, float(config.coulomb_cutoff))


def _normal(seed: int | None, stream: int, shapes: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Normally distributed numbers in float64, a stream of their own for each purpose."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed((seed + 7919 * stream) % 2**63)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
