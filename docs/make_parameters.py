"""Write ``docs/parameters.md`` and the list of ``docs/nequip.md`` from the definitions of the options."""

import dataclasses
import re
from pathlib import Path

from deepmd_gnn.config.foreign import FOREIGN
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.mlip import MlipOptions
from deepmd_gnn.config.nequip import NequipConfig

HEADER = """# Parameters of `"type": "mace"`

Made by `python docs/make_parameters.py` from `deepmd_gnn/config/mace.py`; do not edit. Besides these keys the model section
takes DeePMD-kit's generic ones: `type_map` (chemical symbols), `pair_exclude_types`, `atom_exclude_types`,
`preset_out_bias`, `data_stat_nbatch` (batches per system from which the statistics are taken). The sections
`training`, `learning_rate`, `optimizer` and `loss` are DeePMD-kit's own, see
[its reference](https://docs.deepmodeling.com/projects/deepmd/en/stable/train/train-input.html) and
[its advanced options](https://docs.deepmodeling.com/projects/deepmd/en/stable/train/training-advanced.html);
[recipes](recipes.md) says what to write there.

"""
MLIP = """## Options of mlip's MACE

The library [mlip](https://github.com/instadeepai/mlip) (JAX) has a MACE with options of other names. Each is a key here with the same
meaning, or is refused by name with what to use instead. Its defaults are its own: `node_symmetry` as `l_max`, no scale
(`"scale": 1.0`), float32. Its weights are not read: bases of the product and normalisations of weights differ. What is said here of
mlip is of version 0.2.5. Compared with it were whole networks with random weights that were carried over, in double precision: energies, forces, stresses and
charges of nine atoms with and without a cell equal mlip's to 1e-13 of the largest (`tests/nn/test_mlip.py`), with two layers,
with three with residual connections, with gates and soft normalisation, and with charges, Coulomb term and embedding of the total charge; with soft envelope,
another radial activation and `avg_r_min` to 1e-5 at most, because mlip samples in single precision. These options are this package's own beside native MACE: a model that has
them is not exported to it, and `enable_cueq` is refused.

| mlip | here |
|---|---|
"""
SAME = {
    "num_layers": "`num_interactions`",
    "num_channels": "the same",
    "l_max": "`max_ell`",
    "correlation": "the same, also one per layer",
    "num_rbf": "`num_radial_basis`",
    "radial_mlp_hidden": "`radial_MLP`",
    "avg_num_neighbors": "the same; null is from the data, as there",
    "use_coulomb_term": "the same, but the interaction ends in a reaction field where mlip cuts it off ([why](charges.md#charges-of-atoms)). Its cutoff, "
    "`long_range_cutoff_angstrom` of mlip's data, is `coulomb_cutoff`",
    "predict_partial_charges": "the same with use_coulomb_term, which implies it. Alone it is refused: charges from labels are a property of atoms "
    '(`"descriptor": {"type": "mace"}`)',
    "use_total_charge_embedding": "the same, for total charges from −50 to 50. mlip multiplies both embeddings by matrices, which are products with "
    "their tables; here are the tables",
    "embed_activation": "the same",
    "radial_envelope": "the same; polynomial_envelope has the power num_cutoff_basis (5 there)",
    "radial_mlp_activation": "the same, where the block has no radial network of its own kind (ResidualNonLinear). sigmoid is refused: messages would not end at r_max. relu and elu have kinks: forces jump or bend there, and "
    "a `.pt2` has neither radial tables nor generated kernels",
    "avg_r_min": "the same, but null is no division, where mlip takes the mean shortest distance of its data",
    "gate_nodes": "the same; a `.pt2` is without generated kernels, and training on a GPU, too",
    "soft_normalization": "the same; as gate_nodes",
}
# Keys that most inputs have, and those that change the network; the others are rare.
USUAL = (
    "r_max", "num_channels", "max_L", "num_interactions", "max_ell", "correlation", "precision", "atomic_energies", "seed"
)  # fmt: skip
ARCHITECTURE = (
    "hidden_irreps", "num_radial_basis", "num_cutoff_basis", "radial_MLP", "radial_type", "distance_transform",
    "interaction", "interaction_first", "MLP_irreps", "gate", "pair_repulsion", "apply_cutoff",
    "edge_irreps", "readout_cls", "use_last_readout_only", "use_agnostic_product",
)  # fmt: skip
# Where the list of another page begins and ends.
PLACE = re.compile(r"(<!-- keys: [^\n]* -->\n).*?(<!-- end of keys -->)", re.DOTALL)
Fields = dict[str, "dataclasses.Field"]


def entry(option: "dataclasses.Field") -> str:
    """An option with its meaning below: readable on any width."""
    default = option.default if option.default_factory is dataclasses.MISSING else option.default_factory()
    name, *others = (f"`{name}`" for name in (option.name, *option.metadata["alias"]))
    aliases = f" (or {', '.join(others)})" if others else ""
    return (
        f"{name}{aliases}, default `{'null' if default is None else default}`\n: {option.metadata['doc']}\n\n"
    )


def entries(fields: Fields, names: "list[str] | tuple[str, ...]") -> str:
    """Several options."""
    return "".join(entry(fields[name]) for name in names)


def page() -> str:
    """The whole page of MACE."""
    fields = {option.name: option for option in dataclasses.fields(MaceConfig)}
    others = [option.name for option in dataclasses.fields(MlipOptions)]
    rare = [name for name in fields if name not in (*USUAL, *ARCHITECTURE, *others)]
    groups = {"Usual": USUAL, "Architecture": ARCHITECTURE, "Rare": rare, "As in mlip's MACE": others}
    text = "".join(f"## {title}\n\n{entries(fields, names)}" for title, names in groups.items())
    return HEADER + text + mlip_section()


def mlip_section() -> str:
    """What became of each option of the MACE of the library mlip."""
    rows = [f"| `{name}` | {ours} |" for name, ours in SAME.items()]
    rows += [f"| `{option.name}` | {option.doc} |" for option in FOREIGN.values()]
    return MLIP + "\n".join(rows) + "\n"


def nequip_page(text: str) -> str:
    """The page of NequIP with its list."""
    fields = {option.name: option for option in dataclasses.fields(NequipConfig)}
    return PLACE.sub(lambda found: f"{found[1]}\n{entries(fields, [*fields])}{found[2]}", text)


if __name__ == "__main__":
    Path(__file__).with_name("parameters.md").write_text(page())
    nequip = Path(__file__).with_name("nequip.md")
    nequip.write_text(nequip_page(nequip.read_text()))
