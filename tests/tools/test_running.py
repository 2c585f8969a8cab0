"""Model files in Python and LAMMPS as a program, with something of known answers in the place of both."""

import io
import json
import logging
import sys
import warnings

import numpy as np
import pytest
import torch

from deepmd_gnn.files.model_files import ModelFileError
from deepmd_gnn.tools import lammps, timing
from deepmd_gnn.tools.checks import Results
from deepmd_gnn.tools.evaluation import load_evaluation, quiet
from deepmd_gnn.tools.lammps import LammpsError, Programs, find_programs, forces, speed
from deepmd_gnn.tools.structures import Structure

CELL = np.array([[6.0, 0, 0], [1.0, 5.0, 0], [0.5, 0.25, 4.0]])
WATER = Structure(
    np.array([[0.5, 0.5, 0.5], [1.4, 0.5, 0.5], [0.5, 1.4, 0.5]]),
    np.array([0, 1, 1]),
    CELL,
    ["O", "H"],
    "water",
)


# --- Python -----------------------------------------------------------------------------------------------------


def test_other_packages_are_silent(capsys):
    logging.getLogger("another").setLevel(logging.INFO)
    with warnings.catch_warnings(record=True) as told, quiet():
        warnings.simplefilter("always")
        print("progress")
        logging.getLogger("another").warning("something")
        assert not logging.getLogger("another").isEnabledFor(logging.WARNING)
    assert logging.getLogger("another").isEnabledFor(logging.WARNING)
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err == "progress\n"
    assert told == []


class Pot:
    """As :class:`deepmd.infer.DeepPot`: every atom has its type as energy, its place as force."""

    def __init__(self, file, auto_batch_size, head=None):
        self.file, self.head, self.seen = file, head, None
        if head == "broken":
            raise RuntimeError("PytorchStreamReader failed\n  at some place")

    def get_type_map(self):
        return ["H", "O"]

    def eval(self, coord, box, types, atomic):
        assert atomic
        Pot.box = box
        natoms = len(types)
        virial = np.arange(9.0)[None]
        energies = np.asarray(types, dtype=float).reshape(1, natoms, 1)
        return energies.sum(axis=1), coord.reshape(1, natoms, 3), virial, energies, np.ones((1, natoms, 9))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("deepmd.infer.DeepPot", Pot)
    torch.save({"model": {}}, tmp_path / "m.pt")
    return tmp_path / "m.pt"


@pytest.mark.parametrize("periodic", [True, False])
def test_results_of_a_file(periodic, checkpoint):
    structure = Structure(WATER.coord, WATER.types, CELL, ["O", "H"], "", periodic)
    found = load_evaluation(checkpoint, "water")(structure)
    # Types go by their names: the file has H before O.
    assert found.atom_energy.tolist() == [1.0, 0.0, 0.0]
    assert found.energy == 1.0
    np.testing.assert_array_equal(found.force, WATER.coord)
    np.testing.assert_array_equal(found.virial, np.arange(9.0).reshape(3, 3))
    assert found.atom_virial.shape == (3, 3, 3)
    # A cell that only holds the atoms is none.
    assert (Pot.box is not None) == periodic
    if periodic:
        np.testing.assert_array_equal(Pot.box, CELL.reshape(1, 9))


def test_files_that_cannot_be_loaded(checkpoint):
    with pytest.raises(
        ModelFileError, match=r"torch cannot load it \(PytorchStreamReader failed at some place\)"
    ):
        load_evaluation(checkpoint, "broken")
    renamed = checkpoint.rename(checkpoint.with_suffix(".pth"))
    with pytest.raises(ModelFileError, match=r"m.pth: is a checkpoint \(.pt\).* Rename it to m.pt"):
        load_evaluation(renamed)
    native = renamed.rename(renamed.with_suffix(".model"))
    with pytest.raises(
        ModelFileError, match=r"m.model: is named as .* `deepmd-gnn convert .*m.model -o m.pth`"
    ):
        load_evaluation(native)


@pytest.mark.parametrize("periodic", [True, False])
def test_time_of_an_evaluation(periodic, tmp_path, monkeypatch, capsys):
    """The median of the calls asked for, after some that are not timed."""
    calls = []
    clock = iter(np.cumsum([0, 1, 0, 5, 0, 2]).tolist() * 2)

    def evaluate(structure):
        calls.append(structure)
        return Results(-3.5, *(np.zeros(1),) * 4)

    monkeypatch.setattr(timing, "load_evaluation", lambda file, head: evaluate)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    arrays = {"coord": WATER.coord, "types": WATER.types} | ({"cell": CELL} if periodic else {})
    np.savez(tmp_path / "s.npz", **arrays)
    request = {
        "file": "m.pth",
        "head": None,
        "structure": str(tmp_path / "s.npz"),
        "type_map": ["O", "H"],
        "calls": 3,
    }
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    timing.main()
    answer = json.loads(capsys.readouterr().out)
    assert (answer["seconds"], answer["energy"]) == (2.0, -3.5)
    assert answer["memory_mb"] > 10
    assert len(calls) == timing.WARM_UP + 3
    assert calls[0].periodic == periodic
    np.testing.assert_array_equal(calls[0].coord, WATER.coord)


