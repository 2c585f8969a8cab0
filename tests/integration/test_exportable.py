"""The compiled file gives the numbers of the model, and `deepmd-gnn info` describes it."""

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from helpers import assert_close, random_frame, tiny_model
from lammps_cases import MODELS, STRONG
from tolerances import NATIVE

from deepmd_gnn import __version__
from deepmd_gnn.model_summary import summarise

pytestmark = pytest.mark.slow


@pytest.fixture
def files(model_files):
    return model_files(".pt2")


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("natoms", [1, 2, 9, 31])
def test_python(files, natoms, periodic):
    """Sizes that tracing never saw."""
    coord, atype, cell = random_frame(natoms=natoms, box_length=6.5, seed=natoms)
    outputs = DeepPot(str(files["two_layers"])).eval(
        coord[None], cell[None] if periodic else None, atype, atomic=True
    )
    model = tiny_model(**STRONG, **MODELS["two_layers"])
    box = torch.tensor(cell[None]) if periodic else None
    expected = model(torch.tensor(coord[None]), torch.tensor(atype[None]), box, do_atomic_virial=True)
    for key, value in zip(("energy", "force", "virial", "atom_energy", "atom_virial"), outputs, strict=True):
        assert_close(np.ravel(value), expected[key].numpy().ravel(), NATIVE["float64"], key)


@pytest.mark.parametrize("name", ["one_layer", "two_layers"])
def test_info(files, name):
    """`deepmd-gnn info` reads the file; one layer runs on several ranks without a second library."""
    summary = summarise(files[name])
    assert summary["kind"] == "pt2"
    assert summary["evaluation"] == "AOTInductor with generated kernels, edge list (graph)"
    assert summary["with_comm_artifact"] == (name == "two_layers")
    assert summary["multi_rank"]
    assert summary["atomic_virial"]
    assert summary["compiled_for"]["device"] == "cpu"
    assert summary["versions"]["deepmd-gnn"] == __version__
    model = tiny_model(**STRONG, **MODELS[name])
    (described,) = summary["models"]
    assert described["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert described["scale"] == STRONG["scale"]
    assert described["architecture"]["hidden_irreps"] == model.config.hidden_irreps
