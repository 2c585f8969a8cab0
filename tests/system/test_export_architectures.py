"""Every architecture option can be frozen by the exportable backend, and compiled for more than one thread."""

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor_config
from deepmd.infer import DeepPot
from helpers import assert_close, random_frame, tiny_model
from lammps_cases import MODELS, STRONG, THREADED, freeze
from tolerances import NATIVE

from deepmd_gnn.cli import main

pytestmark = pytest.mark.slow

KEYS = ("energy", "force", "virial", "atom_energy", "atom_virial")


@pytest.mark.parametrize("name", THREADED)
def test_compiled_for_two_threads(name, model_files, tmp_path):
    """Atomic additions would end the compilation: both programs are there, and the numbers are right."""
    model = tiny_model(**STRONG, **THREADED[name])
    if name in MODELS:
        path = model_files(".pt2")[name]
    else:
        folder = tmp_path / "the mödel"  # spaces and other letters are no obstacle for the compiler
        folder.mkdir()
        path = folder / "model.pt2"  # the name with which torch could not open it in Python
        with inductor_config.patch({"cpp.threads": 2}):
            freeze(model, path)
    assert main(["info", str(path)]) == 0
    opened = DeepPot(str(path))
    for natoms in (2, 17):
        coord, atype, cell = random_frame(natoms=natoms, box_length=6.5, seed=natoms)
        found = opened.eval(coord[None], cell[None], atype, atomic=True)
        inputs = torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None])
        expected = model(*inputs, do_atomic_virial=True)
        for key, value in zip(KEYS, found, strict=True):
            assert_close(np.ravel(value), expected[key].numpy().ravel(), NATIVE["float64"], key)
