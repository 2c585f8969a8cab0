"""Options of the MACE of another library, mlip: each is a key with the same meaning, or refused by name."""

import pytest
from dargs.dargs import ArgumentKeyError
from deepmd.utils.argcheck import model_args

from deepmd_gnn.config.foreign import FOREIGN
from deepmd_gnn.config.options import config_from_options
from deepmd_gnn.config.sections import canonical_names

# All 27 of mlip 0.2.5, with its defaults.
MLIP = {
    "num_layers": 2, "num_channels": 128, "l_max": 3, "node_symmetry": None, "correlation": 3, "readout_irreps": ["16x0e", "0e"],
    "num_readout_heads": 1, "include_pseudotensors": False, "num_rbf": 8, "activation": "silu",
    "radial_envelope": "polynomial_envelope", "radial_mlp_hidden": [64, 64, 64], "radial_mlp_activation": "silu",
    "add_atomic_energies": True, "avg_num_neighbors": None, "avg_r_min": None, "num_species": None, "gate_nodes": False,
    "residual_connection_first_layer": False, "soft_normalization": None, "predict_partial_charges": False,
    "use_coulomb_term": False, "use_total_charge_embedding": False, "embed_activation": "silu",
    "deterministic_scatter_ops": False, "symmetric_contraction_backend": "e3j", "use_gaunt_tp_message_passing": False,
}  # fmt: skip


def schema(**options):
    """A model section after DeePMD-kit's check, as the model gets it."""
    section = {"type": "mace", "type_map": ["O", "H"], **options}
    checked = model_args().normalize_value(section, trim_pattern="_*")
    model_args().check_value(checked, strict=True)
    return config_from_options(checked)


def test_every_option_with_its_default():
    config = schema(**MLIP)
    assert set(MLIP) <= set(FOREIGN) | set(canonical_names())
    assert config.hidden_irreps == "128x0e + 128x1o + 128x2e + 128x3o"  # node_symmetry: null is l_max
    assert config == schema(num_channels=128, max_L=3)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"node_symmetry": 2}, {"max_L": 2}),
        ({"node_symmetry": None, "l_max": 2}, {"max_L": 2, "max_ell": 2}),
        ({"node_symmetry": None, "max_ell": 1}, {"max_L": 1, "max_ell": 1}),
        ({"readout_irreps": ["32x0e", "1x0e"]}, {"MLP_irreps": "32x0e"}),
        ({"readout_irreps": "32x0e"}, {"MLP_irreps": "32x0e"}),
        ({"activation": "swish"}, {"gate": "silu"}),
        ({"activation": "none"}, {"gate": "None"}),
        ({"activation": "elu"}, {"gate": "elu"}),
        ({"radial_mlp_hidden": [32, 32]}, {"radial_MLP": [32, 32]}),
        ({"residual_connection_first_layer": True}, {"interaction_first": "RealAgnosticResidual"}),
        ({"deterministic_scatter_ops": True}, {}),
        ({"symmetric_contraction_backend": "e3nn"}, {}),
        ({"radial_envelope": "polynomial"}, {}),
        ({"node_symmetry": 2, "max_L": 2}, {"max_L": 2}),
    ],
)
def test_translated(theirs, ours):
    assert schema(**theirs) == schema(**ours)
    assert config_from_options({"type": "mace", **theirs}) == config_from_options({"type": "mace", **ours})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"node_symmetry": 4}, "'node_symmetry' is 4, but must be at most l_max"),
        ({"node_symmetry": True}, "'node_symmetry' is True"),
        (
            {"node_symmetry": 2, "max_L": 3},
            "'node_symmetry' is 2, which is 'max_L' 2, but 'max_L' is 3; keep one",
        ),
        ({"readout_irreps": ["16x0e", "16x0e", "0e"]}, "one hidden layer, then the energy"),
        ({"readout_irreps": ["16x0e", "2x0e"]}, "one hidden layer, then the energy"),
        ({"activation": "gelu"}, "one of swish, none, silu, elu"),
        ({"num_readout_heads": 2}, "branches of multi-task training"),
        ({"include_pseudotensors": True}, "hidden_irreps like"),
        ({"add_atomic_energies": False}, "atomic_energies"),
        ({"symmetric_contraction_backend": "gaunt_tp"}, "other polynomials"),
        ({"use_gaunt_tp_message_passing": True}, "Clebsch-Gordan"),
    ],
)
def test_refused_by_name(options, words):
    with pytest.raises(ValueError, match="mace model: .*" + words):
        schema(**options)
    with pytest.raises(ValueError, match="mace model: .*" + words):
        config_from_options({"type": "mace", **options})


def test_other_networks_do_not_have_them():
    section = model_args().normalize_value(
        {"type": "nequip", "type_map": ["O"], "include_pseudotensors": False}
    )
    with pytest.raises(ArgumentKeyError, match="include_pseudotensors"):
        model_args().check_value(section, strict=True)
