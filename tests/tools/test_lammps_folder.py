"""Folders for LAMMPS: as they are, on one rank and several, with the model's numbers."""

import re
import subprocess
from dataclasses import replace

import ase.io
import numpy as np
import pytest
from ase import Atoms
from deepmd.infer import DeepPot

from deepmd_gnn.tools.lammps import find_programs
from deepmd_gnn.tools.lammps_folder import RUNS, Run, write_lammps_folder
from deepmd_gnn.tools.structures import Structure, read_structure

pytestmark = pytest.mark.usefixtures("preloaded")


def structure(periodic=True, left=False):
    """Water on a lattice, in a skewed cell; types O and H."""
    molecule = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    places = 3.1 * np.array(list(np.ndindex(2, 2, 2)))
    cell = np.array([[6.2, 0, 0], [0.5, 6.2, 0], [0.3, -0.4, 6.2]])
    coord = (places[:, None] + molecule).reshape(-1, 3)
    if left:
        cell = cell[[1, 0, 2]]
    return Structure(
        coord, np.array([0, 1, 1] * 8), cell if periodic else None, ["O", "H"], "water.xyz", periodic
    )


@pytest.fixture
def model(tmp_path):
    (tmp_path / "my model.pth").write_bytes(b"")
    return tmp_path / "my model.pth"


@pytest.mark.parametrize("kind", RUNS)
def test_files(kind, model, tmp_path):
    folder = tmp_path / "md"
    notes = write_lammps_folder(folder, structure(), model, Run(kind, temperature=330, pressure=5))
    text = (folder / "in.lammps").read_text()
    assert "atom_modify map yes" in text
    assert "units       metal" in text
    assert "pair_style  deepmd my_model.pth\npair_coeff  * * O H" in text
    assert (folder / "my_model.pth").exists()
    assert bool(notes) == (kind == "npt")
    data = (folder / "structure.data").read_text()
    assert re.search(r"Masses\n\n1 15.999\n2 1.008\n", data)
    if kind != "minimize":
        assert "timestep    0.0005" in text
        assert "330" in text
    atoms = ase.io.read(folder / "structure.data", format="lammps-data", atom_style="atomic", units="metal")
    np.testing.assert_allclose(atoms.get_volume(), np.linalg.det(structure().cell))


@pytest.mark.parametrize("one_rank", [True, False])
def test_how_many_ranks_the_input_speaks_of(one_rank, model, tmp_path):
    write_lammps_folder(tmp_path / "md", structure(), model, Run(one_rank=one_rank))
    text = (tmp_path / "md" / "in.lammps").read_text()
    assert ("mpirun" in text) != one_rank
    assert "lmp -in in.lammps\n" in text.split("units")[0]


def test_a_left_handed_cell_is_not_mirrored(model, tmp_path):
    """Distances and the volume spanned by a molecule's bonds keep their sign."""
    write_lammps_folder(tmp_path / "md", structure(left=True), model, Run())
    atoms = ase.io.read(
        tmp_path / "md/structure.data", format="lammps-data", atom_style="atomic", units="metal"
    )
    before = Atoms("OHH" * 8, structure(left=True).coord, cell=structure(left=True).cell, pbc=True)
    for i, j in ((0, 1), (0, 2), (1, 20), (4, 11)):
        assert atoms.get_distance(i, j, mic=True) == pytest.approx(
            before.get_distance(i, j, mic=True), abs=1e-9
        )
    triple = [
        np.linalg.det([a.get_distance(0, k, mic=True, vector=True) for k in (1, 2, 3)])
        for a in (atoms, before)
    ]
    assert triple[0] == pytest.approx(triple[1], abs=1e-8)


