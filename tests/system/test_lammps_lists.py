"""LAMMPS takes pairs out of the list that the model gets, and a frozen file says so."""

import re

import pytest
from helpers import tiny_model
from lammps_cases import STRONG, freeze
from lammps_runner import run_lammps

pytestmark = pytest.mark.lammps
KINDS = [".pth", pytest.param(".pt2", marks=pytest.mark.slow)]
# After the traceback of a `.pth`, or on a line of its own.
LACKS = r"(^|ValueError: )mace model: the neighbour list lacks pairs within the cutoff, such as atoms \d+ and \d+ of"
CURES = ("special_bonds lj/coul 1 1 1", "neigh_modify exclude", "pair_style hybrid/overlay")
SCRIPT = """\
units metal
atom_style bond
atom_modify map yes
region box block 0 8 0 8 0 8
create_box 2 box bond/types 1 extra/bond/per/atom 20 extra/special/per/atom 200
create_atoms 1 random 30 5 box overlap 1.4 maxtry 1000
create_atoms 2 random 30 6 box overlap 1.4 maxtry 1000
mass * 2.0
bond_style zero
bond_coeff *
pair_style {style}
pair_coeff * * {words}O H
{setting}
neighbor 1.0 bin
thermo_style custom step pe
thermo_modify format float %.15g
timestep 0.0001
{run}
"""
BONDS = "create_bonds many all all 1 0.5 1.8"
WHOLE = "special_bonds lj/coul 1 1 1"


def lammps(folder, model, setting="", run="run 0", ranks=1, style="deepmd {model}", words=""):
    script = SCRIPT.format(style=style.format(model=model), words=words, setting=setting, run=run)
    return run_lammps(folder, script, ranks)


def energy(result):
    return float(re.findall(r"^ +0 +(\S+)$", result.check().output, re.MULTILINE)[-1])


