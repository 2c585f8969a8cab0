"""LAMMPS on any number of ranks gives the numbers of one rank and of Python."""

import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
from lammps_cases import (
    CASES,
    DEVIATING,
    FURTHER,
    HOST_REFUSES,
    MODELS,
    NULL,
    adapted,
    in_python,
    on_one_rank,
    simulate,
)
from lammps_launches import Simulations
from lammps_runner import assert_same, deviations, lammps_environment, python_frame, run_lammps
from tolerances import NOTICEABLE, PRINTED, RANKS

pytestmark = pytest.mark.lammps
KINDS = [".pth", pytest.param(".pt2", marks=pytest.mark.slow)]
SUFFIXES = (".pth", ".pt2")
RUNS = [
    pytest.param(name, kind, marks=[pytest.mark.slow] if kind == ".pt2" else [])
    for kind in SUFFIXES
    for name in CASES
    if name not in HOST_REFUSES.get(kind, ())
]


# Cases that tests ask for whose parameters do not name them.
ASKED = {
    "test_a_rank_is_really_without_ghosts": CASES["rank without atoms or ghosts"],
    "test_null_atoms_get_nothing": CASES["NULL atoms cross boundaries"],
    "test_without_atomic_results": FURTHER["no atomic results"],
    "test_atomic_virial_does_not_depend_on_the_origin": FURTHER["shifted"],
    "test_mixing_kinds_of_files": FURTHER["both kinds of files"],
}


def cases_of(item):
    """Cases that a test will ask for, with the kinds of their files."""
    values = item.callspec.params if hasattr(item, "callspec") else {}
    if item.originalname == "test_ranks":
        case = CASES[values["name"]]
        return [(case, values["kind"]), (on_one_rank(case, values["kind"]), values["kind"])]
    return [(ASKED[item.originalname], values["kind"])] if item.originalname in ASKED else []


@pytest.fixture(scope="session")
def simulated(request, shared_folder, model_files):
    """Run a case, together with those that other tests of this session will ask for."""
    ours = [item for item in request.session.items if item.path.samefile(__file__)]
    wanted = [case for item in ours for case in cases_of(item)]
    return Simulations(wanted, shared_folder / "lammps", model_files)


def tolerance(case):
    return RANKS[MODELS[case.model].get("precision", "float64")]


@pytest.mark.parametrize(("name", "kind"), RUNS)
def test_ranks(name, kind, simulated, model_files, record_property):
    """Energies, forces and virials are those of one rank and of Python, whether a list is fresh or cached."""
    case = adapted(CASES[name], kind)
    result = simulated(case, kind)
    _check_history(case, result)
    # With hybrid styles DeePMD-kit's pressure is wrong for a `.pt2` on one rank, see the test of that.
    if on_one_rank(case, kind) != case and not (kind == ".pt2" and case.overlay):
        reference = simulated(on_one_rank(case, kind), kind).frames
        record_property(
            "one rank", assert_same(result.frames, reference, tolerance(case), "against one rank")
        )
    python = [in_python(case, model_files(kind), frame) for frame in result.frames]
    record_property("Python", assert_same(result.frames, python, tolerance(case), "against Python"))
    if case.notices:
        found = deviations(result.blind, python[-1])
        assert min(found.values()) > NOTICEABLE, f"nobody notices that the exchange is missing: {found}"


def _check_history(case, result):
    """The run did what the case is about: lists were reused and rebuilt, atoms changed hands, ranks were empty."""
    builds = [frame.builds for frame in result.frames]
    assert builds[-1] >= case.periods
    assert any(first == second > 0 for first, second in itertools.pairwise(builds))
    first, last = result.frames[0], result.frames[-1]
    moved = set(last.types[first.owner != last.owner])
    assert not case.crossing or moved.intersection(case.crossing)
    assert len(set(first.owner)) == case.ranks - case.empty


@pytest.mark.parametrize("kind", [".pth"])
def test_a_rank_is_really_without_ghosts(kind, simulated):
    """LAMMPS counts: in the case that says so, one rank owns nothing and sees nothing."""
    log = (simulated(CASES["rank without atoms or ghosts"], kind).run.folder / "log.lammps").read_text()
    for count in ("Nlocal", "Nghost"):
        _, least = re.findall(rf"{count}:\s+\S+ ave\s+(\d+) max\s+(\d+) min", log)[0]
        assert int(least) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_null_atoms_get_nothing(kind, simulated):
    """Atoms of a type the model does not have feel nothing and have no energy."""
    for frame in simulated(CASES["NULL atoms cross boundaries"], kind).frames:
        null = frame.types == NULL
        assert null.any()
        for values in (frame.force, frame.atom_energy, frame.atom_virial):
            assert not values[null].any()


