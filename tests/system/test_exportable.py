"""The compiled file gives the numbers of the model, and `deepmd-gnn info` describes it."""

import gc
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from corner_inputs import BAD, FAR
from deepmd.infer import DeepPot
from helpers import assert_close, our_results, random_frame, tiny_model
from lammps_cases import MODELS, STRONG
from lammps_runner import run_lammps
from tolerances import NATIVE

from deepmd_gnn import __version__
from deepmd_gnn.files.summary import summarise
from deepmd_gnn.host.model_size import parameter_counts
from deepmd_gnn.tools.structures import Structure

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


def test_features(files):
    """`eval_descriptor` and what it stands beside; atoms outside the cell, and padding."""
    coord, atype, cell = random_frame(natoms=9, box_length=6.5)
    coord[0] += cell.reshape(3, 3)[1]
    atype[8] = -1
    evaluator = DeepPot(str(files["two_layers"]))
    model = tiny_model(**STRONG, **MODELS["two_layers"])
    expected = model.forward_embedding(
        torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None])
    )
    inputs = coord[None], cell[None], atype[None]
    for function, name in (("eval_descriptor", "descriptor"), ("eval_fitting_last_layer", "atomic_feature")):
        found = getattr(evaluator, function)(*inputs, mixed_type=True)
        assert_close(found, expected[name].numpy(), NATIVE["float64"], name)
    assert evaluator.get_model_size() == parameter_counts(model)


@pytest.mark.parametrize("kind", [".pt2", ".pte"])
def test_corner_inputs(kind, model_files):
    """Each is refused with the words of the model itself, or gives its number."""
    compiled = DeepPot(str(model_files(kind)["one_layer"]))
    model = tiny_model(**STRONG, **MODELS["one_layer"])
    for coord, types, cell, words in BAD.values():
        box = None if cell is None else np.reshape(cell, (1, 9))
        with pytest.raises(ValueError, match=words):
            compiled.eval(np.array(coord, dtype=float)[None], box, np.array(types))
    for coord, types, cell in FAR.values():
        box = None if cell is None else np.reshape(cell, (1, 9))
        found = compiled.eval(np.array(coord, dtype=float)[None], box, np.array(types))
        expected = our_results(model, np.array(coord, dtype=float), types, cell)
        for value, name in zip(found, ("energy", "force"), strict=False):
            np.testing.assert_allclose(value[0], expected[name], rtol=1e-8, atol=1e-8)
    energy, force, virial = compiled.eval(np.zeros((2, 0, 3)), None, np.zeros(0, dtype=int))
    assert not energy.any()
    assert not virial.any()
    assert force.shape == (2, 0, 3)


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


@pytest.mark.lammps
@pytest.mark.parametrize("missing", ["flag", "program"])
def test_without_the_program_for_ranks(missing, files, tmp_path):
    """DeePMD-kit's C++ goes by the description: several ranks are refused, and `info` says that beforehand."""
    path = tmp_path / "mace.pt2"
    with zipfile.ZipFile(files["two_layers"]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("extra/metadata.json") and missing == "flag":
                description = json.loads(data)
                assert description.pop("has_comm_artifact")
                data = json.dumps(description).encode()
            if not name.endswith("with_comm.pt2") or missing == "flag":
                new.writestr(name, data)
    assert not summarise(path)["multi_rank"]
    coord, kinds, cell = random_frame(40, 8.0, seed=3, triclinic=False)
    Structure(coord, kinds, cell, ["O", "H"], "").write_lammps_data(tmp_path / "water.data")
    script = (
        "units metal\natom_style atomic\natom_modify map yes\nread_data water.data\n"
        f"pair_style deepmd {path}\npair_coeff * * O H\nrun 0"
    )
    run_lammps(tmp_path, script, 1).check()
    # The rank that is first to stop ends the other; mpirun may lose the words of both.
    for _ in range(4):
        result = run_lammps(tmp_path, script, 2)
        assert result.returncode != 0
        if "requires a with-comm artifact" in result.output:
            break
    assert "requires a with-comm artifact" in result.output


def large_frame(copies):
    """Coordinates, cell and types of a random frame repeated along x; the model keeps memory of that size."""
    coord, atype, cell = random_frame(natoms=40, box_length=7.0, seed=1)
    shifts = np.arange(copies)[:, None, None] * cell.reshape(3, 3)[0]
    box = cell.reshape(3, 3) * np.array([[copies], [1], [1]])
    return (coord.reshape(1, -1, 3) + shifts).reshape(1, -1), box.reshape(1, 9), np.tile(atype, copies)


def test_memory_is_kept_inside_only(files):
    """Results belong to the caller: neither further evaluations nor the end of the model change them."""
    evaluator = DeepPot(str(files["two_layers"]))
    copies = 300  # even the forces are a large tensor
    coord, box, atype = large_frame(copies)
    first = evaluator.eval(coord, box, atype)
    kept = [np.array(value) for value in first]
    energy, force, _ = evaluator.eval(*large_frame(1))
    evaluator.eval(coord + 0.01 * np.sin(np.arange(coord.size)), box, atype)
    del evaluator
    gc.collect()
    assert all(np.array_equal(value, copy) for value, copy in zip(first, kept, strict=True))
    assert_close(first[0], copies * energy, NATIVE["float64"], "energy of a supercell")
    assert_close(first[1], np.tile(force, (1, copies, 1)), NATIVE["float64"], "forces of a supercell")


def test_memory_does_not_grow(files):
    """Systems of many sizes, one after the other, need no more memory than the largest."""
    evaluator = DeepPot(str(files["two_layers"]))
    rng = np.random.default_rng(0)
    sizes = [100, *rng.integers(20, 100, size=40)]
    memory = []
    for copies in sizes:
        evaluator.eval(*large_frame(copies))
        memory.append(_resident_mb())
    assert max(memory[20:]) < max(memory[:20]) + 30


COUNT = """
import resource, sys
import numpy as np
from deepmd.infer import DeepPot
from torch.export.pt2_archive._package import AOTICompiledModel

run = AOTICompiledModel.__call__

def counted(*arguments):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    outputs = run(*arguments)
    print("pages", resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return outputs

AOTICompiledModel.__call__ = counted
evaluator, frame = DeepPot(sys.argv[1]), np.load(sys.argv[2])
for _ in range(4):
    evaluator.eval(frame["coord"], frame["box"], frame["atype"])
"""


def test_memory_is_not_returned_to_the_system(files, tmp_path):
    """Even where malloc does so with every large block; else much of a large step would be spent on getting pages."""
    coord, box, atype = large_frame(100)
    np.savez(tmp_path / "frame.npz", coord=coord, box=box, atype=atype)
    # A process of its own: in this one malloc may have enough memory left.
    command = [sys.executable, "-c", COUNT, str(files["two_layers"]), str(tmp_path / "frame.npz")]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**17)}
    out = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout
    counts = [int(word) for word in re.findall(r"pages (\d+)", out)]
    assert counts[0] > 1000
    assert max(counts[2:]) < counts[0] / 10


def _resident_mb():
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