LACKING = {
    "bonds": {"setting": BONDS},
    "second neighbours along bonds": {"setting": f"{BONDS}\nspecial_bonds lj/coul 1 0 1"},
    "types": {"setting": "neigh_modify exclude type 1 2"},
    "frozen atoms": {"setting": "group a id 1:20\nneigh_modify exclude group a a"},
    "one atom": {"setting": "group a id 7\nneigh_modify exclude group a all"},
    "types of another style": {
        "style": "hybrid deepmd {model} lj/cut 2.0",
        "words": "deepmd ",
        "setting": "pair_coeff 1 2 lj/cut 0.0 1.0",
    },
    # Not at each step.
    "a later setting": {
        "run": "run 0\ngroup a id 1:20\nneigh_modify exclude group a a\nfix 1 all nve\nrun 110"
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", LACKING)
def test_lists_that_lack_pairs(case, kind, model_files, tmp_path):
    result = lammps(tmp_path, model_files(kind)["two_layers"], **LACKING[case])
    assert result.returncode == 1, result.output[-3000:]
    assert re.search(LACKS, result.output, re.MULTILINE), result.output[-3000:]
    assert all(cure in result.output for cure in CURES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_molecule_without_any_pair(kind, model_files, tmp_path):
    """A `.pt2` gets no positions: it cannot refuse, and says what it sees."""
    molecule = """\
region box block 0 30 0 30 0 30
create_box 2 box bond/types 1 extra/bond/per/atom 20 extra/special/per/atom 200
create_atoms 1 single 5 5 5
create_atoms 2 single 5.9 5 5
create_atoms 2 single 4.7 5.9 5
"""
    script = SCRIPT.format(
        style=f"deepmd {model_files(kind)['two_layers']}", words="", setting="neigh_modify exclude type 1 2\n"
        "neigh_modify exclude type 2 2\nneigh_modify exclude type 1 1", run="run 0",
    )  # fmt: skip
    begin, end = script.index("region box"), script.index("mass *")
    result = run_lammps(tmp_path, script[:begin] + molecule + script[end:], 1)
    if kind == ".pth":
        assert result.returncode == 1
        assert re.search(LACKS, result.output, re.MULTILINE)
    else:
        words = "warning: the neighbour list joins 3 atoms into 3 groups.*such as atom 0 of the rank"
        assert re.search(words, result.check().output)
        assert all(cure in result.output for cure in CURES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_are_refused_too(kind, model_files, tmp_path):
    """The sentence may be lost, because mpirun ends before it has passed on everything."""
    assert lammps(tmp_path, model_files(kind)["two_layers"], BONDS, ranks=2).returncode != 0


@pytest.mark.parametrize("kind", KINDS)
def test_whole_lists_with_bonds(kind, model_files, tmp_path):
    """With weights between 0 and 1 LAMMPS marks pairs and leaves them in the list."""
    model = model_files(kind)["two_layers"]
    settings = {
        "none": "",
        "whole": f"{BONDS}\n{WHOLE}",
        "half": f"{BONDS}\nspecial_bonds lj/coul 0.5 0.5 0.5",
    }
    found = {name: energy(lammps(tmp_path / name, model, setting)) for name, setting in settings.items()}
    assert found["whole"] == found["none"]
    assert found["half"] == found["none"]


@pytest.fixture(scope="module")
def weightless(tmp_path_factory):
    """A model whose lone atoms have no energy."""
    path = tmp_path_factory.mktemp("weightless") / "m.pth"
    freeze(tiny_model(**STRONG, seed=1, atomic_energies={"O": 0.0, "H": 0.0}), path)
    return path


def test_an_excluded_atom_without_energy(weightless, tmp_path):
    """As ``fix gcmc`` tries a deletion: the energy of the other atoms."""
    excluded = lammps(tmp_path / "a", weightless, "group a id 7\nneigh_modify exclude group a all")
    deleted = lammps(tmp_path / "b", weightless, "group a id 7\ndelete_atoms group a compress no")
    assert energy(excluded) == pytest.approx(energy(deleted), abs=1e-10)


GCMC = """\
group gas type 2
fix 1 gas gcmc 1 4 0 2 71 3000.0 -1.0 0.5 full_energy
run 3
"""


@pytest.mark.slow
def test_grand_canonical_moves(weightless, tmp_path):
    """Insertions, deletions and their trials pass."""
    result = lammps(tmp_path, weightless, run=GCMC).check()
    assert "Loop time" in result.output


@pytest.mark.slow
def test_atoms_at_the_same_place_end_a_compiled_run(model_files, tmp_path):
    """The host leaves out their pair; not only at the first evaluation."""
    move = "set atom 2 x 1.0 y 1.0 z 1.0\nset atom 1 x 1.0 y 1.0 z 1.0"
    result = lammps(tmp_path, model_files(".pt2")["two_layers"], run=f"run 0\n{move}\nrun 0")
    assert result.returncode == 1
    assert "mace model: two atoms are at the same place (closer than 1e-6 Å)" in result.output


@pytest.mark.slow
def test_charges_of_a_compiled_file(model_files, tmp_path):
    """A value that the model does not have ends the run with a sentence; where none is given, that is said once."""
    model = model_files(".pt2")["charged"]
    refused = lammps(tmp_path, model, style="deepmd {model} fparam -1.5 2 0.7")
    assert refused.returncode == 1
    assert (
        "mace model: total_charge is -1.5 in frame 0 (column 0 of fparam, counted from 0), but must be a whole number"
        in (refused.output)
    )
    run = "fix 1 all nve\nrun 2"
    told = lammps(tmp_path, model, run=run).check().output
    assert told.count("so frames have total_charge 0, total_spin 1, temperature 0.3.") == 1
    assert (
        "so frames have"
        not in lammps(tmp_path, model, run=run, style="deepmd {model} fparam 1 2 0.7").check().output
    )
