"""Weights are loaded only into the model that they are of; its elements may stand in another order."""

import logging
import re

import numpy as np
import pytest
import torch
from helpers import TINY, assert_close, our_results, random_frame, tiny_model
from tolerances import NATIVE

from deepmd_gnn.config.described import OPTION_TENSORS

# Options that no shape of a weight tells, or that constants of the file would override.
OTHERS = {
    "r_max": 3.0,
    "num_cutoff_basis": 8,
    "gate": "tanh",
    "apply_cutoff": False,
    "distance_transform": "Agnesi",
    "radial_type": "gaussian",
    "pair_repulsion": True,
    "interaction": "RealAgnosticAttResidualInteractionBlock",
    "interaction_first": "RealAgnosticResidualInteractionBlock",
    "max_ell": 3,
    "num_interactions": 1,
    "correlation": 3,
    "use_last_readout_only": True,
    "keep_last_layer_irreps": True,
    "readout_cls": "NonLinearBiasReadoutBlock",
    "MLP_irreps": "6x0e",
    "radial_MLP": [16],
    "edge_irreps": "2x0e + 2x1o",
    "use_agnostic_product": True,
    "hidden_irreps": "2x0e + 2x1o",
}
STATE = tiny_model(seed=9).state_dict()


def without_options(state):
    """The state as versions wrote it that did not store options."""
    stored = {"descriptor.options", "fitting_net.options"}
    assert stored <= state.keys()
    return {name: value for name, value in state.items() if name not in stored}


@pytest.mark.parametrize("option", OTHERS)
@pytest.mark.parametrize("strict", [True, False], ids=["checkpoint", "frozen file"])
def test_other_options_are_refused_with_both_values(option, strict):
    section = {
        k: v for k, v in TINY.items() if option != "hidden_irreps" or k not in ("num_channels", "max_L")
    }
    model = tiny_model(**{**dict.fromkeys(set(TINY) - set(section)), option: OTHERS[option]})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=f"mace model: .*'{option}' is .* in the file and .* in the model section"
    ):
        model.load_state_dict(dict(STATE), strict=strict)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_every_option_counts_unless_it_is_known_to_be_free():
    """A new option is compared from the beginning, or named as one that changes no number."""
    from deepmd_gnn.config.mace import MaceConfig
    from deepmd_gnn.host.stored_options import unpack

    model = tiny_model()
    stored = {key for name in OPTION_TENSORS for key in unpack(getattr(model, name))}
    free = {"sel", "seed", "freeze", "enable_cueq", "precision", "num_channels", "max_L"}
    assert stored - {"type_map", "pair_exclude_types", "atom_exclude_types"} == set(
        MaceConfig().to_dict()
    ) - free | {"edge_irreps", "embeddings", "avg_r_min", "soft_normalization"}


def test_both_values_and_the_default_are_in_the_message():
    state = tiny_model(gate="tanh", r_max=4.5).state_dict()
    with pytest.raises(
        ValueError, match="'r_max' is 4.5 in the file and 4.0 in the model section"
    ) as refused:
        tiny_model().load_state_dict(state)
    assert "'gate' is 'tanh' in the file and 'silu' (the default) in the model section" in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [
        {"num_channels": None, "max_L": None, "hidden_irreps": "4x0e+4x1o"},
        {"correlation": [2, 2], "MLP_irreps": "4x0e", "distance_transform": None},
        {"seed": 5, "sel": 17, "freeze": ["node_embedding"], "precision": "float32"},
    ],
)
def test_other_spellings_and_free_options_load(options):
    tiny_model(**options).load_state_dict(dict(STATE))


def test_one_layer_has_no_options_of_later_layers():
    state = tiny_model(num_interactions=1).state_dict()
    tiny_model(num_interactions=1, gate="tanh", MLP_irreps="5x0e").load_state_dict(state)


MODELS = {
    "default": {},
    "density, one more layer": {"interaction": "RealAgnosticDensityResidual", "num_interactions": 3},
    "non-linear": {
        "interaction": "RealAgnosticResidualNonLinear",
        "interaction_first": "RealAgnosticResidualNonLinear",
        "pair_repulsion": True,
    },
    "MM types": {},
}


