"""The option ``embeddings``: native's spelling, one spelling for equal models, and messages."""

import pytest

from deepmd_gnn.config.embeddings import features, plain, value_in
from deepmd_gnn.config.mace import MaceConfig

CHARGE = {"type": "categorical", "per": "graph", "num_classes": 9, "offset": 4, "emb_dim": 3}
SPIN = {"type": "categorical", "num_classes": 5, "emb_dim": 2}
TEMPERATURE = {"type": "continuous", "in_dim": 1, "emb_dim": 3, "default": 300}


def test_columns_keep_their_order_in_every_spelling():
    given = {"total_spin": SPIN, "temperature": TEMPERATURE, "total_charge": CHARGE}
    first = MaceConfig(embeddings=given)
    assert [one.name for one in first.features] == ["total_spin", "temperature", "total_charge"]
    again = MaceConfig(**first.to_dict())
    assert again == first
    assert plain(features(first.embeddings)) == first.embeddings
    assert [one["name"] for one in first.embeddings] == list(given)


def test_defaults_are_natives():
    found = features({"total_charge": CHARGE, "total_spin": SPIN, "temperature": TEMPERATURE})
    assert [one.default for one in found] == [0.0, 1.0, 300.0]
    assert features({"pressure": {"type": "continuous", "emb_dim": 2}})[0].default is None
    # A charge of 0 is none of the classes.
    assert features({"total_charge": {**CHARGE, "num_classes": 3}})[0].default is None


def test_values():
    charge, _, temperature = features(
        {"total_charge": CHARGE, "total_spin": SPIN, "temperature": TEMPERATURE}
    )
    assert [charge.accepts(value) for value in (-4, 4, -5, 5, 0.5, float("nan"))] == [True] * 2 + [False] * 4
    assert charge.allowed == "a whole number from -4 to 4"
    assert temperature.accepts(0.5)
    assert not temperature.accepts(float("nan"))


def test_native_specs():
    found = features({"total_charge": {**CHARGE, "key": "q"}, "temperature": TEMPERATURE})
    assert found[0].native() == {**CHARGE, "key": "q"}
    assert found[1].native() == {
        "type": "continuous",
        "per": "graph",
        "in_dim": 1,
        "emb_dim": 3,
        "use_bias": True,
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("total_charge", "must be a dict of quantities"),
        ({"total_charge": 3}, "must be a dict of quantities"),
        ({"total charge": CHARGE}, "a name is 'total charge'"),
        ({"a": {**CHARGE, "width": 3}}, "without width in 'a', whose keys are type, per"),
        ({"a": {**CHARGE, "type": "ordinal"}}, "'type' categorical or continuous in 'a', not 'ordinal'"),
        ({"a": {**CHARGE, "per": "atom"}}, "'per' graph .* in 'a', not 'atom': quantities of atoms"),
        ({"a": {**TEMPERATURE, "in_dim": 3}}, "one number per quantity in 'a'"),
        ({"a": {"type": "categorical", "emb_dim": 2}}, "'num_classes' in 'a', an integer of at least 1, not None"),
        ({"a": {"type": "continuous"}}, "'emb_dim' in 'a', an integer of at least 1, not None"),
        ({"a": {**CHARGE, "offset": -1}}, "'offset' in 'a', an integer of at least 0, not -1"),
        ({"a": {**TEMPERATURE, "offset": 1}}, "without 'offset' in 'a', which is continuous"),
        ({"a": {**CHARGE, "default": 9}}, "'default' in 'a' that is a whole number from -4 to 4, not 9"),
        ([{"name": "a", **CHARGE}, {"name": "a", **CHARGE}], "names each quantity once"),
    ],
)  # fmt: skip
def test_refused(given, words):
    with pytest.raises(ValueError, match=f"'embeddings' is .*{words}"):
        MaceConfig(embeddings=given)


def test_options_that_need_or_exclude_it():
    with pytest.raises(ValueError, match="'use_embedding_readout' is True, but must be false without embeddings"):  # fmt: skip
        MaceConfig(use_embedding_readout=True)
    with pytest.raises(ValueError, match="'enable_cueq' is True, but must be false with embeddings"):
        MaceConfig(embeddings={"total_charge": CHARGE}, enable_cueq=True)


def test_atoms_info():
    charge = features({"total_charge": {**CHARGE, "key": "q"}})[0]
    for key in ("q", "total_charge", "charge"):
        assert value_in({key: -2}, charge) == -2.0
    assert value_in({"other": 1}, charge) is None
    with pytest.raises(ValueError, match=r"several values of total_charge: .*Keep one"):
        value_in({"q": 1, "charge": 2}, charge)
    with pytest.raises(ValueError, match="must be a whole number from -4 to 4, but is"):
        value_in({"charge": "neutral"}, charge)
