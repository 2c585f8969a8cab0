"""The one table of architectures: options of a tiny model beside those of ``helpers.TINY``, and what each is tested for."""

from typing import Any, NamedTuple


class Architecture(NamedTuple):
    """A row."""

    options: dict[str, Any]
    tags: tuple[str, ...]


# conformance: the suite of every model of the host; native: numbers of native MACE; training, loss: gradients; physics: invariances and derivatives; cuequivariance; type map:
# elements dropped and added; written: as a native model; kernels, triton: generated code; frozen: into a .pt2 for two
# threads; lammps: in LAMMPS on ranks. Names of the latter are names of files in its inputs, without blanks.
ARCHITECTURES = {
    "default": Architecture(
        {},
        (
            "conformance",
            "native",
            "training",
            "loss",
            "physics",
            "cuequivariance",
            "type map",
            "written",
            "kernels",
            "triton",
        ),
    ),
    "one layer": Architecture(
        {"num_interactions": 1},
        (
            "conformance",
            "native",
        ),
    ),
    "three layers": Architecture({"num_interactions": 3}, ("conformance", "native", "training")),
    "scalars only": Architecture(
        {"max_L": 0},
        (
            "conformance",
            "native",
        ),
    ),
    "max_L 2": Architecture(
        {"max_L": 2, "max_ell": 3},
        (
            "conformance",
            "native",
        ),
    ),
    "max_ell 1": Architecture(
        {"max_ell": 1, "max_L": 1},
        (
            "conformance",
            "native",
        ),
    ),
    "pseudoscalars": Architecture(
        {"num_channels": None, "max_L": None, "hidden_irreps": "4x0e + 4x0o + 4x1o + 4x1e"},
        ("conformance", "native", "kernels", "triton"),
    ),
    "correlation 1": Architecture(
        {"correlation": 1},
        (
            "conformance",
            "native",
        ),
    ),
    "correlation 3": Architecture({"correlation": 3}, ("conformance", "native", "cuequivariance")),
    "correlation per layer": Architecture(
        {"correlation": [3, 1]},
        (
            "conformance",
            "native",
        ),
    ),
    "residual first": Architecture({"interaction_first": "RealAgnosticResidual"}, ("native",)),
    "plain blocks": Architecture(
        {"interaction": "RealAgnostic"},
        (
            "conformance",
            "native",
        ),
    ),
    "density": Architecture({"interaction": "RealAgnosticDensity"}, ("native",)),
    "density residual": Architecture(
        {"interaction": "RealAgnosticDensityResidual"},
        (
            "conformance",
            "native",
        ),
    ),
    "density residual first": Architecture(
        {"interaction": "RealAgnosticDensityResidual", "interaction_first": "RealAgnosticDensityResidual"},
        ("native",),
    ),
    "attentive": Architecture(
        {"interaction": "RealAgnosticAttResidual"}, ("conformance", "native", "cuequivariance")
    ),
    "attentive first": Architecture(
        {
            "interaction": "RealAgnosticAttResidual",
            "interaction_first": "RealAgnosticAttResidual",
            "apply_cutoff": False,
        },
        ("native",),
    ),
    "non-linear": Architecture(
        {"interaction": "RealAgnosticResidualNonLinear"}, ("conformance", "native", "kernels")
    ),
    "non-linear first": Architecture(
        {
            "interaction": "RealAgnosticResidualNonLinear",
            "interaction_first": "RealAgnosticResidualNonLinear",
            "apply_cutoff": False,
            "max_L": 2,
        },
        ("native",),
    ),
    "as MH-1": Architecture(
        {
            "interaction": "RealAgnosticResidualNonLinear",
            "interaction_first": "RealAgnosticResidualNonLinear",
            "apply_cutoff": False,
            "edge_irreps": "2x0e + 2x1o",
            "use_edge_irreps_first": True,
            "use_agnostic_product": True,
            "pair_repulsion": True,
            "distance_transform": "Agnesi",
        },
        ("native",),
    ),
    "edge irreps": Architecture({"edge_irreps": "3x0e + 3x1o"}, ("native",)),
    "edge irreps first": Architecture(
        {"edge_irreps": "3x0e + 3x1o + 3x2e", "use_edge_irreps_first": True}, ("native",)
    ),
    "agnostic product": Architecture({"use_agnostic_product": True}, ("native",)),
    "last readout only": Architecture({"use_last_readout_only": True, "num_interactions": 3}, ("native",)),
    "so3": Architecture(
        {"use_so3": True, "num_channels": None, "max_L": None, "hidden_irreps": "4x0e + 4x1e"}, ("native",)
    ),
    "all irreps last": Architecture({"keep_last_layer_irreps": True}, ("native",)),
    "readout with bias": Architecture({"readout_cls": "NonLinearBiasReadoutBlock"}, ("native",)),
    "gaussian": Architecture({"radial_type": "gaussian", "num_radial_basis": 16}, ("native",)),
    "agnesi": Architecture({"distance_transform": "Agnesi"}, ("native",)),
    "soft": Architecture({"distance_transform": "Soft"}, ("native",)),
    "zbl": Architecture({"pair_repulsion": True}, ("native",)),
    "zbl agnesi density": Architecture(
        {
            "pair_repulsion": True,
            "distance_transform": "Agnesi",
            "interaction": "RealAgnosticDensityResidual",
        },
        ("native", "training", "loss", "physics", "cuequivariance", "written"),
    ),
    "cutoff after mlp": Architecture({"apply_cutoff": False}, ("native",)),
    "cutoff after mlp, density": Architecture(
        {"apply_cutoff": False, "interaction": "RealAgnosticDensityResidual"}, ("native",)
    ),
    "cutoff power": Architecture({"num_cutoff_basis": 3}, ("native",)),
    "gate tanh": Architecture({"gate": "tanh"}, ("native",)),
    "gate abs": Architecture({"gate": "abs"}, ("native",)),
    "no gate": Architecture({"gate": "None"}, ("native",)),
    "deep radial": Architecture({"radial_MLP": [16, 8, 8]}, ("native",)),
    "readout width": Architecture({"MLP_irreps": "7x0e"}, ("native",)),
    "three elements": Architecture(
        {"type_map": ["O", "H", "Cu"], "atomic_energies": [-3.0, -1.0, -7.5]}, ("native",)
    ),
    "attentive, biased readout": Architecture(
        {
            "interaction": "RealAgnosticAttResidual",
            "readout_cls": "NonLinearBiasReadoutBlock",
            "num_interactions": 3,
        },
        ("training",),
    ),
    "non-linear, narrow edges, shared product": Architecture(
        {
            "interaction": "RealAgnosticResidualNonLinear",
            "interaction_first": "RealAgnosticResidualNonLinear",
            "edge_irreps": "2x0e + 2x1o",
            "use_edge_irreps_first": True,
            "use_agnostic_product": True,
            "use_last_readout_only": True,
        },
        ("training",),
    ),
    "cutoff after mlp, residual first": Architecture(
        {"apply_cutoff": False, "interaction_first": "RealAgnosticResidual"}, ("training",)
    ),
    "three layers, max_L 2": Architecture({"num_interactions": 3, "max_L": 2}, ("physics",)),
    "soft envelope, radial tanh": Architecture(
        {"radial_envelope": "soft_envelope", "radial_mlp_activation": "tanh"}, ("kernels",)
    ),
    "gated": Architecture({"gate_nodes": True, "soft_normalization": 0.02}, ("physics", "type map")),
    "partial charges": Architecture({"use_coulomb_term": True, "coulomb_cutoff": 5.5}, ("physics",)),
    "cutoff after mlp, gaussian": Architecture(
        {"apply_cutoff": False, "radial_type": "gaussian"}, ("physics",)
    ),
    "non-linear, agnostic product": Architecture(
        {"interaction": "RealAgnosticResidualNonLinear", "use_agnostic_product": True}, ("cuequivariance",)
    ),
    "density residual first, zbl, agnesi": Architecture(
        {
            "interaction": "RealAgnosticDensityResidual",
            "interaction_first": "RealAgnosticDensityResidual",
            "pair_repulsion": True,
            "distance_transform": "Agnesi",
        },
        ("type map",),
    ),
    "attentive, readout with bias": Architecture(
        {"interaction": "RealAgnosticAttResidual", "readout_cls": "NonLinearBiasReadoutBlock"}, ("type map",)
    ),
    "non-linear, agnostic": Architecture(
        {
            "interaction": "RealAgnosticResidualNonLinear",
            "interaction_first": "RealAgnosticResidualNonLinear",
            "edge_irreps": "2x0e + 2x1o",
            "use_agnostic_product": True,
        },
        ("type map",),
    ),
    "plain, correlation 3": Architecture(
        {"interaction": "RealAgnostic", "correlation": 3, "max_L": 2}, ("type map",)
    ),
    "non-linear, bias": Architecture(
        {
            "interaction": "RealAgnosticResidualNonLinear",
            "edge_irreps": "2x0e + 2x1o",
            "use_agnostic_product": True,
            "readout_cls": "NonLinearBiasReadoutBlock",
        },
        ("written",),
    ),
    "attentive, three layers, one readout": Architecture(
        {
            "interaction": "RealAgnosticAttResidual",
            "num_interactions": 3,
            "use_last_readout_only": True,
            "correlation": [2, 1, 3],
        },
        ("written",),
    ),
    "gaussian, soft": Architecture(
        {"radial_type": "gaussian", "num_radial_basis": 12, "distance_transform": "Soft"}, ("written",)
    ),
    "as S": Architecture(
        {"num_interactions": 3, "max_L": 0, "max_ell": 3, "correlation": [3, 2, 1], "num_channels": 18},
        ("kernels", "triton"),
    ),
    "as L": Architecture(
        {"max_L": 2, "max_ell": 3, "correlation": 3, "num_channels": 5}, ("kernels", "triton")
    ),
    "density first, zbl, agnesi, three elements": Architecture(
        {
            "interaction": "RealAgnosticDensityResidual",
            "interaction_first": "RealAgnosticDensity",
            "pair_repulsion": True,
            "distance_transform": "Agnesi",
            "type_map": ["O", "H", "Cu"],
            "atomic_energies": [-3.0, -1.0, -7.5],
        },
        ("kernels",),
    ),
    "soft gaussian": Architecture(
        {
            "distance_transform": "Soft",
            "radial_type": "gaussian",
            "num_radial_basis": 16,
            "apply_cutoff": False,
            "interaction_first": "RealAgnosticResidual",
        },
        ("kernels",),
    ),
    "one layer, no correlation": Architecture(
        {"num_interactions": 1, "max_ell": 4, "correlation": 1}, ("kernels",)
    ),
    "as MH-1, no repulsion": Architecture(
        {
            "interaction": "RealAgnosticResidualNonLinear",
            "interaction_first": "RealAgnosticResidualNonLinear",
            "apply_cutoff": False,
            "edge_irreps": "2x0e + 2x1o",
            "use_edge_irreps_first": True,
            "use_agnostic_product": True,
            "distance_transform": "Agnesi",
        },
        ("kernels",),
    ),
    "density first, zbl": Architecture(
        {
            "interaction": "RealAgnosticDensityResidual",
            "interaction_first": "RealAgnosticDensity",
            "pair_repulsion": True,
        },
        ("triton",),
    ),
    "one layer, vectors": Architecture({"num_interactions": 1, "max_ell": 1, "correlation": 1}, ("triton",)),
    "non-linear, a table for every pair": Architecture(
        {
            "interaction": "RealAgnosticResidualNonLinear",
            "apply_cutoff": False,
            "distance_transform": "Agnesi",
        },
        ("triton",),
    ),
    "float32, correlation 3": Architecture(
        {"precision": "float32", "max_ell": 3, "correlation": 3}, ("triton",)
    ),
    "SO(3), all irreps last": Architecture(
        {
            "interaction": "RealAgnosticInteractionBlock",
            "use_so3": True,
            # Not in LAMMPS: random atoms would fly past the skin between two lists.
            "pair_repulsion": True,
            "keep_last_layer_irreps": True,
            "readout_cls": "NonLinearBiasReadoutBlock",
            "edge_irreps": "2x0e + 2x1o",
            "use_edge_irreps_first": True,
            "max_ell": 1,
            "correlation": 1,
            "gate": "abs",
        },
        ("frozen",),
    ),
    "one_layer": Architecture({"num_interactions": 1}, ("lammps",)),
    "two_layers": Architecture({}, ("lammps",)),
    "three_layers": Architecture({"num_interactions": 3}, ("lammps",)),
    "float32": Architecture({"precision": "float32"}, ("lammps",)),
    "attentive_layers": Architecture(
        {
            "interaction": "RealAgnosticAttResidualInteractionBlock",
            "interaction_first": "RealAgnosticResidualInteractionBlock",
            "distance_transform": "Soft",
            "radial_type": "gaussian",
            "num_radial_basis": 16,
            "use_last_readout_only": True,
            "atom_exclude_types": [1],
            # Without kernels TorchInductor's time grows with the number of paths: minutes with more. The product squares the vectors.
            "max_L": 0,
            "max_ell": 1,
            "correlation": 2,
        },
        ("frozen", "lammps"),
    ),
    "non_linear": Architecture(
        {
            "interaction": "RealAgnosticResidualNonLinearInteractionBlock",
            "interaction_first": "RealAgnosticResidualNonLinearInteractionBlock",
            "edge_irreps": "2x0e + 2x1o",
            "use_agnostic_product": True,
            "apply_cutoff": False,
            "max_ell": 1,
            "correlation": 2,
        },
        ("frozen", "lammps"),
    ),
    "qm_mm": Architecture(
        {
            "interaction": "RealAgnosticDensityResidualInteractionBlock",
            "interaction_first": "RealAgnosticDensityInteractionBlock",
            "distance_transform": "Agnesi",
            "correlation": [3, 1],
            "gate": "tanh",
            "type_map": ["O", "HW"],
            "atomic_energies": {"O": -5.0},
            "pair_exclude_types": [[0, 0]],
        },
        ("frozen", "lammps"),
    ),
    "third": Architecture({"seed": 5}, ("lammps",)),
    # Frames without charge and spin, as most tests have them, have the default ones.
    "charged": Architecture(
        {
            "embeddings": {
                "total_charge": {"type": "categorical", "num_classes": 9, "offset": 4, "emb_dim": 3},
                "total_spin": {"type": "categorical", "num_classes": 5, "emb_dim": 2},
                "temperature": {"type": "continuous", "emb_dim": 3, "default": 0.3},
            },
        },
        ("native", "training", "physics", "type map", "kernels", "triton", "lammps"),
    ),
}


