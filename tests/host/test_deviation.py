"""The host's deviation of models gets one array of types; see also tests/native/test_committees.py."""

from types import SimpleNamespace

import pytest
from helpers import tiny_model

from deepmd_gnn.host.deviation import comparing_type_maps


def model(type_map, ours=True):
    inner = tiny_model() if ours else None
    deep_eval = SimpleNamespace(_dpmodel=inner, get_model_def_script=lambda: {"type": "standard"})
    return SimpleNamespace(get_type_map=lambda: type_map, deep_eval=deep_eval)


def test_only_models_of_ours_are_compared():
    deviation = comparing_type_maps(lambda *arguments: len(arguments[3]))
    assert deviation(None, None, [0], [model(["O", "H"])] * 2) == 2
    assert deviation(None, None, [0], [model(["O", "H"], ours=False), model(["H", "O"], ours=False)]) == 2
    with pytest.raises(ValueError, match="committee"):
        deviation(None, None, [0], iter([model(["O", "H"], ours=False), model(["H", "O"])]))
