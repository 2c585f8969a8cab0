"""Writes reference.npz: weights, energies, forces and charges of the MACE of the library mlip for some options.

    pip install mlip==0.2.5
    python tests/data/mlip/make_reference.py

The models have random weights, in double precision. A weight is stored with the factor that mlip multiplies it with; the couplings of messages
are read from its convolution, and of the product basis, which is another one than native MACE's, its values at random features are kept. What is
compared with it: tests/nn/test_mlip.py.
"""

import json
from pathlib import Path

import e3j
import e3nn_jax as e3nn
import jax
import jax.numpy as jnp
import numpy as np
from e3j.utils.options import Layout
from mlip.data.chemical_system import ChemicalSystem
from mlip.data.dataset_info import DatasetInfo
from mlip.graph import Graph
from mlip.models import ForceField
from mlip.models.mace.config import MaceConfig
from mlip.models.mace.network import Mace
from mlip.models.mace.symmetric_contraction import SymmetricContraction
from mlip.models.options import parse_activation
from mlip.typing.properties import Properties

jax.config.update("jax_enable_x64", True)
HERE = Path(__file__).parent
NUMBERS = [1, 8]
COMMON = {
    "num_layers": 2, "num_channels": 3, "l_max": 2, "node_symmetry": 1, "correlation": 3, "readout_irreps": ["4x0e", "0e"],
    "num_rbf": 4, "radial_mlp_hidden": [8, 8],
}  # fmt: skip
CASES = {
    "default": COMMON,
    "residual": {
        **COMMON, "num_layers": 3, "node_symmetry": 2, "correlation": 2, "residual_connection_first_layer": True,
        "activation": "tanh",
    },
    "radial": {
        **COMMON, "radial_mlp_activation": "tanh", "radial_envelope": "soft_envelope", "avg_r_min": 1.1, "correlation": 2,
    },
    "gated": {**COMMON, "gate_nodes": True, "soft_normalization": 0.3, "correlation": 2},
    "charges": {**COMMON, "use_coulomb_term": True, "use_total_charge_embedding": True, "embed_activation": "tanh"},
}  # fmt: skip
# Beyond the molecule: the energy of all pairs.
LONG = 50.0


def frames():
    """Nine atoms in a cell, and the same without one."""
    rng = np.random.default_rng(3)
    cell = np.array([[6.0, 0, 0], [0.5, 6.2, 0], [-0.4, 0.3, 5.8]])
    grid = np.stack(np.meshgrid(*[[0.0, 0.5]] * 3, indexing="ij"), -1).reshape(-1, 3)
    places = np.vstack([grid, [0.25, 0.25, 0.25]]) + rng.normal(scale=0.03, size=(9, 3))
    return {"positions": places @ cell, "types": rng.integers(0, 2, 9), "cell": cell}


def flat(tree, prefix=""):
    """Parameters by name."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", np.asarray(value, dtype=np.float64)


def scaled(name, weight, species):
    """A weight with the factor that mlip multiplies it with."""
    if name.endswith("embedding"):
        return weight * weight.shape[0] ** -0.5
    if "LinearIndexwise" in name or "gate" in name:
        return weight  # the product basis is sampled, and gates have no factor
    if "radial_mlp" in name:
        return weight * weight.shape[0] ** -0.5
    if "weight" in name.rsplit("/", 1)[1] and weight.size:
        return weight * weight.shape[-1] ** -0.5
    return weight


def couplings(layer):
    """Of a layer's messages: (path, feature, harmonic, result), and the irreps of the result."""
    block = layer.interaction_block
    convolve = jax.jit(e3j.core.Convolution(
        source=(str(block._src), str(e3nn.Irreps.spherical_harmonics(block.l_max))),
        target=str(e3nn.Irreps(block.target_irreps).set_mul(1)),
        layout=Layout.TRAILING_CHANNELS,
        graph_ordering="NONE",
    ))  # fmt: skip
    paths, features = block.message_irreps.num_irreps, e3nn.Irreps(block._src).dim
    harmonics = (block.l_max + 1) ** 2
    result = np.zeros((paths, features, harmonics, block.message_irreps.dim))
    for path, feature, harmonic in np.ndindex(*result.shape[:3]):
        sent = np.zeros((1, features, 1))
        sent[0, feature] = 1.0
        scalars = np.zeros((1, paths, 1))
        scalars[0, path] = 1.0
        values = np.eye(harmonics)[harmonic][None]
        zero = jnp.zeros(1, dtype=jnp.int32)
        out = convolve(
            jnp.asarray(sent), jnp.asarray(values), jnp.asarray(scalars), zero, zero, jnp.ones(1, bool)
        )
        result[path, feature, harmonic] = np.asarray(out)[0, :, 0]
    return result, str(block.message_irreps)


