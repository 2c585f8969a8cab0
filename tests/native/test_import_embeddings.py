"""Native models with charge and spin, as MACE-OMOL: imported and written back with native's numbers."""

import numpy as np
import pytest
import torch
from helpers import our_results
from import_checks import frame
from native_models import SYMBOLS, native, native_evaluation
from tolerances import IMPORTED

from deepmd_gnn import export_native, load_mace
from deepmd_gnn.files.native_file import NotConvertible, read_native
from deepmd_gnn.native.description import describe

SPECS = {
    "total_charge": {"type": "categorical", "per": "graph", "num_classes": 9, "offset": 4, "emb_dim": 3},
    "total_spin": {"type": "categorical", "per": "graph", "num_classes": 5, "emb_dim": 2},
    "elec_temp": {"type": "continuous", "per": "graph", "in_dim": 1, "emb_dim": 3, "use_bias": False},
}
VALUES = {"total_charge": -2.0, "total_spin": 3.0, "elec_temp": 0.7}


def in_state(model, **values):
    """Native's own wrapper of data has the quantities; here they are put in on the way."""
    evaluate = model.forward

    def forward(data, **options):
        given = {name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()}
        return evaluate({**data, **given}, **options)

    model.forward = forward
    return model


MODELS = {
    "one head": {},
    "with its readout": {"use_embedding_readout": True},
    "two heads, with its readout": {"heads": ["a", "b"], "use_embedding_readout": True},
    "class MACE": {"kind": "MACE", "use_embedding_readout": True},
}


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name, tmp_path):
    original = native(embedding_specs=SPECS, **MODELS[name])
    heads = MODELS[name].get("heads", ["Default"])
    torch.save(original, tmp_path / "x.model")
    model = load_mace(tmp_path / "x.model", head=heads[-1])
    assert [one.name for one in model.config.features] == list(SPECS)
    coord, symbols, cell = frame()
    types = [model.type_map.index(symbol) for symbol in symbols]
    expected = native_evaluation(in_state(original, **VALUES), coord, symbols, cell, len(heads) - 1)
    values = torch.tensor([list(VALUES.values())], dtype=torch.float64)
    found = our_results(model, coord, types, cell, fparam=values)
    export_native(model, tmp_path / "back.model")
    back = torch.load(tmp_path / "back.model", weights_only=False)
    again = native_evaluation(in_state(back, **VALUES), coord, symbols, cell)
    for key, value in expected.items():
        assert np.abs(found[key] - value).max() <= IMPORTED[key], key
        assert np.abs(again[key] - value).max() <= IMPORTED[key], key
    other = our_results(model, coord, types, cell, fparam=values + torch.tensor([[1.0, 0.0, 0.0]]))
    assert np.abs(other["energy"] - found["energy"]).max() > 1e-4
    assert model.type_map == SYMBOLS


def test_quantities_of_atoms_are_refused(tmp_path):
    specs = {"site": {"type": "continuous", "per": "atom", "in_dim": 1, "emb_dim": 3}}
    torch.save(native(embedding_specs=specs), tmp_path / "x.model")
    with pytest.raises(NotConvertible, match="an embedding of 'site' per atom: only quantities of the whole"):
        describe(read_native(tmp_path / "x.model"), None)