@pytest.mark.parametrize("kind", KINDS)
def test_without_atomic_results(kind, simulated):
    """A run that asks for no per-atom results has the same energies and forces."""
    case = CASES["2 ranks"]
    plain = simulated(FURTHER["no atomic results"], kind).frames
    found = deviations(plain, simulated(case, kind).frames)
    assert max(found[name] for name in ("energy", "force", "virial")) <= tolerance(case)


@pytest.mark.parametrize("kind", KINDS)
def test_atomic_virial_does_not_depend_on_the_origin(kind, simulated, record_property):
    """Shifting all atoms, over boundaries of cell and ranks, leaves every atom's virial as it was."""
    case = FURTHER["shifted"]
    before, after = simulated(case, kind).frames
    assert (before.owner != after.owner).any()
    record_property("shifted", assert_same(after, before, tolerance(case), "after a rigid shift"))


@pytest.mark.parametrize("kind", KINDS)
def test_model_deviation(kind, simulated, model_files):
    """Three models: forces of the first, and the spread that DeePMD-kit's Python functions find."""
    from deepmd.infer.model_devi import calc_model_devi_f, calc_model_devi_v

    case = CASES["model deviation"]
    result = simulated(case, kind)
    table = np.loadtxt(result.run.folder / "deviation.txt")
    assert table[:, 0].tolist() == [0, 4, 8]
    for row in table:
        frame = next(frame for frame in result.frames if frame.step == row[0])
        models = [model_files(kind)[name] for name in (case.model, *DEVIATING.values())]
        python = [python_frame(model, frame) for model in models]
        forces = np.array([[p.force] for p in python])
        virials = np.array([[p.atom_virial.sum(axis=0)] for p in python]) / len(frame.coord)
        virial_spread = [value.item() for value in calc_model_devi_v(virials)]
        *force_spread, per_atom = calc_model_devi_f(forces, atomic=True)
        expected = [*virial_spread, *(value.item() for value in force_spread), *per_atom.ravel()]
        np.testing.assert_allclose(row[1:], expected, rtol=PRINTED)


REFUSED = """\
units metal
atom_style atomic
comm_style {comm_style}
newton {newton}
region box block 0 8 0 8 0 8
create_box 2 box
create_atoms {atoms} random 20 5 box overlap 1.4
{more}
mass * 2.0
pair_style deepmd {model}
pair_coeff * * O H
neighbor 1.5 bin
thermo_style custom step pe
thermo_modify format float %.17g
dump out all custom 1 dump.txt id x y z fx fy fz
{dynamics}
run 3
"""


def refused(folder, model, ranks=2, **words):
    defaults = {"comm_style": "brick", "newton": "on", "atoms": 1, "more": "", "dynamics": "fix move all nve"}
    return run_lammps(folder, REFUSED.format(model=model, **{**defaults, **words}), ranks)


@pytest.mark.parametrize("kind", [".pth"])
def test_atoms_at_the_same_place(kind, model_files, tmp_path):
    """The model's message reaches the user."""
    # One rank: on several, mpirun may end before it has passed on what the aborting rank wrote.
    run = refused(tmp_path, model_files(kind)["two_layers"], 1, more="create_atoms 1 single 2 2 2\n" * 2)
    assert run.returncode != 0
    assert "mace model: two atoms are at the same place" in run.output


@pytest.mark.parametrize("kind", [".pth"])
def test_atoms_at_infinity(kind, model_files, tmp_path):
    """A run that blows up between two rebuilds ends with an error, not with NaN energies."""
    kick = "variable big equal exp(1000)\nfix kick all addforce v_big 0 0\nneigh_modify every 100 check no\n"
    run = refused(tmp_path, model_files(kind)["two_layers"], 1, dynamics=f"{kick}fix move all nve")
    assert run.returncode != 0
    assert "mace model: a coordinate is NaN or infinite" in run.output


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("kind", [".pth"])
def test_tiled_communication_is_refused(kind, ranks, model_files, tmp_path):
    """DeePMD-kit reads LAMMPS' tiled lists as if they were brick lists; the model sees that they do not fit."""
    run = refused(tmp_path, model_files(kind)["two_layers"], ranks, comm_style="tiled")
    assert run.returncode != 0
    assert "Loop time" not in run.output
    if ranks == 1:  # on several, mpirun may end before it has passed on the message
        assert "pair_style deepmd does not support comm_style tiled" in run.output


