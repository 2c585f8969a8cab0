"""Radial tables of scripted models: evaluation in stages gives the numbers of the radial networks, and freezing puts them in."""

import logging

import pytest
import torch
from helpers import random_frame, tiny_model
from nequip_models import tiny_nequip

from deepmd_gnn.files.whole_file import host_file
from deepmd_gnn.graph.arrangement import CHUNK_BYTES, STAGED_BYTES, STAGED_EDGES
from deepmd_gnn.graph.compilation import compiling
from deepmd_gnn.kernels.tables.functions import combinations
from deepmd_gnn.kernels.tables.scripted import tabulate
from deepmd_gnn.nn.convolution import Convolution

# What changes the radial weights, the paths or what else an edge brings.
MODELS = {
    "vectors": lambda: tiny_model(max_L=1, max_ell=3),
    "float32": lambda: tiny_model(precision="float32"),
    "density, repulsion": lambda: tiny_model(
        interaction="RealAgnosticDensityResidualInteractionBlock",
        interaction_first="RealAgnosticDensityInteractionBlock",
        pair_repulsion=True,
    ),
    "pairs of elements": lambda: tiny_model(distance_transform="Agnesi"),
    "non-linear": lambda: tiny_model(
        interaction="RealAgnosticResidualNonLinearInteractionBlock",
        interaction_first="RealAgnosticResidualNonLinearInteractionBlock",
    ),
    "three layers": lambda: tiny_model(num_interactions=3, max_L=1),
    "nequip": tiny_nequip,
}
# eV and eV/Å, absolute or relative to the largest: of radial tables, docs/frozen_files.md.
TABLES = {torch.float64: (1e-9, 1e-8, 1e-10), torch.float32: (1e-5, 1e-5, 1e-5)}


def frame():
    coord, atype, cell = random_frame(natoms=16, box_length=5.0, seed=3)
    return torch.tensor(coord)[None], torch.tensor(atype)[None], torch.tensor(cell).reshape(1, 9)


def assert_as_with_networks(found, expected, dtype):
    energy, force, relative = TABLES[dtype]
    for name, most in (("atom_energy", energy), ("force", force), ("atom_virial", 10 * force)):
        largest = float(expected[name].abs().max())
        assert largest > 0
        assert float((found[name] - expected[name]).abs().max()) <= max(most, relative * largest), name


@pytest.mark.parametrize("fewest", [0, 10])
@pytest.mark.parametrize("name", MODELS)
def test_in_stages(name, fewest):
    """Without autograd over the edges, with tables: energies, forces and virials of atoms as before; the product basis both ways."""
    model = MODELS[name]()
    for product in getattr(model.energy_model, "products", []):
        product.symmetric_contractions.fewest = fewest
    inputs = frame()
    expected = model(*inputs, do_atomic_virial=True)
    tabulate(model)
    assert model.energy_model.has_tables
    found = model(*inputs, do_atomic_virial=True)
    assert not torch.equal(found["force"], expected["force"])  # it was another way
    assert_as_with_networks(found, expected, model.energy_model.dtype)


def test_training_knows_no_tables():
    model = tiny_model()
    inputs = frame()
    model.train()
    expected = model(*inputs)
    tabulate(model)
    assert model.training
    found = model(*inputs)
    assert torch.equal(found["force"], expected["force"])
    assert found["force"].requires_grad


def test_chunks_do_not_matter():
    model = tiny_model(max_L=1)
    tabulate(model)
    inputs = frame()
    expected = model(*inputs, do_atomic_virial=True)
    model.graphs.slots = 7
    found = model(*inputs, do_atomic_virial=True)
    assert_as_with_networks(found, expected, torch.float64)


def test_chunks_are_smaller_with_tables_than_in_training():
    """A training step keeps all it computes, so that large chunks are the fast ones."""
    model = tiny_model()
    before = model.graphs.slots
    tabulate(model)
    assert model.graphs.slots == min(STAGED_EDGES, before * STAGED_BYTES // CHUNK_BYTES)


def test_kinds_do_not_matter():
    """The first layer sums for each element; with too many elements for every edge."""
    model = tiny_model(max_L=1)
    tabulate(model)
    inputs = frame()
    expected = model(*inputs, do_atomic_virial=True)
    of_kinds = model.energy_model.interactions[0].conv_tp.of_kinds
    assert of_kinds.ready()
    of_kinds.table.value = torch.zeros(0)
    found = model(*inputs, do_atomic_virial=True)
    assert_as_with_networks(found, expected, torch.float64)


def test_combinations_of_functions():
    """As few functions as the tolerance allows, eight at a time."""
    torch.manual_seed(0)
    values = torch.einsum("nfk,fw->nwk", torch.randn(40, 5, 4).double(), torch.randn(5, 30).double())
    basis = combinations(values.view(2, 20, 30, 4), torch.float64)
    assert basis.shape == (8, 30)
    back = torch.einsum("nwk,fw,fv->nvk", values, basis, basis)
    assert torch.allclose(back, values, rtol=0, atol=1e-12 * float(values.abs().max()))


def test_a_frozen_file_has_tables(tmp_path):
    """Only what is scripted for a file: weights may be loaded into other scripted models."""
    model = tiny_model()
    inputs = frame()
    expected = model(*inputs, do_atomic_virial=True)
    assert not torch.jit.script(model).energy_model.has_tables
    with host_file(tmp_path / "mace.pth") as unfinished:
        torch.jit.script(model).save(str(unfinished))
    frozen = torch.jit.load(tmp_path / "mace.pth")
    assert frozen.energy_model.has_tables
    assert_as_with_networks(frozen(*inputs, do_atomic_virial=True), expected, torch.float64)
    # Its weights are read by a model that has no tables.
    again = tiny_model(seed=7)
    again.load_state_dict(frozen.state_dict())
    assert torch.equal(again(*inputs)["force"], expected["force"])


def test_not_covered(caplog):
    attentive = tiny_model(interaction="RealAgnosticAttResidualInteractionBlock")
    inputs = frame()
    expected = attentive(*inputs)
    with caplog.at_level(logging.WARNING, "deepmd.deepmd_gnn"), compiling(tabulates_scripted=True):
        scripted = torch.jit.script(attentive)
    assert "no radial tables: attentive blocks" in caplog.text
    assert torch.allclose(scripted(*inputs)["force"], expected["force"], rtol=0, atol=1e-10)


def test_a_convolution_begins_without_table():
    (convolution, *_) = (part for part in tiny_model().modules() if isinstance(part, Convolution))
    assert convolution.tabulated.table.value.numel() == 0
