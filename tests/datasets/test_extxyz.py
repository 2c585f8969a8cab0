"""The reader of extended XYZ against ASE's, and what it says about files that are none."""

import gzip

import ase.io
import numpy as np
import pytest
from ase import Atoms

from deepmd_gnn.datasets.extxyz import is_extxyz, read_extxyz, write_extxyz
from deepmd_gnn.datasets.frames import DataError, frame_from_atoms

HEAD = 'Lattice="5 0 0 0.5 5 0 0 0.25 5" Properties=species:S:1:pos:R:3:REF_forces:R:3'
ROW = "O 0 0 0 1 2 3\n"


def random_atoms():
    """Frames with names of all kinds."""
    rng = np.random.default_rng(0)
    for k in range(6):
        cell = np.eye(3) * 6 + rng.normal(size=(3, 3)) if k % 3 else None
        atoms = Atoms("OH2CO", positions=rng.normal(size=(5, 3)) * 3, cell=cell, pbc=bool(k % 3))
        if k == 4:
            atoms.pbc = [True, True, False]
        atoms.info = {
            "REF_energy": rng.normal(),
            "config_type": "a b",
            "n": k,
            "REF_stress": rng.normal(size=6),
        }
        atoms.arrays["REF_forces"] = rng.normal(size=(5, 3))
        atoms.arrays["q2"] = rng.normal(size=5)
        atoms.arrays["tag2"] = np.arange(5)
        yield atoms


def test_as_ase_reads(tmp_path):
    path = tmp_path / "x.xyz"
    ase.io.write(path, list(random_atoms()))
    frames, images = list(read_extxyz(path)), ase.io.read(path, ":")
    assert len(frames) == len(images) == 6
    for frame, atoms in zip(frames, images, strict=True):
        expected = frame_from_atoms(atoms, str(path), frame.index)
        for name in ("numbers", "positions", "cell", "pbc"):
            np.testing.assert_array_equal(getattr(frame, name), getattr(expected, name))
        assert frame.info.keys() == expected.info.keys()
        for key, value in frame.info.items():
            np.testing.assert_array_equal(value, expected.info[key])
        for key in ("REF_forces", "q2", "tag2"):
            np.testing.assert_array_equal(frame.arrays[key], expected.arrays[key])


@pytest.mark.parametrize("comment", ["stress={words}", "virial={words}", "REF_stress={words} a='b c'"])
def test_matrices(comment, tmp_path):
    """Nine numbers have ASE's order; six numbers, which ASE refuses for stress and virial, are read."""
    nine = '"0 1 2 3 4 5 6 7 8"'
    path = tmp_path / "x.xyz"
    path.write_text(f"1\n{HEAD} {comment.format(words=nine)}\n{ROW}")
    key = comment.partition("=")[0]
    frame, atoms = next(read_extxyz(path)), ase.io.read(path)
    if key == "stress":
        assert frame.info[key].shape == (3, 3)
    else:
        np.testing.assert_array_equal(frame.info[key], atoms.info[key])
    path.write_text(f"1\n{HEAD} {comment.format(words=chr(34) + '1 2 3 4 5 6' + chr(34))}\n{ROW}")
    np.testing.assert_array_equal(next(read_extxyz(path)).info[key], [1, 2, 3, 4, 5, 6])


def test_written_and_read(tmp_path):
    path, again = tmp_path / "a.xyz", tmp_path / "b.xyz"
    ase.io.write(path, list(random_atoms()))
    frames = list(read_extxyz(path))
    with again.open("w") as file:
        assert write_extxyz(file, frames) == 6
    for ours, atoms in zip(frames, ase.io.read(again, ":"), strict=True):
        np.testing.assert_array_equal(atoms.positions, ours.positions)
        np.testing.assert_array_equal(atoms.cell, ours.cell)
        np.testing.assert_array_equal(atoms.pbc, ours.pbc)
        np.testing.assert_array_equal(atoms.arrays["REF_forces"], ours.arrays["REF_forces"])
        assert atoms.info["REF_energy"] == ours.info["REF_energy"]


def test_goes_on_after_empty_lines(tmp_path):
    """ASE's reader stops there without a word."""
    path = tmp_path / "x.xyz"
    path.write_text(f"1\n{HEAD}\n{ROW}\n\n1\n{HEAD}\n{ROW}\n")
    assert len(list(read_extxyz(path))) == 2
    assert len(ase.io.read(path, ":")) == 1


def test_compressed(tmp_path):
    path = tmp_path / "x.xyz.gz"
    with gzip.open(path, "wt") as file:
        file.write(f"1\n{HEAD}\n{ROW}")
    assert is_extxyz(path)
    assert len(list(read_extxyz(path))) == 1


BAD = {
    "cut off": (f"1\n{HEAD}\n{ROW}2\n{HEAD}\n{ROW}", "frame 1 .*ends after 1 of 2 atoms"),
    "other format": ("step energy\n1 2\n", "line 1 should be the number of atoms, but is 'step energy'"),
    "too few columns": (f"1\n{HEAD}\nO 0 0 0 1 2\n", "line 3 has 6 columns, but Properties names 7"),
    "too many columns": (f"1\n{HEAD}\nO 0 0 0 1 2 3 4\n", "line 3 has 8 columns"),
    "no number": (f"2\n{HEAD}\n{ROW}O 0 0 x 1 2 3\n", "frame 0 .*could not convert"),
    "no element": (f"1\n{HEAD}\nQq 0 0 0 1 2 3\n", "'Qq' is no element"),
    "no positions": ("1\nProperties=species:S:1:x:R:3\nO 0 0 0\n", "no column of positions"),
    "no species": ("1\nProperties=pos:R:3\n0 0 0\n", "no column of elements"),
    "bad properties": ("1\nProperties=species:S:1:pos\nO 0 0 0\n", "is not a list of NAME:TYPE:COLUMNS"),
    "bad cell": ('1\nLattice="1 2 3"\nO 0 0 0\n', "Lattice has 3 values"),
    "bad pbc": ('1\npbc="T T"\nO 0 0 0\n', "pbc has 2 values"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    text, words = BAD[name]
    path = tmp_path / "bad.xyz"
    path.write_text(text)
    with pytest.raises(DataError, match=f"bad.xyz, .*{words}"):
        list(read_extxyz(path))


def test_no_text(tmp_path):
    path = tmp_path / "bad.xyz"
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(DataError, match="no text file"):
        list(read_extxyz(path))
