"""Structures of a user's files."""

import numpy as np
import pytest
from helpers import random_frame

from deepmd_gnn.tools.structures import Structure, read_structure

TYPE_MAP = ["O", "H"]


@pytest.fixture
def structure():
    coord, types, cell = random_frame(seed=4)
    return Structure(coord, types, cell, TYPE_MAP, "made up")


def write(structure, path):
    import ase
    import ase.io

    if path.suffix == ".data":
        structure.write_lammps_data(path)
        return
    if path.suffix == "":
        (path / "set.000").mkdir(parents=True)
        for name, value in (("coord", structure.coord), ("box", structure.cell)):
            np.save(path / "set.000" / f"{name}.npy", np.stack([value.ravel() + 1.0, value.ravel()]))
        np.savetxt(path / "type.raw", 1 - structure.types, fmt="%d")
        (path / "type_map.raw").write_text("H\nO\n")
        return
    symbols = [TYPE_MAP[kind] for kind in structure.types]
    ase.io.write(path, ase.Atoms(symbols, structure.coord, cell=structure.cell, pbc=True))


@pytest.mark.parametrize(("name", "frame"), [("a.xyz", 0), ("a.data", 0), ("system", 1), ("a b ü.cif", -1)])
def test_formats(structure, name, frame, tmp_path):
    write(structure, tmp_path / name)
    found = read_structure(tmp_path / name, TYPE_MAP, frame)
    assert found.type_map == TYPE_MAP
    if name.endswith("cif"):  # another orientation, and another order of the atoms is allowed
        assert np.bincount(found.types).tolist() == np.bincount(structure.types).tolist()
        assert np.linalg.det(found.cell) == pytest.approx(np.linalg.det(structure.cell))
        return
    np.testing.assert_array_equal(found.types, structure.types)
    np.testing.assert_allclose(found.coord, structure.coord, atol=1e-7)
    np.testing.assert_allclose(found.cell, structure.cell, atol=1e-7)


def test_names_of_lammps_types(structure, tmp_path):
    structure.write_lammps_data(tmp_path / "a.lmp")
    found = read_structure(tmp_path / "a.lmp", TYPE_MAP, names=["H", "O"])
    np.testing.assert_array_equal(found.types, 1 - structure.types)


def test_molecule_without_cell(tmp_path):
    (tmp_path / "m.xyz").write_text("2\n\nO 0 0 0\nH 0 0 1\n")
    found = read_structure(tmp_path / "m.xyz", TYPE_MAP)
    assert found.cell is None
    assert not found.periodic
    boxed = found.in_lammps_orientation()
    assert not boxed.periodic
    assert np.all(boxed.coord > 0)
    assert np.all(boxed.coord < np.diag(boxed.cell))
    with pytest.raises(ValueError, match="has no cell"):
        found.repeated((2, 1, 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("nothing of the kind\n", "cannot be read as a structure"),
        ("1\n\nFe 0 0 0\n", "has atoms of Fe, but the model knows only O, H"),
        ('1\nLattice="5 0 0 0 5 0 0 0 5" pbc="T T F"\nO 0 0 0\n', "periodic in some directions only"),
    ],
)
def test_bad_files(content, words, tmp_path):
    if content is not None:
        (tmp_path / "a.xyz").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_structure(tmp_path / "a.xyz", TYPE_MAP)


def test_supercell(structure):
    double = structure.repeated((1, 2, 1))
    assert double.natoms == 2 * structure.natoms
    np.testing.assert_allclose(
        double.coord[structure.natoms :] - structure.coord, np.tile(structure.cell[1], (12, 1))
    )
    np.testing.assert_allclose(double.cell[1], 2 * structure.cell[1])
