"""Keys of the section ``"descriptor": {"type": "mace"}``: those of the model that make features, the others refused by name."""

import pytest
from deepmd.utils.argcheck import normalize
from descriptors import section

from deepmd_gnn.config.descriptor import (
    KEYS,
    REFUSED,
    architecture,
    check_elements,
    descriptor_config,
    place_of_vectors,
)
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.sections import canonical_names


def whole_input(**descriptor):
    return {
        "model": section(**descriptor),
        "loss": {"type": "ener"},
        "learning_rate": {"type": "exp", "start_lr": 0.01, "stop_lr": 0.001},
        "training": {"training_data": {"systems": ["data"]}, "numb_steps": 1},
    }


def test_every_option_of_the_model_is_taken_or_refused():
    assert sorted([*KEYS, *REFUSED]) == sorted(set(canonical_names(MaceConfig).values()))


def test_schema_fills_in_defaults():
    settings = whole_input()
    del settings["model"]["descriptor"]["sel"]
    filled = normalize(settings)["model"]["descriptor"]
    assert filled["sel"] == "auto:2"
    assert filled["num_interactions"] == 2
    assert filled["exclude_types"] == []
    assert not set(filled) & set(REFUSED)
    config = descriptor_config({k: v for k, v in filled.items() if k != "type"})
    assert config.hidden_irreps == "4x0e + 4x1o"
    assert config.sel == "auto:2"


def test_schema_knows_other_spellings():
    settings = whole_input()
    settings["model"]["descriptor"].update(rcut=3.5, num_layers=1)
    del settings["model"]["descriptor"]["r_max"]
    filled = normalize(settings)["model"]["descriptor"]
    assert (filled["r_max"], filled["num_interactions"]) == (3.5, 1)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scale", 2.0, "DeePMD-kit's fitting_net"),
        ("std", 2.0, "DeePMD-kit's fitting_net"),
        ("MLP_irreps", "8x0e", "fitting_net"),
        ("E0s", {"O": -1.0}, "preset_out_bias"),
        ("pair_repulsion", True, "use_srtab"),
        ("embeddings", {"total_charge": {}}, "numb_fparam"),
        ("enable_cueq", True, "leave it out"),
    ],
)
def test_refused_by_name(key, value, words):
    with pytest.raises(ValueError, match=f"mace descriptor: '{key}' is no key of a descriptor: .*{words}"):
        descriptor_config({key: value})
    with pytest.raises(Exception, match=words):
        normalize(whole_input(**{key: value}))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r_cut": 4.0}, "unknown key 'r_cut'. Known keys: r_max"),
        ({"rcut": 4.0, "r_max": 4.0}, "'r_max' and 'rcut' are the same"),
        ({"r_max": -1.0}, "mace descriptor: 'r_max' is -1.0"),
    ],
)
def test_mistakes(options, words):
    with pytest.raises(ValueError, match=words):
        descriptor_config(options)


def test_mm_types():
    with pytest.raises(ValueError, match='MM types mH, .*Use "type": "mace"'):
        check_elements(["O", "mH"])


@pytest.mark.parametrize(
    ("options", "places"),
    [
        ({"max_L": 1}, [1, -1]),
        ({"max_L": 1, "num_layers": 1, "keep_last_layer_irreps": True}, [-1]),
        ({"max_L": 1, "keep_last_layer_irreps": True}, [1, 1]),
        ({"max_L": 0, "keep_last_layer_irreps": True}, [-1, -1]),
        ({"hidden_irreps": "4x0e + 4x2e + 4x1o", "keep_last_layer_irreps": True}, [6, 6]),
        ({"hidden_irreps": "4x0e + 4x1e", "use_so3": True, "num_layers": 3}, [1, 1, -1]),
    ],
)
def test_places_of_vectors(options, places):
    assert place_of_vectors(descriptor_config(options)) == places


def test_same_architecture_has_one_spelling():
    ours = architecture(descriptor_config({"hidden_irreps": "4x0e+4x1o", "seed": 3, "sel": 9}))
    assert ours == architecture(descriptor_config({"num_channels": 4, "max_L": 1}))
    assert ours != architecture(descriptor_config({"num_channels": 4, "max_L": 1, "r_max": 4.0}))
