"""Whether the options that a file states fit the weights of NequIP it holds, counted without building a network."""

import math
from collections.abc import Mapping

from deepmd_gnn.config.checks import parse_irreps
from deepmd_gnn.config.nequip import NequipConfig

Irreps = dict[tuple[int, int], int]


def _irreps(text: str | None) -> Irreps:
    """Multiplicity of each irrep, l and parity ±1."""
    return {(ell, 1 if parity == "e" else -1): mul for mul, ell, parity in parse_irreps(str(text))}


def _paths(inputs: Irreps, harmonics: Irreps) -> list[tuple[int, int]]:
    """What each pair of irreps couples to."""
    return [
        (ell, p * q)
        for first, p in inputs
        for second, q in harmonics
        for ell in range(abs(first - second), first + second + 1)
    ]


def sizes(config: NequipConfig, ntypes: int) -> dict[str, tuple[int, str]]:
    """Number of values of every weight of the network, and the options that decide it.

    Parameters
    ----------
    config : NequipConfig
        Options.
    ntypes : int
        Number of elements.

    Returns
    -------
    dict[str, tuple[int, str]]
        By the name of the weight.
    """
    hidden, harmonics = _irreps(config.feature_irreps_hidden), _irreps(config.irreps_edge_sh)
    features = _irreps(config.chemical_embedding_irreps_out)
    readout = sum(_irreps(config.conv_to_output_hidden_irreps_out).values())
    found = {
        "node_embedding.linear.weight": (
            ntypes * features[0, 1],
            "type_map and chemical_embedding_irreps_out",
        ),
        "radial_embedding.basis.bessel_weights": (config.num_basis, "num_basis"),
        "readouts.output_hidden_to_scalar.linear.weight": (readout, "conv_to_output_hidden_irreps_out"),
        "readouts.conv_to_output_hidden.linear.weight": (
            hidden[0, 1] * readout,
            "feature_irreps_hidden and conv_to_output_hidden_irreps_out",
        ),
    }
    for layer in range(config.num_layers):
        channels = features[0, 1]
        reached = _paths(features, harmonics)
        outputs = {irrep: mul for irrep, mul in hidden.items() if irrep in reached}
        made = dict(outputs)
        if config.nonlinearity_type == "gate":
            made[0, 1] += sum(mul for (ell, _), mul in outputs.items() if ell > 0)
        paths = [irrep for irrep in reached if irrep in made]
        start, irreps = f"interactions.{layer}.", "feature_irreps_hidden and irreps_edge_sh"
        found[f"{start}linear_up.weight"] = sum(mul**2 for mul in features.values()), irreps
        found[f"{start}linear.weight"] = sum(channels * made[irrep] for irrep in paths), irreps
        widths = [config.num_basis, *[config.invariant_neurons] * config.invariant_layers]
        widths.append(channels * len(paths))
        for place in range(len(widths) - 1):
            options = "num_basis, invariant_layers, invariant_neurons and the irreps"
            found[f"{start}conv_tp_weights.layer{place}.weight"] = widths[place] * widths[place + 1], options
        if config.use_sc:
            kept = sum(mul * made.get(irrep, 0) for irrep, mul in features.items())
            found[f"{start}skip_tp.weight"] = ntypes * kept, irreps
        features = outputs
    return found


def nequip_misfit(config: NequipConfig, ntypes: int, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Compare sizes, see :func:`~deepmd_gnn.files.fitting_weights.misfit`."""
    layers = len({name.split(".")[1] for name in shapes if name.startswith("interactions.")})
    if layers != config.num_layers:
        return f"weights of {layers} layers, but num_layers is {config.num_layers}"
    for name, (count, options) in sizes(config, ntypes).items():
        if name not in shapes:
            return f"no weights '{name}'"
        if math.prod(shapes[name]) != count:
            return f"{math.prod(shapes[name])} weights '{name}', but {options} ask for {count}"
    return None
