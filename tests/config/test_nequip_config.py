"""Options of a NequIP model: defaults, spellings of irreps, errors, schema and sections."""

import dataclasses
import json

import pytest
from deepmd.utils.argcheck import normalize

from deepmd_gnn.config.checks import spelled
from deepmd_gnn.config.fields import option, renamed
from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.config.networks import CONFIGS, config_class
from deepmd_gnn.config.options import config_from_options

MINIMAL = {"training": {"numb_steps": 1, "training_data": {"systems": ["."]}}, "loss": {}}


def schema(**model):
    section = {"type": "nequip", "type_map": ["O", "H"], **model}
    return normalize({"model": section, "learning_rate": {"start_lr": 1e-3}, **MINIMAL})["model"]


def test_defaults_are_those_of_the_existing_plugin():
    config = NequipConfig()
    assert (config.r_max, config.num_layers, config.num_basis, config.PolynomialCutoff_p) == (6.0, 4, 8, 6)
    assert (config.nonlinearity_type, config.invariant_layers, config.invariant_neurons) == ("gate", 2, 64)
    assert config.BesselBasis_trainable
    assert config.use_sc
    assert config.irreps_edge_sh == "1x0e + 1x1o + 1x2e"
    assert config.feature_irreps_hidden == "32x0e + 32x1e + 32x2e + 32x0o + 32x1o + 32x2o"
    assert config.chemical_embedding_irreps_out == "32x0e"
    assert config.conv_to_output_hidden_irreps_out == "16x0e"
    assert config.channels == 32


def test_input_of_the_existing_plugin():
    """Its documented keys, the irreps left to the simple ones."""
    model = schema(
        r_max=6.0, sel="auto", num_layers=4, l_max=2, num_features=32, nonlinearity_type="gate", parity=True,
        num_basis=8, BesselBasis_trainable=True, PolynomialCutoff_p=6, invariant_layers=2, invariant_neurons=64,
        use_sc=True, precision="float32",
    )  # fmt: skip
    config = config_from_options(model, NequipConfig)
    assert config == dataclasses.replace(NequipConfig(), precision="float32")


def test_simple_keys_and_irreps_are_two_spellings(caplog):
    simple = NequipConfig(l_max=1, num_features=8, parity=False)
    irreps = {
        "irreps_edge_sh": "0e+1e",
        "feature_irreps_hidden": "8x0e+8x1e",
        "chemical_embedding_irreps_out": "8x0e",
        "conv_to_output_hidden_irreps_out": "4x0e",
    }
    assert NequipConfig(**irreps) == simple
    assert NequipConfig(**irreps, l_max=1, parity=False, num_features=8) == simple
    assert not caplog.text
    # As the existing plugin, which goes by the irreps.
    assert NequipConfig(**irreps, l_max=2, parity=False, num_features=8) == simple
    assert "'irreps_edge_sh' is '1x0e + 1x1e' as written; from l_max 2, parity False" in caplog.text
    assert NequipConfig(**json.loads(json.dumps(simple.to_dict()))) == simple
    assert spelled("0e+ 4x1o") == "1x0e + 4x1o"


BAD = {
    "r_max": [0, "6"],
    "num_layers": [0, 1.5],
    "l_max": [-1, 12],
    "parity": ["yes"],
    "num_features": [0],
    "nonlinearity_type": ["gates"],
    "num_basis": [0],
    "BesselBasis_trainable": [1],
    "PolynomialCutoff_p": [1, "6"],
    "invariant_layers": [0],
    "invariant_neurons": [0],
    "use_sc": ["no"],
    "irreps_edge_sh": ["1o", "0e + 2x1o", "0e + 1o + 3e", "x", "0e + 0e"],
    "feature_irreps_hidden": ["8x1o", "8x0e + 4x1o", "8x0e + 8x0e", "8", "8x0e + 8x12e"],
    "chemical_embedding_irreps_out": ["8x0o", "8x0e + 8x1o", "0x0e"],
    "conv_to_output_hidden_irreps_out": ["8x1o"],
    "precision": ["float16"],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_bad_values_are_named(key, value):
    with pytest.raises(ValueError, match=f"^nequip model: '{key}' is .* must be") as caught:
        NequipConfig(**{key: value})
    assert repr(value) in str(caught.value)


def test_schema_and_unknown_keys():
    model = schema(rcut=5.0, l_max=1)
    assert model["r_max"] == 5.0
    with pytest.raises(Exception, match="nequip model: 'num_basis' is 0"):
        schema(num_basis=0)
    with pytest.raises(ValueError, match="^nequip model: unknown key 'max_ell'"):
        config_from_options({"max_ell": 2}, NequipConfig)
    with pytest.raises(ValueError, match="^nequip model: 'r_max' and another spelling"):
        config_from_options({"rcut": 5.0, "r_max": 5.0}, NequipConfig)


def test_sections():
    flat = config_from_options({"l_max": 1, "num_features": 4, "scale": 2.0, "freeze": None}, NequipConfig)
    section = {
        "descriptor": {"type": "nequip", "l_max": 1, "num_features": 4},
        "fitting_net": {"type": "ener", "scale": 2.0},
    }
    assert config_from_options(section, NequipConfig) == flat
    frozen = config_from_options({"descriptor": {"trainable": False}}, NequipConfig)
    assert frozen.freeze == ["node_embedding", "radial_embedding", "interactions"]
    with pytest.raises(ValueError, match="^nequip model: 'descriptor' has type 'mace'"):
        config_from_options({"descriptor": {"type": "mace"}}, NequipConfig)


def test_networks():
    assert CONFIGS.keys() == {"mace", "nequip"}
    assert config_class("nequip") is NequipConfig
    assert config_class("toy") is CONFIGS["mace"]
    assert str(renamed(ValueError("mace model: no"), "nequip")) == "nequip model: no"


def test_option():
    field = option([1], [list[int]], lambda key, value: None, "Numbers.", ("numbers",))
    assert field.metadata["alias"] == ("numbers",)
    assert field.default_factory() == [1]