def product_values(layer, weights, points):
    """Values of a layer's product basis at some features, the same for all channels: (point, type, channel, component)."""
    block = layer.expansion_block
    contraction = SymmetricContraction(
        source_irreps=str(e3nn.Irreps([(1, ir) for _, ir in block.source_irreps])),
        keep_irrep_out=str(e3nn.Irreps([(1, ir) for _, ir in e3nn.Irreps(block.target_irreps)])),
        correlation=block.correlation, num_species=block.num_species, num_channels=block.num_channels,
        layout=Layout.TRAILING_CHANNELS,
    )  # fmt: skip
    feats = np.repeat(points[:, None], block.num_channels, axis=1)
    irreps = contraction.source
    return np.stack([
        np.asarray(contraction.apply({"params": weights}, e3nn.IrrepsArray(irreps, jnp.asarray(feats)),
                                     jnp.full(len(points), kind)).array)
        for kind in range(block.num_species)
    ], axis=1)  # fmt: skip


def evaluated(field, system, charge):
    """Energy, forces, stress and charges of a system."""
    system = ChemicalSystem(**system, charge=charge)
    reach = field.long_range_cutoff_distance
    graph = Graph.from_chemical_system(system, field.cutoff_distance, long_range_cutoff_angstrom=reach)
    graph = jax.tree.map(
        lambda x: jnp.asarray(x, dtype=jnp.float64) if np.asarray(x).dtype.kind == "f" else x, graph
    )
    out = field(graph)
    return {name: np.asarray(getattr(out, name)) for name in ("energy", "forces", "stress", "partial_charges") if getattr(out, name, None) is not None}  # fmt: skip


def main():
    """Write the file."""
    found, given = {}, frames()
    found.update({f"frame/{name}": value for name, value in given.items()})
    rng = np.random.default_rng(4)
    for name, options in CASES.items():
        charged = options.get("use_coulomb_term", False)
        info = DatasetInfo(
            atomic_energies_map={1: -1.25, 8: -5.0}, graph_cutoff_angstrom=4.0, avg_num_neighbors=8.0,
            total_charge_set={-1, 0, 2}, avg_r_min_angstrom=options.get("avg_r_min"), long_range_cutoff_angstrom=LONG if charged else None,
        )  # fmt: skip
        network = Mace(config=MaceConfig(**options), dataset_info=info)
        wanted = Properties(stress=not charged, partial_charges=charged)
        field = ForceField.from_mlip_network(network, required_properties=wanted, seed=len(name))
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype=jnp.float64), field.params)
        field = ForceField(field.predictor, params)
        tree = params["params"]["mlip_network"]
        for key, value in flat(tree):
            found[f"{name}/weights/{key}"] = scaled(key, value, NUMBERS)
        bound = network.bind({"params": tree})
        for number, layer in enumerate(bound.layers):
            tensor, irreps = couplings(layer)
            weights = tree[f"layers_{number}"]["expansion_block"]["symmetric_contraction"]
            points = rng.normal(size=(40, (options["l_max"] + 1) ** 2))
            found[f"{name}/couplings/{number}"] = tensor
            found[f"{name}/message_irreps/{number}"] = np.array(irreps)
            found[f"{name}/points/{number}"] = points
            found[f"{name}/products/{number}"] = product_values(layer, weights, points)
        systems = {"free": {"pbc": (False,) * 3}} if charged else {"free": {"pbc": (False,) * 3}, "periodic": {"pbc": (True,) * 3, "cell": given["cell"]}}  # fmt: skip
        for kind, boundary in systems.items():
            for charge in (-1, 0, 2) if charged else (0,):
                system = {
                    "atomic_numbers": np.array(NUMBERS)[given["types"]],
                    "positions": given["positions"],
                    **boundary,
                }
                for key, value in evaluated(field, system, charge).items():
                    found[f"{name}/{kind}/{charge}/{key}"] = value
        found[f"{name}/options"] = np.array(json.dumps(options))
    x = jnp.asarray([0.7])
    for activation in ("silu", "tanh"):
        plain = parse_activation(activation)
        found[f"gain/{activation}"] = np.asarray(e3nn.normalize_function(plain)(x) / plain(x))[0]
    np.savez_compressed(HERE / "reference.npz", **found)


if __name__ == "__main__":
    main()
