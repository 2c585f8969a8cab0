"""The spelling with sections means what the flat spelling means."""

import pytest
from deepmd.utils.argcheck import model_args
from helpers import TINY

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.options import config_from_options
from deepmd_gnn.config.sections import set_sel

NETWORK = {
    k: v for k, v in TINY.items() if k not in ("type", "type_map", "MLP_irreps", "scale", "atomic_energies")
}
READOUT = {k: TINY[k] for k in ("MLP_irreps", "scale", "atomic_energies")}


def normalised(section):
    """As the host's schema fills it in."""
    argument = model_args()
    return argument.normalize_value(section, trim_pattern="_*")


def test_same_configuration():
    section = {"type": "mace", "type_map": ["O", "H"], "descriptor": NETWORK, "fitting_net": READOUT}
    flat = config_from_options({k: v for k, v in TINY.items() if k != "type"})
    assert config_from_options(section) == flat
    filled = normalised(
        {
            "type": "mace",
            "type_map": ["O", "H"],
            "descriptor": {"type": "mace", **NETWORK},
            "fitting_net": READOUT,
        }
    )
    model_args().check_value(filled, strict=True)
    assert config_from_options(filled) == flat


def test_keys_beside_the_sections_count():
    filled = normalised(
        {"type": "mace", "type_map": ["O"], "precision": "float32", "descriptor": {"r_max": 3.0}}
    )
    config = config_from_options(filled)
    assert (config.precision, config.r_max) == ("float32", 3.0)


def test_seeds_of_both_sections_count():
    seeds = [
        config_from_options({"descriptor": {"seed": 1}, "fitting_net": {"seed": k}}).seed for k in (2, 3)
    ]
    assert seeds == [[1, 2], [1, 3]]


def test_sections_are_trained_or_not():
    config = config_from_options({"descriptor": {"trainable": False}, "fitting_net": {"trainable": True}})
    assert config.freeze == ["node_embedding", "interactions", "products"]
    assert config_from_options({"descriptor": {}}).freeze is None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"descriptor": {"type": "dpa3"}}, "'descriptor' has type 'dpa3', but must have 'mace'"),
        ({"descriptor": {"MLP_irreps": "8x0e"}}, "'MLP_irreps' is no key of 'descriptor'"),
        ({"fitting_net": {"neuron": [240]}}, "'neuron' is no key of 'fitting_net'"),
        ({"r_max": 6.0, "descriptor": {"r_max": 4.0}}, "'r_max' is 6.0 in the model section and 4.0"),
    ],
)
def test_misplaced_keys_are_explained(section, message):
    with pytest.raises(ValueError, match=message):
        config_from_options(section)


def test_sel_from_the_data_overrides_the_section():
    changed = set_sel({"sel": "auto", "descriptor": {"sel": "auto:1.2"}}, 30)
    assert config_from_options(changed).sel == 30
    assert MaceConfig(sel=30) == config_from_options(set_sel({"type_map": ["O"]}, 30))