def test_what_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="Take nvt"):
        write_lammps_folder(tmp_path / "md", structure(periodic=False), model, Run("npt"))
    with pytest.raises(ValueError, match="Freeze it: `deepmd-gnn freeze"):
        write_lammps_folder(tmp_path / "md", structure(), tmp_path / "model.ckpt.pt", Run())
    crystal = structure()
    crystal = replace(crystal, coord=crystal.coord[:1], types=crystal.types[:1])
    with pytest.raises(
        ValueError, match="has one atom, which alone has no temperature. Repeat it: --replicate"
    ):
        write_lammps_folder(tmp_path / "md", crystal, model, Run())
    assert not (tmp_path / "md").exists()
    (tmp_path / "md").mkdir()
    (tmp_path / "md/in.lammps").write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        write_lammps_folder(tmp_path / "md", structure(), model, Run())


@pytest.mark.parametrize("natoms", [6000, 6001])
def test_variables_for_many_atoms(natoms, model, tmp_path):
    places = 2.0 * np.array(list(np.ndindex(20, 20, 16)))[:natoms]
    many = Structure(places, np.zeros(natoms, dtype=int), np.diag([40.0, 40.0, 32.0]), ["O", "H"], "x", True)
    write_lammps_folder(tmp_path / "md", many, model, Run())
    head = (tmp_path / "md/in.lammps").read_text().split("units")[0]
    assert ("#   export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=" in head) == (natoms > 6000)


def test_the_copy_of_the_model_keeps_its_permissions(model, tmp_path):
    mine = tmp_path / model.name
    mine.write_bytes(model.read_bytes())
    mine.chmod(0o600)
    write_lammps_folder(tmp_path / "md", structure(), mine, Run())
    assert (tmp_path / "md/my_model.pth").stat().st_mode & 0o777 == 0o600


def test_atoms_on_top_of_each_other_are_mentioned(model, tmp_path):
    close = structure()
    close.coord[1] = close.coord[0] + [0.1, 0, 0]
    assert "0.1 Å apart" in write_lammps_folder(tmp_path / "md", close, model, Run())[0]


CASES = [("npt", True), ("minimize", True), ("nvt", False)]


@pytest.mark.lammps
@pytest.mark.parametrize(("kind", "periodic"), CASES)
def test_it_runs(kind, periodic, water_models, tmp_path):
    """On one rank and on two, without a change; the first energy is Python's."""
    model = water_models / "mace.pth"
    before = structure(periodic)
    programs = find_programs()
    energies = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        write_lammps_folder(folder, before, model, Run(kind, steps=2, relax_cell=kind == "minimize"))
        command = (
            [programs.lmp, "-in", "in.lammps"]
            if ranks == 1
            else [programs.mpirun, "-n", "2", programs.lmp, "-in", "in.lammps"]
        )
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert (folder / "final.data").exists()
        column = 1 if kind == "minimize" else 2
        rows = re.findall(r"^ +\d+(?: +-?\d\S*)+ *$", (folder / "log.lammps").read_text(), re.MULTILINE)
        energies.append([float(row.split()[column]) for row in rows][:4])
    np.testing.assert_allclose(energies[0], energies[1], rtol=1e-5)
    box = before.cell.reshape(1, 9) if periodic else None
    expected = DeepPot(str(model)).eval(before.coord.reshape(1, -1), box, before.types)[0][0, 0]
    assert energies[0][0] == pytest.approx(expected, rel=1e-5)
    again = read_structure(tmp_path / "1/structure.data", ["O", "H"])
    assert again.natoms == 24


@pytest.mark.lammps
@pytest.mark.parametrize("cell", [None, np.diag([60.0, 60.0, 60.0])])
def test_a_linear_molecule_runs(cell, water_models, tmp_path):
    """LAMMPS refuses a box without thickness, and a rank may have nothing where the molecule is in the corner of a large one."""
    molecule = Structure(
        np.array([[0.0, 0, 0], [0.97, 0, 0], [-0.97, 0, 0]]),
        np.array([0, 1, 1]),
        cell,
        ["O", "H"],
        "x",
        False,
    )
    write_lammps_folder(tmp_path / "md", molecule, water_models / "mace.pth", Run(steps=2))
    programs = find_programs()
    command = [programs.mpirun, "-n", "2", programs.lmp, "-in", "in.lammps"]
    done = subprocess.run(command, cwd=tmp_path / "md", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "3 atoms" in (tmp_path / "md/final.data").read_text()
