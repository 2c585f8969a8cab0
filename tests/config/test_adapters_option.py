"""What `adapters`, or `lora`, may be."""

import pytest

from deepmd_gnn.config.adapters import PARTS, Lora, lora
from deepmd_gnn.config.mace import MaceConfig


def test_defaults():
    assert lora(None) is None
    assert lora({}) == Lora(4, 4.0, PARTS)
    assert lora({"rank": 2, "_comment": "narrow"}) == Lora(2, 2.0, PARTS)
    assert lora({"rank": 8, "alpha": 1, "parts": ["readouts"]}) == Lora(8, 1.0, ("readouts",))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "must be a dict, e.g."),
        ({"rank": 0}, "'rank' that is an integer of at least 1, not 0"),
        ({"rank": True}, "not True"),
        ({"alpha": -1.0}, "'alpha' that is a positive number, not -1.0"),
        ({"alpha": float("nan")}, "not nan"),
        ({"parts": []}, "'parts' that are names"),
        ({"parts": "readouts"}, "'parts' that are names"),
        ({"ranks": 4}, "without 'ranks'; its keys are rank, alpha, parts"),
    ],
)
def test_refused(value, words):
    with pytest.raises(ValueError, match="'adapters'.*also be written as lora") as error:
        MaceConfig(adapters=value)
    assert words in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("freeze", ["interactions"]), ("enable_cueq", True)])
def test_not_with(key, value):
    with pytest.raises(ValueError, match=f"'{key}'.* with adapters"):
        MaceConfig(adapters={}, **{key: value})