def architectures(tag: str) -> dict[str, dict[str, Any]]:
    """Options by name of all rows with a tag."""
    return {name: row.options for name, row in ARCHITECTURES.items() if tag in row.tags}


# The same for NequIP, beside the options of ``nequip_models.TINY``.
NEQUIP: dict[str, Architecture] = {
    "default": Architecture({}, ("conformance", "type map")),
    "one layer, scalars only": Architecture({"num_layers": 1, "l_max": 0}, ("conformance",)),
    "no self-connection, fixed basis": Architecture(
        {"use_sc": False, "num_layers": 3, "l_max": 2, "num_features": 2, "BesselBasis_trainable": False},
        ("conformance", "type map"),
    ),
    "norm": Architecture({"nonlinearity_type": "norm"}, ("conformance",)),
    "explicit irreps": Architecture(
        {
            "irreps_edge_sh": "0e + 1o + 2e",
            "feature_irreps_hidden": "4x0o + 4x0e + 4x1o + 4x1e",
            "chemical_embedding_irreps_out": "3x0e",
            "conv_to_output_hidden_irreps_out": "5x0e",
            "num_layers": 3,
        },
        ("conformance", "type map"),
    ),
}


def nequip_architectures(tag: str) -> dict[str, dict[str, Any]]:
    """Options by name of all rows of NequIP with a tag."""
    return {name: row.options for name, row in NEQUIP.items() if tag in row.tags}