@pytest.mark.parametrize("kind", KINDS)
def test_balance_rcb_is_refused_by_lammps(kind, model_files, tmp_path):
    """Recursive bisection needs tiled communication, and says so."""
    run = refused(tmp_path, model_files(kind)["two_layers"], more="balance 1.0 rcb")
    assert run.returncode != 0
    assert "Balance rcb cannot be used with comm_style brick" in run.output


@pytest.mark.parametrize("kind", [".pth"])
def test_newton_off_is_not_noticed_by_the_host(kind, model_files, tmp_path):
    """A limit of DeePMD-kit, documented: forces on ghosts get lost. Once it refuses, or is right, change the page."""
    forces = {}
    for newton in ("on", "off"):
        run = refused(tmp_path / newton, model_files(kind)["two_layers"], 1, newton=newton).check()
        table = np.loadtxt((run.folder / "dump.txt").read_text().splitlines()[9:29])
        forces[newton] = table[np.argsort(table[:, 0]), 4:]
    assert np.abs(forces["on"] - forces["off"]).max() > NOTICEABLE


@pytest.mark.parametrize("kind", [".pth"])
def test_file_needs_neither_mace_nor_this_package(kind, model_files, simulated):
    """Python loads and evaluates the file while mace, e3nn and deepmd_gnn cannot be imported."""
    case = CASES["1 rank"]
    frame = simulated(case, kind).frames[0]
    code = f"""
import sys
sys.modules.update(dict.fromkeys(["mace", "e3nn", "deepmd_gnn"]))
import torch
torch.ops.load_library({str(_operators())!r})
model = torch.jit.load({str(model_files(kind)[case.model])!r})
coord = torch.tensor({frame.coord.tolist()}, dtype=torch.float64)[None]
kinds = torch.tensor({frame.types.tolist()})[None]
box = torch.tensor({frame.cell.ravel().tolist()}, dtype=torch.float64)[None]
print(repr(model(coord, kinds, box)["energy"].item()))
"""
    environment, _ = lammps_environment()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert abs(float(done.stdout.splitlines()[-1]) - frame.energy) <= tolerance(case)


def _operators():
    from deepmd.env import SHARED_LIB_DIR

    return SHARED_LIB_DIR / "libdeepmd_op_pt.so"


# --- what DeePMD-kit says of a `.pt2` that it cannot run -----------------------------------------------------------

NO_MAP = """\
units metal
atom_style atomic
region box block 0 8 0 8 0 8
create_box 2 box
create_atoms 1 random 20 5 box overlap 1.4
mass * 2.0
pair_style deepmd {model}
pair_coeff * * O H
run 0
"""


@pytest.mark.slow
def test_one_rank_without_a_map_is_refused(model_files, tmp_path):
    run = run_lammps(tmp_path, NO_MAP.format(model=model_files(".pt2")["two_layers"]), 1)
    assert run.returncode != 0
    assert "atom_modify map" in run.output


@pytest.mark.slow
@pytest.mark.parametrize("name", HOST_REFUSES[".pt2"])
def test_a_rank_with_neither_atoms_nor_ghosts_is_refused(name, model_files, tmp_path):
    with pytest.raises(AssertionError) as found:  # simulate() checks the exit status and shows the output
        simulate(adapted(CASES[name], ".pt2"), model_files(".pt2"), tmp_path / "run")
    assert "does not yet support" in str(found.value)


@pytest.mark.slow
def test_tiled_communication_ends_a_compiled_run(model_files, tmp_path):
    run = refused(tmp_path, model_files(".pt2")["two_layers"], 2, comm_style="tiled")
    assert run.returncode != 0
    assert "Loop time" not in run.output


@pytest.mark.slow
def test_pressure_of_hybrid_styles_on_one_rank(simulated, model_files):
    """A limit of DeePMD-kit, documented: it folds forces onto the owners, LAMMPS wants them on the ghosts."""
    case = on_one_rank(CASES["hybrid/overlay"], ".pt2")
    frame = simulated(case, ".pt2").frames[-1]
    found = deviations(frame, in_python(case, model_files(".pt2"), frame))
    assert max(found[name] for name in ("energy", "force", "atom_energy", "atom_virial")) <= tolerance(case)
    assert found["virial"] > NOTICEABLE


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUFFIXES)  # of the first file
def test_mixing_kinds_of_files(kind, simulated):
    """The same model in two kinds of file does not deviate from itself."""
    result = simulated(FURTHER["both kinds of files"], kind)
    table = np.loadtxt(result.run.folder / "deviation.txt")
    assert len(table) == 5
    assert np.abs(table[:, 1:]).max() < 1e-8
