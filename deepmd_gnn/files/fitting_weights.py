"""Whether the options that a file states fit the weights it holds, found without building a network of these options."""

import math
from collections.abc import Mapping

from deepmd_gnn.config.checks import parse_irreps
from deepmd_gnn.config.mace import MaceConfig

Shapes = Mapping[str, tuple[int, ...]]


def misfit(config: MaceConfig, ntypes: int, shapes: Shapes, heads: int = 1) -> str | None:
    """Compare sizes; what a stranger's file states must not decide how much memory is asked for.

    Parameters
    ----------
    config : MaceConfig
        Options that the file states.
    ntypes : int
        Number of elements that it states.
    shapes : Mapping[str, tuple[int, ...]]
        Shapes of its weights, by native MACE's names.
    heads : int
        Heads of the readouts; `config` is that of one.

    Returns
    -------
    str or None
        The first difference: the weight, what it has and what the options ask for.
    """
    layers = len({name.split(".")[1] for name in shapes if name.startswith("interactions.")})
    if layers != config.num_interactions:
        return f"weights of {layers} layers, but num_interactions is {config.num_interactions}"
    expected = _layers(config)
    expected["node_embedding.linear.weight"] = ntypes * _scalars(config), "type_map and hidden_irreps"
    basis = f"radial_embedding.bessel_fn.{config.radial_type}_weights"
    expected[basis] = config.num_radial_basis, "num_radial_basis"
    if config.num_interactions > 1:
        last = config.num_interactions - 1 if not config.use_last_readout_only else 0
        width = sum(mul for mul, _, _ in parse_irreps(str(config.MLP_irreps)))
        expected[f"readouts.{last}.linear_1.weight"] = _scalars(config) * width * heads, "MLP_irreps"
    for name, (count, options) in expected.items():
        if name not in shapes:
            return f"no weights '{name}'"
        if math.prod(shapes[name]) != count:
            return f"{math.prod(shapes[name])} weights '{name}', but {options} ask for {count}"
    return _orders(config, shapes)


def _scalars(config: MaceConfig) -> int:
    return _invariants(str(config.hidden_irreps))


def _invariants(irreps: str) -> int:
    return sum(mul for mul, ell, parity in parse_irreps(irreps) if (ell, parity) == (0, "e"))


def _layers(config: MaceConfig) -> dict[str, tuple[int, str]]:
    """Number of values of weights of the layers, and the options that decide it."""
    channels: dict[str, int] = {}
    for mul, ell, parity in parse_irreps(str(config.hidden_irreps)):
        channels[f"{ell}{parity}"] = channels.get(f"{ell}{parity}", 0) + mul
    features = sum(mul * mul for mul in channels.values())
    edge = str(config.hidden_irreps if config.edge_irreps is None else config.edge_irreps)
    sent = sum(mul * channels.get(f"{ell}{parity}", 0) for mul, ell, parity in parse_irreps(edge))
    found: dict[str, tuple[int, str]] = {}
    for layer in range(config.num_interactions):
        block = config.interaction_first if layer == 0 else config.interaction
        found.update(_radial(config, layer, str(block)))
        if layer > 0:
            found[f"products.{layer - 1}.linear.weight"] = features, "hidden_irreps"
            found[f"interactions.{layer}.linear_up.weight"] = sent, "hidden_irreps and edge_irreps"
    return found


def _radial(config: MaceConfig, layer: int, block: str) -> dict[str, tuple[int, str]]:
    """Those of a layer's radial network behind its first, whose inputs depend on the block; attentive ones are fixed."""
    if "AttResidual" in block:
        return {}
    # Between two linear maps the networks of non-linear blocks have a normalisation and an activation.
    name, step = ("net.{}", 3) if "NonLinear" in block else ("layer{}", 1)
    start = f"interactions.{layer}.conv_tp_weights."
    widths = config.radial_MLP
    found = {
        f"{start}{name.format(step * k)}.weight": (widths[k - 1] * widths[k], "radial_MLP")
        for k in range(1, len(widths))
    }
    if step == 1:
        found[f"{start}layer0.weight"] = (
            config.num_radial_basis * widths[0],
            "num_radial_basis and radial_MLP",
        )
    else:
        found[f"{start}net.0.bias"] = widths[0], "radial_MLP"
    return found


def _orders(config: MaceConfig, shapes: Shapes) -> str | None:
    """Angular momenta and correlation, which decide how long the coupling coefficients take to compute."""
    # The first layer sends scalars along one path for every l. Matrices of non-linear blocks are transposed.
    sent = _scalars(config) if not config.use_edge_irreps_first else _invariants(str(config.edge_irreps))
    start = "interactions.0.conv_tp_weights."
    networks = [shape for name, shape in shapes.items() if name.startswith(start) and len(shape) > 1]
    paths = networks[-1][0 if "NonLinear" in str(config.interaction_first) else 1] if networks else 0
    if paths != sent * (config.max_ell + 1):
        return f"a radial network with {paths} results, but max_ell asks for {sent * (config.max_ell + 1)}"
    for layer, order in enumerate(config.correlations):
        start = f"products.{layer}.symmetric_contractions."
        names = [name for name in shapes if name.startswith(f"{start}contractions.0.weights")]
        found = sum(not name.endswith("_zeroed") for name in names)
        # cuEquivariance's layout has one tensor for all orders.
        if found != order and f"{start}weight" not in shapes:
            return f"couplings of {found} orders in layer {layer + 1}, but correlation {order}"
    return None
