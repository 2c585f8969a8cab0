"""Native MACE files, read without executing them, give native MACE's numbers."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from e3nn.util import jit
from helpers import our_results
from import_checks import ATTENTIVE, DENSITY, MH_LIKE, NON_LINEAR, assert_imported, frame
from native_models import default_dtype, native, native_evaluation

from deepmd_gnn import load_mace

DATA = Path(__file__).parents[1] / "data"
MODELS = {
    "default": {},
    "class MACE with ZBL": {"kind": "MACE", "pair_repulsion": True},
    "residual first": {"interaction_cls_first": "RealAgnosticResidualInteractionBlock"},
    "plain": {"interaction_cls": "RealAgnosticInteractionBlock"},
    "density": {**DENSITY, "pair_repulsion": True, "distance_transform": "Agnesi"},
    "attentive": {"interaction_cls": ATTENTIVE, "interaction_cls_first": ATTENTIVE},
    "non-linear": {"interaction_cls": NON_LINEAR},
    "MH-like": MH_LIKE,
    "soft, gaussian": {"distance_transform": "Soft", "radial_type": "gaussian", "num_bessel": 12},
    "three layers, orders 3 1 2": {"num_interactions": 3, "correlation": [3, 1, 2]},
    "one layer": {"num_interactions": 1},
    "last readout only": {"use_last_readout_only": True, "num_interactions": 3},
    "so3": {"use_so3": True, "hidden_irreps": "4x0e + 4x1e"},
    "pseudoscalars": {"hidden_irreps": "4x0e + 4x0o + 4x1o + 4x1e"},
    "all irreps last": {"keep_last_layer_irreps": True},
    "readout with bias": {"readout_cls": "NonLinearBiasReadoutBlock"},
    "gate tanh": {"gate": torch.tanh},
    "gate abs": {"gate": torch.abs},
    "no gate": {"gate": None},
    "no cutoff on input": {"apply_cutoff": False, "interaction_cls": ATTENTIVE},
    "edge irreps": {"edge_irreps": "3x0e + 3x1o + 3x2e"},
}


@pytest.mark.parametrize("name", MODELS)
def test_equals_native(name, tmp_path):
    original = native(**MODELS[name])
    torch.save(original, tmp_path / "x.model")
    model = load_mace(tmp_path / "x.model")
    coord, symbols, cell = frame()
    for box in (cell, None):
        assert_imported(model, native_evaluation(original, coord, symbols, box), coord, symbols, box)


@pytest.mark.parametrize("name", ["default", "density", "gate tanh", "no gate", "pseudoscalars"])
def test_torchscript_equals_native(name, tmp_path):
    original = native(**MODELS[name])
    with default_dtype():
        torch.jit.save(jit.compile(original), tmp_path / "x_compiled.model")
    model = load_mace(tmp_path / "x_compiled.model")
    coord, symbols, cell = frame()
    assert_imported(model, native_evaluation(original, coord, symbols, cell), coord, symbols, cell)


@pytest.mark.parametrize("readout", ["NonLinearReadoutBlock", "NonLinearBiasReadoutBlock"])
def test_each_head(readout, tmp_path):
    heads = ["pt_head", "Default", "third"]
    original = native(heads=heads, readout_cls=readout, **DENSITY)
    torch.save(original, tmp_path / "x.model")
    coord, symbols, cell = frame()
    for index, head in enumerate(heads):
        model = load_mace(tmp_path / "x.model", head=head)
        assert_imported(model, native_evaluation(original, coord, symbols, cell, index), coord, symbols, cell)
    with pytest.raises(ValueError, match="3 heads: pt_head, Default, third"):
        load_mace(tmp_path / "x.model")
    with pytest.raises(ValueError, match="no head 'fourth'"):
        load_mace(tmp_path / "x.model", head="fourth")


@pytest.mark.parametrize("name", ["density", "MH-like"])
def test_fewer_elements_keep_their_numbers(name, tmp_path):
    original = native(**MODELS[name])
    torch.save(original, tmp_path / "x.model")
    model = load_mace(tmp_path / "x.model", elements=["O", "H"])
    assert model.get_type_map() == ["O", "H"]
    assert model.energy_model.node_embedding.linear.weight.numel() == 2 * 4
    coord, symbols, cell = frame()
    symbols = ["O" if symbol == "C" else symbol for symbol in symbols]
    assert_imported(model, native_evaluation(original, coord, symbols, cell), coord, symbols, cell)
    with pytest.raises(ValueError, match="'elements' is 'O,Cu'.*from H, C, O"):
        load_mace(tmp_path / "x.model", elements=["O", "Cu"])


def test_layers_with_their_own_number_of_neighbours(tmp_path):
    original = native(num_interactions=3)
    for block, value in zip(original.interactions, (3.0, 5.0, np.float64(11.0)), strict=True):
        block.avg_num_neighbors = value
    torch.save(original, tmp_path / "x.model")
    coord, symbols, cell = frame()
    expected = native_evaluation(original, coord, symbols, cell)
    assert_imported(load_mace(tmp_path / "x.model"), expected, coord, symbols, cell)


def test_float32_file_evaluated_in_float64(tmp_path):
    original = native(dtype=torch.float32, **DENSITY)
    torch.save(original, tmp_path / "x.model")
    assert load_mace(tmp_path / "x.model").config.precision == "float32"
    model = load_mace(tmp_path / "x.model", precision="float64")
    assert model.rcut == 4.3
    coord, symbols, cell = frame()
    # Native has its couplings in float32, rounded; ours are exact.
    types = [model.get_type_map().index(name) for name in symbols]
    actual = our_results(model, coord, types, cell)
    for key, value in native_evaluation(original, coord, symbols, cell).items():
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=1e-6 * np.abs(value).max())


@pytest.mark.parametrize("file", ["v0.3.6_mace02_com1_swa.model", "v0.3.6_mace01_swa_compiled.model"])
def test_trained_models_of_others(file):
    reference = np.load(DATA / file.replace("_compiled", "").replace(".model", ".ref.npz"))
    model = load_mace(DATA / file)
    for index, atoms in enumerate(ase.io.read(DATA / "ref_structures.extxyz", ":")):
        periodic = bool(atoms.pbc.all())
        cell = atoms.cell.array if periodic else None
        expected = {"energy": reference[f"{index}/energy"], "force": reference[f"{index}/forces"]}
        if periodic:
            stress = reference[f"{index}/stress"].reshape(9)
            expected["virial"] = -stress * atoms.get_volume()
        assert_imported(model, expected, atoms.positions, atoms.get_chemical_symbols(), cell)


def test_the_oldest_file():
    """MACE 0.2.0: float32, no heads, E0 without an axis of heads."""
    original = torch.load(DATA / "v0.2.0_model_run-1234_swa.model", weights_only=False)
    atoms = ase.io.read(DATA / "ref_structures.extxyz", 0)
    symbols = atoms.get_chemical_symbols()
    expected = native_evaluation(original, atoms.positions, symbols, None)
    model = load_mace(DATA / "v0.2.0_model_run-1234_swa.model", precision="float64")
    actual = our_results(model, atoms.positions, [model.type_map.index(s) for s in symbols], None)
    for key, value in expected.items():
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=1e-6 * np.abs(value).max())


@pytest.mark.parametrize("name", ["reduced_cueq", "MH-like_cueq", "reduced_density"])
def test_other_couplings_and_layouts(name):
    """Files made with cuEquivariance, which is not installed here."""
    reference = np.load(DATA / "cueq.ref.npz")
    expected = {key: reference[f"{name}/{key}"] for key in ("energy", "force", "virial")}
    coord, symbols, cell = frame()
    assert_imported(load_mace(DATA / f"{name}.model"), expected, coord, symbols, cell)


class SymmetricContraction(torch.nn.Module):
    """As cuEquivariance stores it, without the polynomial (older releases)."""

    def __init__(self, native, projected):
        super().__init__()
        weights = [w for part in native.contractions for w in (part.weights_max, *part.weights)]
        self.weight = torch.nn.Parameter(torch.cat([w.detach() for w in weights], dim=1))
        self.contraction_degree = native.contractions[0].correlation
        if projected:
            self.register_buffer("projection", torch.eye(self.weight.shape[1]))


@pytest.mark.parametrize("projected", [True, False])
def test_layout_without_polynomial(projected, tmp_path):
    original = native(correlation=3)
    coord, symbols, cell = frame()
    expected = native_evaluation(original, coord, symbols, cell)
    for product in original.products:
        product.symmetric_contractions = SymmetricContraction(product.symmetric_contractions, projected)
    torch.save(original, tmp_path / "x.model")
    if projected:
        assert_imported(load_mace(tmp_path / "x.model"), expected, coord, symbols, cell)
    else:  # the weights may be those of reduced couplings
        with pytest.raises(ValueError, match="cuEquivariance"):
            load_mace(tmp_path / "x.model")
