"""A first `.pt2`: the compiled file gives the numbers of the model, in Python and on several ranks of LAMMPS."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from helpers import assert_close, random_frame, tiny_model
from lammps_cases import CASES, MODELS, STRONG, ModelFiles, in_python, simulate
from lammps_runner import assert_same
from tolerances import NATIVE, RANKS

from deepmd_gnn import __version__
from deepmd_gnn.model_summary import summarise

pytestmark = [pytest.mark.slow, pytest.mark.lammps]

# One rank needs an atom map, which DeePMD-kit asks for by itself where it is missing.
RANK_CASES = [
    "one layer",
    "2 ranks",
    "2x2x1",
    "rank without atoms",
    "NULL atoms cross boundaries",
    "images, 2 ranks",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return ModelFiles(tmp_path_factory.mktemp("exported"), ".pt2")


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


@pytest.mark.parametrize("name", ["1 rank, atom_modify map", *RANK_CASES])
def test_ranks(name, files, tmp_path):
    case = replace(CASES[name], notices=False)
    result = simulate(case, files, tmp_path / "run")
    python = [in_python(case, files, frame) for frame in result.frames]
    assert_same(result.frames, python, RANKS["float64"], "against Python")


@pytest.mark.parametrize("name", ["one_layer", "two_layers"])
def test_info(files, name):
    """`deepmd-gnn info` reads the file; one layer runs on several ranks without a second library."""
    summary = summarise(files[name])
    assert summary["kind"] == "pt2"
    assert summary["evaluation"] == "AOTInductor, edge list (graph)"
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