# --- LAMMPS -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lmp", "mpirun", "suffix", "ranks", "obstacle"),
    [
        ("lmp", "mpirun", ".pth", 2, None),
        ("lmp", None, ".pt2", 1, None),
        ("lmp", None, ".pt2", 2, "mpirun was not found"),
        (None, "mpirun", ".pth", 1, "lmp was not found"),
        ("lmp", "mpirun", ".pte", 1, "LAMMPS runs .pth and .pt2, not .pte"),
    ],
)
def test_what_is_in_the_way(lmp, mpirun, suffix, ranks, obstacle):
    assert Programs(lmp, mpirun).obstacle(suffix, ranks) == obstacle


def script(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return str(path)


def test_programs_beside_python_come_first(tmp_path, monkeypatch):
    elsewhere = [script(tmp_path / "path" / name, "") for name in ("lmp", "mpirun")]
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    beside = script(tmp_path / "environment" / "lmp", "")
    monkeypatch.setattr(lammps.sys, "executable", str(tmp_path / "environment" / "python"))
    assert find_programs() == Programs(beside, elsewhere[1])


RUNS = """\
[ "$1 $2" = "-in in.lmp" ] || exit 9
cat > forces.txt <<'END'
ITEM: TIMESTEP
0
ITEM: ATOMS id fx fy fz
1 0.5 0 -1
2 -0.25 1e-3 2
3 0 0 0
END
echo "Step PotEng"
echo "         0  -12.25"
echo "Loop time of 3.0 on 1 procs for 6 steps"
echo "Loop time of 5.0 on 1 procs for 20 steps"
"""


@pytest.fixture
def programs(tmp_path):
    starts = script(tmp_path / "bin" / "mpirun", 'echo "$1 $2" > ranks; shift 2; exec "$@"\n')
    return Programs(script(tmp_path / "bin" / "lmp", RUNS), starts)


@pytest.mark.parametrize("ranks", [1, 3])
def test_energy_and_forces(ranks, programs, tmp_path):
    (tmp_path / "my model.pth").touch()
    energy, found = forces(tmp_path / "my model.pth", WATER, ranks, tmp_path / "run", programs)
    assert energy == -12.25
    assert found.tolist() == [[0.5, 0.0, -1.0], [-0.25, 1e-3, 2.0], [0.0, 0.0, 0.0]]
    started = tmp_path / "run" / "ranks"
    assert (started.read_text() if ranks > 1 else "") == ("-n 3\n" if ranks > 1 else "")
    # The input names the user's file by a link without blanks, and has the atoms as they are.
    lines = (tmp_path / "run" / "in.lmp").read_text().splitlines()
    assert {"boundary p p p", "pair_style deepmd model.pth", "pair_coeff * * O H", "run 0"} <= set(lines)
    assert (tmp_path / "run" / "model.pth").resolve() == tmp_path / "my model.pth"
    data = (tmp_path / "run" / "structure.data").read_text().splitlines()
    atoms = np.array([line.split() for line in data[data.index("Atoms # atomic") + 2 :]], dtype=float)
    np.testing.assert_allclose(atoms, np.column_stack([[1, 2, 3], [1, 2, 2], WATER.coord]))


def test_speed_is_that_of_the_timed_steps(programs, tmp_path):
    free = Structure(WATER.coord, WATER.types, CELL, ["O", "H"], "", periodic=False)
    settings = {"steps": 20, "timestep": 5e-4, "temperature": 300.0}
    found = speed(tmp_path / "m.pt2", free, 1, tmp_path / "run", programs, **settings)
    assert found.seconds == 0.25  # of the second loop
    assert found.memory_mb > 0
    lines = (tmp_path / "run" / "in.lmp").read_text().splitlines()
    assert "boundary f f f" in lines
    assert lines[-2:] == ["run 4", "run 20"]
    assert {"timestep 0.0005", "velocity all create 300.0 4711"} <= set(lines)


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("echo one; echo 'ERROR: Lost atoms'; echo three", "ended with 3: ERROR: Lost atoms$"),
        ("echo killed", ": killed$"),
    ],
)
def test_what_lammps_says_is_handed_on(says, words, tmp_path):
    programs = Programs(script(tmp_path / "lmp", f"{says}\nexit 3\n"), None)
    with pytest.raises(LammpsError, match=words):
        forces(tmp_path / "m.pth", WATER, 1, tmp_path / "run", programs)