@pytest.mark.parametrize("kind", MODELS)
def test_elements_in_another_order_are_put_in_place(kind, caplog):
    old, new = (
        (["O", "H", "Cu"], ["Cu", "O", "H"]) if kind != "MM types" else (["O", "H", "mH"], ["mH", "O", "H"])
    )
    energies = {"O": -5.0, "H": -1.25}
    model = tiny_model(type_map=old, atomic_energies=energies, **MODELS[kind])
    coord, types, cell = random_frame(ntypes=3)
    before = our_results(model, coord, types, cell)
    other = tiny_model(type_map=new, atomic_energies=energies, seed=4, **MODELS[kind])
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(model.state_dict())
    assert f"the file's order {old} into {new}" in caplog.text
    after = our_results(other, coord, [new.index(old[t]) for t in types], cell)
    for key in ("energy", "force", "virial"):
        assert_close(after[key], before[key], NATIVE["float64"], key)
    assert (
        other.energy_model.atomic_numbers.tolist()
        == tiny_model(type_map=new, **MODELS[kind]).energy_model.atomic_numbers.tolist()
    )
    again = tiny_model(type_map=new, atomic_energies=energies, **MODELS[kind])
    again.load_state_dict(other.state_dict())  # says the new order now
    np.testing.assert_array_equal(
        our_results(again, coord, types, cell)["energy"], our_results(other, coord, types, cell)["energy"]
    )


def test_other_elements_are_sent_to_fine_tuning():
    with pytest.raises(
        ValueError, match=r"type_map \['O', 'H'\], but the model section has \['O', 'C'\].*--finetune"
    ):
        tiny_model(type_map=["O", "C"], atomic_energies="auto").load_state_dict(dict(STATE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r_max": 3.0}, "'r_max' is 4.0 in the file and 3.0"),
        ({"num_cutoff_basis": 6}, "'num_cutoff_basis' is 5.0 in the file and 6.0"),
        ({"type_map": ["H", "O"]}, re.escape("atomic numbers [8, 1], but type_map has [1, 8]")),
    ],
)
def test_constants_tell_of_older_files(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(**options).load_state_dict(without_options(STATE))
    tiny_model().load_state_dict(without_options(STATE))


def test_a_cutoff_of_single_precision_is_the_same():
    state = {
        **STATE,
        "descriptor.radial_embedding.cutoff_fn.r_max": torch.tensor(4.0000002, dtype=torch.float64),
    }
    tiny_model().load_state_dict(state)


def test_a_frozen_file_of_another_kind_is_refused():
    """The host loads frozen files without asking whether any name fits."""
    with pytest.raises(ValueError, match="lacks .* weights of this model, energy_model.node_embedding"):
        tiny_model().load_state_dict({"out_bias": STATE["out_bias"]}, strict=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pair_exclude_types": [[0, 1]]}, r"pair_exclude_types: \['H-O'\] as in the model section; .* \[\]"),
        ({"atom_exclude_types": [1]}, r"atom_exclude_types: \['H'\] as in the model section; .* \[\]"),
        ({"scale": 2.0}, "scale: the value of the file stays.* 2.0 of the model section is not used .*1.3"),
        (
            {"avg_num_neighbors": 5.0},
            "avg_num_neighbors: the value of the file stays.* 5.0 of the model section",
        ),
        ({"atomic_energies": {"O": -4.0, "H": -1.25}}, "atomic_energies: the value of the file stays"),
    ],
)
def test_what_may_differ_is_said_in_the_log(options, message, caplog):
    model = tiny_model(**options)
    with caplog.at_level(logging.WARNING):
        model.load_state_dict(dict(STATE))
    assert re.search(message, caplog.text)
    assert model.pair_exclude_types == options.get("pair_exclude_types", [])
    assert float(model.energy_model.scale) == 1.3


def test_the_same_input_again_says_nothing(caplog):
    """Also where the statistics of the file are others by now than those once given."""
    state = {**STATE, "out_bias": STATE["out_bias"] + 1.0}
    with caplog.at_level(logging.INFO):
        tiny_model().load_state_dict(state)
        tiny_model(scale="auto", avg_num_neighbors="auto", atomic_energies="auto").load_state_dict(state)
    assert not caplog.records


def test_fine_tuned_elements_are_what_is_stored():
    """As the host fine-tunes: the old model takes the new type map, then its tensors are loaded."""
    model = tiny_model(pair_exclude_types=[[0, 1]])
    model.change_type_map(["H", "C", "O"])
    other = tiny_model(type_map=["H", "C", "O"], pair_exclude_types=[[0, 2]], atomic_energies="auto")
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="r_max"):
        tiny_model(type_map=["H", "C", "O"], r_max=5.0, atomic_energies="auto").load_state_dict(
            model.state_dict()
        )
