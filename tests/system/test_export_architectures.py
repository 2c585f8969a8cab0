"""Every architecture option can be frozen by the exportable backend, and compiled for more than one thread."""

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor_config
from architectures import architectures
from deepmd.infer import DeepPot
from helpers import assert_close, random_frame, tiny_model
from lammps_cases import STRONG, freeze
from tolerances import NATIVE

pytestmark = pytest.mark.slow

# Options side by side that do not exclude each other: each file shows several.
ARCHITECTURES = architectures("frozen")
KEYS = ("energy", "force", "virial", "atom_energy", "atom_virial")


def check(path, model, precision):
    opened = DeepPot(str(path))
    for natoms in (2, 17):
        coord, atype, cell = random_frame(natoms=natoms, box_length=6.5, seed=natoms)
        found = opened.eval(coord[None], cell[None], atype, atomic=True)
        expected = model(
            torch.tensor(coord[None]),
            torch.tensor(atype[None]),
            torch.tensor(cell[None]),
            do_atomic_virial=True,
        )
        for key, value in zip(KEYS, found, strict=True):
            assert_close(np.ravel(value), expected[key].numpy().ravel(), NATIVE[precision], key)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_compiled_for_two_threads(name, tmp_path):
    """Atomic additions would end the compilation: both programs are there, and the numbers are right."""
    from deepmd_gnn.cli import main

    model = tiny_model(**STRONG, **ARCHITECTURES[name])
    folder = tmp_path / "the mödel"  # spaces and other letters are no obstacle for the compiler
    folder.mkdir()
    path = folder / "model.pt2"  # the name with which torch could not open it in Python
    with inductor_config.patch({"cpp.threads": 2}):
        freeze(model, path)
    check(path, model, ARCHITECTURES[name].get("precision", "float64"))
    assert main(["info", str(path)]) == 0
