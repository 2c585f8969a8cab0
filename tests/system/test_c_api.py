"""DeePMD-kit's C interface without a neighbour list, as i-PI and other programs call it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import assert_close, random_frame, tiny_model
from lammps_cases import MODELS, STRONG
from lammps_runner import lammps_environment
from tolerances import NATIVE

pytestmark = pytest.mark.lammps

# A process of its own, with the C library and nothing of Python's DeePMD-kit.
PROGRAM = """
import ctypes, json, sys
import numpy as np
request = json.load(sys.stdin)
library = ctypes.CDLL(request["library"])
library.DP_NewDeepPot.restype = ctypes.c_void_p
library.DP_DeepPotCheckOK.restype = ctypes.c_char_p
model = ctypes.c_void_p(library.DP_NewDeepPot(request["model"].encode()))
message = library.DP_DeepPotCheckOK(model)
if message:
    sys.exit(message.decode())
coord = np.array(request["coord"])
kinds = np.array(request["kinds"], dtype=np.int32)
cell = np.array(request["cell"]) if request["cell"] else None
n = len(kinds)
out = {name: np.zeros(size) for name, size in
       (("energy", 1), ("force", 3 * n), ("virial", 9), ("atom_energy", n), ("atom_virial", 9 * n))}
pointer = lambda array: None if array is None else array.ctypes.data_as(ctypes.c_void_p)
library.DP_DeepPotCompute(model, n, pointer(coord), pointer(kinds), pointer(cell), *map(pointer, out.values()))
message = library.DP_DeepPotCheckOK(model)
if message:
    sys.exit(message.decode())
print(json.dumps({name: value.tolist() for name, value in out.items()}))
"""


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("kind", [".pth", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_without_a_neighbour_list(kind, periodic, model_files):
    from deepmd.env import SHARED_LIB_DIR

    environment, _ = lammps_environment()
    for natoms in (1, 12):
        coord, kinds, cell = random_frame(natoms=natoms, box_length=6.5, seed=natoms)
        request = {
            "library": str(SHARED_LIB_DIR / "libdeepmd_c.so"),
            "model": str(model_files(kind)["two_layers"]),
            "coord": coord.ravel().tolist(),
            "kinds": kinds.tolist(),
            "cell": cell.ravel().tolist() if periodic else None,
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found = json.loads(done.stdout.splitlines()[-1])
        box = torch.tensor(cell[None]) if periodic else None
        model = tiny_model(**STRONG, **MODELS["two_layers"])
        expected = model(torch.tensor(coord[None]), torch.tensor(kinds[None]), box, do_atomic_virial=True)
        for name, value in found.items():
            assert_close(np.array(value), expected[name].numpy().ravel(), NATIVE["float64"], name)
