"""Files to data folders: DeePMD-kit's and dpdata's readers find what was in the file, and the report says what is odd."""

import json

import ase.io
import dpdata
import numpy as np
import pytest
from ase import Atoms
from deepmd.dpmodel.utils.lmdb_data import LmdbDataReader
from deepmd.utils.data import DeepmdData
from deepmd.utils.data_system import DeepmdDataSystem
from mace.data.utils import random_train_valid_split

from deepmd_gnn.config.isolated_atoms import read_atomic_energies
from deepmd_gnn.datasets.cells import whole_periodicity
from deepmd_gnn.datasets.conversion import Conversion, convert
from deepmd_gnn.datasets.database import database_metadata
from deepmd_gnn.datasets.export import export
from deepmd_gnn.datasets.folders import find_systems, read_systems
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.isolated import IsolatedAtoms
from deepmd_gnn.datasets.labels import LabelReader, Labels
from deepmd_gnn.datasets.layout import make_groups
from deepmd_gnn.datasets.report import report_text
from deepmd_gnn.datasets.sources import read_frames
from deepmd_gnn.datasets.splitting import split
from deepmd_gnn.datasets.spool import Spool
from deepmd_gnn.datasets.suspicions import Inspector, all_electron_energy


def water(seed=0, pbc=True, order="OHH", labels="efs", copies=1, **info):
    """Labelled water molecules on a lattice, with random labels."""
    rng = np.random.default_rng(seed)
    shape = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])[
        ["OHH".index("O") if s == "O" else 1 + order[:i].count("H") for i, s in enumerate(order)]
    ]
    positions = np.concatenate([shape + [0, 0, 3.0 * k] for k in range(copies)])
    # ASE's writer has eight decimals.
    positions = np.round(positions + rng.normal(0, 0.02, positions.shape), 6)
    cell = np.diag([5.0, 6.0, 3.0 * copies + 2]) + np.tril(rng.normal(0, 0.3, (3, 3)), -1) if pbc else None
    atoms = Atoms(order * copies, positions=positions, cell=cell, pbc=pbc)
    atoms.info = {"config_type": "water", **info}
    if "e" in labels:
        atoms.info["REF_energy"] = -10.0 * copies + rng.normal()
    if "f" in labels:
        atoms.arrays["REF_forces"] = np.round(rng.normal(size=(len(atoms), 3)), 6)
    if "s" in labels and pbc:
        atoms.info["REF_stress"] = 0.01 * rng.normal(size=6)
    return atoms


def converted(tmp_path, images, name="data", **options):
    path = tmp_path / f"{name}.xyz"
    if images:
        ase.io.write(path, images)
    options = {"valid_fraction": 0.0, **options}
    folder = tmp_path / name
    return folder, convert(Conversion({"train": [path]}, **options), folder)


def frames_of(folder):
    """What DeePMD-kit reads of a folder."""
    data = DeepmdData(str(folder), type_map=["H", "O"])
    for name, width, atomic in (("energy", 1, False), ("force", 3, True), ("virial", 9, False)):
        data.add(name, width, atomic=atomic, must=False, high_prec=True)
    return [data.get_item_torch(k) for k in range(data.nframes)]


def expected_virial(atoms):
    xx, yy, zz, yz, xz, xy = atoms.info["REF_stress"]
    return -np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]).reshape(9) * atoms.get_volume()


@pytest.mark.parametrize("layout", ["systems", "mixed"])
def test_deepmd_reads_what_was_written(layout, tmp_path):
    """Triclinic cells row by row, forces at their atoms (which are sorted by type if orders differ), virials, several sizes."""
    images = [
        water(k, order=order, copies=n)
        for k, (order, n) in enumerate([("OHH", 1), ("HOH", 1), ("OHH", 2), ("HHO", 1)])
    ]
    folder, _ = converted(tmp_path, images, layout=layout)
    found = [frame for system in find_systems(folder) for frame in frames_of(system)]
    assert len(found) == len(images)
    for atoms in images:
        match = [f for f in found if np.isclose(f["energy"][0], atoms.info["REF_energy"])]
        assert len(match) == 1
        frame = match[0]
        assert all(frame[f"find_{name}"] == 1.0 for name in ("energy", "force", "virial"))
        np.testing.assert_allclose(frame["box"].reshape(3, 3), atoms.cell.array)
        np.testing.assert_allclose(frame["virial"], expected_virial(atoms), rtol=1e-6)
        types, coord, force = frame["atype"], frame["coord"].reshape(-1, 3), frame["force"].reshape(-1, 3)
        for symbol, x, f in zip(atoms.symbols, atoms.positions, atoms.arrays["REF_forces"], strict=True):
            place = int(np.abs(coord - x).sum(axis=1).argmin())
            np.testing.assert_allclose(coord[place], x, rtol=1e-7)
            np.testing.assert_allclose(force[place], f, rtol=1e-6)
            assert ["H", "O"][types[place]] == symbol
        assert (types >= 0).sum() == len(atoms)


def test_dpdata_reads_it_and_reads_for_us(tmp_path):
    images = [water(k) for k in range(4)]
    folder, _ = converted(tmp_path, images)
    system = dpdata.LabeledSystem(str(folder / "train/OH2".replace("OH2", "H2O")), fmt="deepmd/npy")
    assert len(system) == 4
    np.testing.assert_allclose(system["virials"][2].reshape(9), expected_virial(images[2]), rtol=1e-6)
    np.testing.assert_allclose(system["forces"][1], images[1].arrays["REF_forces"])
    system.to("deepmd/raw", tmp_path / "raw")
    again = list(read_frames(tmp_path / "raw", "deepmd/raw"))
    np.testing.assert_allclose(
        np.reshape(again[2].info["REF_virials"], 9), expected_virial(images[2]), rtol=1e-6
    )
    assert LabelReader().read(again[3]).energy == pytest.approx(images[3].info["REF_energy"])


def test_round_trip(tmp_path):
    images = [water(k, pbc=k % 2 == 0, labels="ef" if k == 5 else "efs") for k in range(6)]
    folder, _ = converted(tmp_path, images)
    assert export([folder], tmp_path / "back.xyz") == 6
    back = {atoms.info["REF_energy"]: atoms for atoms in ase.io.read(tmp_path / "back.xyz", ":")}
    for atoms in images:
        other = back[atoms.info["REF_energy"]]
        np.testing.assert_array_equal(other.positions, atoms.positions)
        np.testing.assert_array_equal(other.arrays["REF_forces"], atoms.arrays["REF_forces"])
        np.testing.assert_array_equal(other.pbc, atoms.pbc)
        assert ("REF_stress" in atoms.info) == ("REF_stress" in other.info)
        if "REF_stress" in atoms.info:
            stress = other.info["REF_stress"].reshape(3, 3)
            np.testing.assert_allclose(
                stress[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atoms.info["REF_stress"], rtol=1e-10
            )
    with pytest.raises(ValueError, match="is there already"):
        export([folder], tmp_path / "back.xyz")


@pytest.mark.parametrize("link", [False, True])
def test_an_empty_folder_that_is_there(link, tmp_path, monkeypatch):
    """Keeps its permissions, and a link to it stays one; a file system of its own is refused before anything is read."""
    ase.io.write(tmp_path / "a.xyz", [water(k) for k in range(3)])
    there = tmp_path / "there"
    there.mkdir(mode=0o700)
    output = tmp_path / "link" if link else there
    if link:
        output.symlink_to(there)
    convert(Conversion({"train": [tmp_path / "a.xyz"]}), output)
    assert (there / "report.json").is_file()
    assert there.stat().st_mode & 0o777 == 0o700
    assert output.is_symlink() == link
    monkeypatch.setattr("os.path.ismount", lambda path: True)
    with pytest.raises(DataError, match="Name a folder in it"):
        convert(Conversion({"train": [tmp_path / "a.xyz"]}), tmp_path / "volume")


def test_lmdb(tmp_path):
    images = [water(k, copies=1 + k % 2, labels="ef" if k == 2 else "efs") for k in range(4)]
    folder, _ = converted(tmp_path, images, layout="lmdb")
    assert database_metadata(folder / "train.lmdb")["nframes"] == 4
    reader = LmdbDataReader(str(folder / "train.lmdb"), ["O", "H"])
    for k, atoms in enumerate(images):
        frame = reader[k]
        assert float(frame["energy"][0]) == pytest.approx(atoms.info["REF_energy"])
        np.testing.assert_allclose(frame["force"], atoms.arrays["REF_forces"])
        np.testing.assert_array_equal(frame["atype"], [["O", "H"].index(s) for s in atoms.symbols])
        assert ("virial" in frame) == ("REF_stress" in atoms.info)
    reader.close()
    for frame, atoms in zip(read_frames(folder), images, strict=True):
        np.testing.assert_array_equal(frame.positions, atoms.positions)
    with pytest.raises(
        DataError, match="frame 1 .*has no periodic cell, and DeePMD-kit does not train on databases"
    ):
        converted(tmp_path, [water(1), water(2, pbc=False)], name="free", layout="lmdb")


def test_frames_that_lack_labels(tmp_path):
    """Each set of labels has its folder, nothing is lost, and frames without any are no training data."""
    images = [
        water(k, labels=labels, pbc=pbc)
        for k, (labels, pbc) in enumerate(
            [("efs", True), ("e", True), ("f", True), ("", True), ("ef", False)]
        )
    ]
    folder, report = converted(tmp_path, images)
    names = sorted(str(path.relative_to(folder)) for path in find_systems(folder))
    assert names == ["train/H2O-e", "train/H2O-ef-nopbc", "train/H2O-efv", "train/H2O-f", "unlabelled/H2O"]
    assert (folder / "train/H2O-ef-nopbc/nopbc").exists()
    assert not (folder / "train/H2O-ef-nopbc/set.000/box.npy").exists()
    found = frames_of(folder / "train/H2O-f")
    assert found[0]["find_energy"] == 0.0
    assert found[0]["find_force"] == 1.0
    text = report_text(report, folder)
    assert "Frames without any label, not for training:" in text
    assert json.loads((folder / "report.json").read_text()) == report


def test_isolated_atoms(tmp_path):
    """By name or without cell; the primitive cell of a crystal is none. The file is what `atomic_energies` reads."""
    lone = Atoms("O", positions=[[0, 0, 0]], info={"REF_energy": -5.0, "config_type": "IsolatedAtom"})
    far = Atoms("H", cell=np.eye(3) * 12, pbc=True, info={"REF_energy": -1.0})
    crystal = Atoms("H", cell=np.eye(3) * 2.5, pbc=True, info={"REF_energy": -2.0})
    folder, report = converted(tmp_path, [water(1), lone, far, crystal])
    assert report["isolated_atoms"] == {"O": -5.0, "H": -1.0}
    assert read_atomic_energies(str(folder / "e0.json"), ["H", "O"]) == {"H": -1.0, "O": -5.0}
    assert sum(entry["frames"] for entry in report["parts"]["train"]) == 2
    atoms, notes = IsolatedAtoms(), LabelReader()
    frame = Frame("x", 0, np.array([1]), np.zeros((1, 3)), np.zeros((3, 3)), (False,) * 3)
    assert atoms.take(frame, Labels(energy=-1.0), notes)
    assert atoms.take(frame, Labels(energy=-1.5), notes)
    assert atoms.energies == {"H": -1.5}
    assert "a second energy of isolated H" in next(iter(notes.notes))


@pytest.mark.parametrize(
    ("fparam", "frames", "fate"), [((), 2, "left out"), (("total_charge",), 3, "trained on")]
)
def test_isolated_ions(fparam, frames, fate, tmp_path):
    """The energy of an ion is not E0."""
    atoms = [
        Atoms("O", info={"REF_energy": energy, "config_type": "IsolatedAtom", "charge": charge})
        for energy, charge in ((-6.5, -1), (-5.0, 0))
    ]
    folder, report = converted(tmp_path, [water(1), water(2), *atoms], valid_fraction=0.0, fparam=fparam)
    assert report["isolated_atoms"] == {"O": -5.0}
    assert sum(entry["frames"] for entry in report["parts"]["train"]) == frames
    notes = {note["what"]: note["frames"] for note in report["notes"]}
    assert notes[f"isolated O with charge -1 e: its energy is not E0, {fate}"] == 1


def test_split_is_native(tmp_path):
    for count, fraction, seed in ((50, 0.1, 123), (7, 0.3, 5), (3, 0.01, 1)):
        training, validation = random_train_valid_split(list(range(count)), fraction, seed, str(tmp_path))
        assert split(count, fraction, seed) == (sorted(training), sorted(validation))
    with pytest.raises(ValueError, match="between 0 and 1"):
        split(5, 1.5, 1)
    images = [water(k) for k in range(20)]
    folder, _ = converted(tmp_path, images, valid_fraction=0.2, seed=4)
    energies = {part: np.load(folder / part / "H2O/set.000/energy.npy") for part in ("train", "valid")}
    expected = random_train_valid_split([a.info["REF_energy"] for a in images], 0.2, 4, str(tmp_path))
    for part, values in zip(("train", "valid"), expected, strict=True):
        np.testing.assert_allclose(np.sort(energies[part]), np.sort(values))


def test_given_parts(tmp_path):
    for name, seeds in {"a": (0, 1), "v": (2,), "t": (0, 3)}.items():
        ase.io.write(tmp_path / f"{name}.xyz", [water(k) for k in seeds])
    files = {"train": [tmp_path / "a.xyz"], "valid": [tmp_path / "v.xyz"], "test": [tmp_path / "t.xyz"]}
    report = convert(Conversion(files), tmp_path / "data")
    assert {part: sum(e["frames"] for e in entries) for part, entries in report["parts"].items()} == {
        "train": 2,
        "valid": 1,
        "test": 2,
    }
    doubts = {doubt["what"]: doubt["frames"] for doubt in report["doubts"]}
    assert (
        doubts[
            "validation or test frames that are also training frames: their errors say nothing about new structures"
        ]
        == 1
    )


def test_nothing_is_overwritten(tmp_path):
    ase.io.write(tmp_path / "a.xyz", water())
    job = Conversion({"train": [tmp_path / "a.xyz"]})
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mine").write_text("good")
    with pytest.raises(DataError, match="is there already"):
        convert(job, tmp_path / "data")
    (tmp_path / "a.xyz").write_text("3\n")
    with pytest.raises(DataError, match="ends after 0 of 3 atoms"):
        convert(job, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.xyz",
        "data",
    ]  # neither half a folder nor a spool


def rows(*images):
    return [
        Frame("x", k, np.array([8, 1, 1]), a.positions, a.cell.array, tuple(a.pbc))
        for k, a in enumerate(images)
    ]


def test_doubtful_frames(tmp_path):
    """Duplicates, contradictions, atoms on top of each other, forces and stress in another unit: found, and left out if asked."""
    other = water(1)
    other.info["REF_energy"] += 1.0
    close, strong, stressed = water(5), water(6), water(7)
    close.positions[1] = close.positions[0] + [0.1, 0, 0]
    strong.arrays["REF_forces"] *= 1000
    stressed.info["REF_stress"] = stressed.info["REF_stress"] * 160 * 10
    images = [water(1), water(2), other, water(2), close, strong, stressed]
    folder, report = converted(tmp_path, images)
    doubts = {doubt["what"].partition(":")[0]: doubt for doubt in report["doubts"]}
    assert doubts["the same structure as another frame"]["frames"] == 2
    assert doubts["the same structure with another energy"]["frames"] == 1
    assert "frame 4" in doubts["atoms closer than 0.5 Å"]["examples"][0]
    assert "frame 5" in doubts["forces above 200 eV/Å"]["examples"][0]
    assert "frame 6" in doubts["stress above 1 eV/Å³ (160 GPa)"]["examples"][0]
    assert sum(e["frames"] for e in report["parts"]["train"]) == 7
    assert "Doubtful: atoms closer than 0.5 Å (1 frames)" in report_text(report, folder)
    folder, report = converted(
        tmp_path, images, name="b", drop=frozenset({"duplicates", "overlaps", "forces"})
    )
    assert sum(e["frames"] for e in report["parts"]["train"]) == 3
    assert report["dropped"] == {"duplicates": 2, "overlaps": 1, "forces": 1}


@pytest.mark.parametrize(
    ("factor", "words"), [(1.0, None), (1000.0, "energies in meV"), (1 / 3, "per atom"), (1000 / 3, "per atom in meV"), (-1.0, "wrong sign")]
)  # fmt: skip
def test_units_of_a_trajectory(factor, words):
    """Of a harmonic molecule, whose energies and forces are known."""
    rng, inspector = np.random.default_rng(0), Inspector()
    x = np.zeros((3, 3))
    for k in range(60):
        x = x + rng.normal(0, 0.05, (3, 3))
        frame = Frame(
            "x", k, np.array([8, 1, 1]), x + np.arange(3)[:, None] * 2, np.zeros((3, 3)), (False,) * 3
        )
        inspector.inspect(frame, Labels(energy=factor * 2.0 * (x**2).sum() - 50 * factor, forces=-4.0 * x))
    sentences = [doubt.sentence for doubt in inspector.conclude()]
    assert (sentences == []) if words is None else any(words in sentence for sentence in sentences)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1.0, None),
        (1000 / 60, "per atom in meV"),
        (1 / 60, "per atom instead"),
        (22.0, "energies per atom in meV? energies in kcal/mol?"),
    ],
)
def test_units_of_displaced_crystals(factor, words):
    """Of one composition and in no order: anharmonic, sixty atoms, no two frames follow each other. Two units may be as likely."""
    rng, inspector = np.random.default_rng(0), Inspector()
    sites, numbers, cell = rng.uniform(0, 9, (60, 3)), np.full(60, 42), np.eye(3) * 9.0
    for k in range(60):
        x = rng.normal(0, 0.08, (60, 3))
        energy = (5.0 * x**2 - 8.0 * x**3).sum() - 600
        frame = Frame("x", k, numbers, sites + x, cell, (True,) * 3)
        inspector.inspect(frame, Labels(energy=factor * energy, forces=-10.0 * x + 24.0 * x**2))
    sentences = [doubt.sentence for doubt in inspector.conclude()]
    assert (sentences == []) if words is None else any(words in sentence for sentence in sentences)


@pytest.mark.parametrize(("factor", "found"), [(1.0, False), (1000.0, True), (1e-3, True)])
def test_units_without_a_trajectory(factor, found):
    """Of harmonic molecules far from each other: their energies scatter as their forces make them, in any unit but eV not."""
    rng, inspector = np.random.default_rng(0), Inspector()
    for k in range(60):
        x = rng.normal(0, 0.1, (3, 3))
        frame = Frame(
            "x",
            k,
            np.array([8, 1, 1]),
            x + np.arange(3)[:, None] * 2 + 5 * k,
            np.zeros((3, 3)),
            (False,) * 3,
        )
        inspector.inspect(frame, Labels(energy=factor * (20.0 * (x**2).sum() - 50), forces=-40.0 * x))
    sentences = [doubt.sentence for doubt in inspector.conclude()]
    assert bool(sentences) == found
    assert not found or any("energies of one composition scatter" in sentence for sentence in sentences)


def test_energies_of_atoms_with_all_electrons():
    """Against Hartree-Fock, and total energies of density functionals for atoms (isolated atoms of AcAc and 3BPA), eV."""
    for number, energy in (
        (6, -1027.0),
        (7, -1481.0),
        (8, -2038.0),
        (18, -526.8 * 27.211),
        (79, -17865.0 * 27.211),
    ):
        assert all_electron_energy(np.array([number])) == pytest.approx(energy, rel=0.02), number


@pytest.mark.parametrize(("unit", "found"), [(1.0, False), (1000.0 / 192, True), (23.06, True)])
def test_energies_that_no_atoms_have(unit, found, tmp_path):
    """A liquid of one composition, whose energies are those of a pseudopotential, in meV per atom; of all electrons in kcal/mol."""
    rng = np.random.default_rng(2)
    images = []
    for _ in range(3):
        atoms = Atoms("OH2" * 64, rng.uniform(0, 12.4, (192, 3)), cell=np.eye(3) * 12.4, pbc=True)
        energy = (-466.0 if unit < 10 else -2075.0) * 64
        atoms.info["REF_energy"] = energy * unit
        atoms.arrays["REF_forces"] = rng.normal(0, 1, (192, 3))
        images.append(atoms)
    _, report = converted(tmp_path, images)
    doubts = [doubt["what"] for doubt in report["doubts"] if "all their electrons" in doubt["what"]]
    assert bool(doubts) == found


def test_energies_per_atom_of_several_sizes():
    inspector = Inspector()
    for k, natoms in enumerate((3, 6, 30, 60)):
        numbers = np.full(natoms, 8)
        frame = Frame(
            "x", k, numbers, np.arange(3.0 * natoms).reshape(-1, 3) * 2, np.zeros((3, 3)), (False,) * 3
        )
        inspector.inspect(frame, Labels(energy=-4.0 + 0.01 * k))
    assert "do not grow with the number of atoms" in inspector.conclude()[0].sentence


def test_mixed_periodicity(tmp_path):
    """Refused with the reason, skipped, or given a vacuum, along which nothing changes."""
    slab = water(3)
    slab.pbc = [True, True, False]
    with pytest.raises(DataError, match=r'frame 1 .*some directions only \(pbc="T T F"\)'):
        converted(tmp_path, [water(1), slab])
    _, report = converted(tmp_path, [water(1), slab], name="skipped", mixed_pbc="skip")
    assert sum(e["frames"] for e in report["parts"]["train"]) == 1
    folder, _ = converted(tmp_path, [slab], name="vacuum", mixed_pbc="vacuum")
    frame = frames_of(folder / "train/H2O")[0]
    box = frame["box"].reshape(3, 3)
    np.testing.assert_allclose(box[:2], slab.cell.array[:2], rtol=1e-6)
    assert np.abs(box[:2] @ box[2]).max() < 1e-4
    assert np.linalg.norm(box[2]) >= 15
    np.testing.assert_allclose(frame["virial"], expected_virial(slab), rtol=1e-6)  # of the file's volume
    wire = rows(slab)[0]
    wire.pbc, wire.cell = (False, True, False), np.diag([0.0, 4.0, 0.0])
    grown = whole_periodicity(wire, "vacuum", LabelReader())
    np.testing.assert_allclose(np.abs(grown.cell @ [0, 1, 0]), [0, 4, 0], atol=1e-12)
    assert abs(np.linalg.det(grown.cell)) > 4 * 15 * 15


def test_cells(tmp_path):
    """A left-handed cell becomes the same lattice right-handed; none where one is needed is refused."""
    left = water(3)
    left.set_cell(left.cell.array[[1, 0, 2]])
    folder, report = converted(tmp_path, [left])
    box = frames_of(folder / "train/H2O")[0]["box"].reshape(3, 3)
    np.testing.assert_allclose(box, left.cell.array[[0, 2, 1]], rtol=1e-6)
    assert np.linalg.det(box) > 0
    assert "left-handed" in report["notes"][0]["what"]
    (tmp_path / "none.xyz").write_text(
        '1\nProperties=species:S:1:pos:R:3 REF_energy=1 pbc="T T T" config_type=x\nO 0 0 0\n'
    )
    with pytest.raises(DataError, match="periodic, but its cell has no volume"):
        convert(Conversion({"train": [tmp_path / "none.xyz"]}), tmp_path / "none")


def test_config_types(tmp_path):
    images = [water(k, config_type=kind) for k, kind in enumerate(["bulk", "bulk", "a/b"])]
    folder, report = converted(tmp_path, images, by_config_type=True)
    assert report["config_types"] == {"bulk": 2, "a/b": 1}
    assert {path.name for path in find_systems(folder)} == {"H2O-bulk", "H2O-a_b"}


def test_labels_under_other_names(tmp_path):
    """Renamed energies and forces beside a usual stress: there is something to train on, but it is not what was meant."""
    images = [water(k) for k in range(2)]
    for atoms in images:
        atoms.info["dft_e"] = atoms.info.pop("REF_energy")
        atoms.arrays["dft_f"] = atoms.arrays.pop("REF_forces")
    folder, report = converted(tmp_path, images)
    text = report_text(report, folder)
    assert "Doubtful: no frame has energy;" in text
    assert "--energy-key\n    not read, and of the shape of energy: dft_e\n" in text
    assert "--forces-key\n    not read, and of the shape of forces: dft_f\n" in text
    assert not converted(tmp_path, [water()], name="sound")[1]["doubts"]


BAD = {
    "no labels": ("3\ndft_energy=-1.0\nO 0 0 0\nH 1 0 0\nH 0 1 0\n", "no frame has a label.*The files have dft_energy.*--energy-key"),
    "only atoms": ("1\nREF_energy=-1.0 config_type=IsolatedAtom\nO 0 0 0\n", "only isolated atoms"),
    "empty": ("", "is empty"),
    "lines": ("\n\n", "has no frames"),
    "nan": ("2\nREF_energy=-1.0\nO 0 0 0\nH nan 0 0\n", "not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    text, words = BAD[name]
    (tmp_path / "data.xyz").write_text(text)
    with pytest.raises(DataError, match=f"data.xyz.*{words}"):
        converted(tmp_path, [])


def test_files_that_nobody_reads(tmp_path):
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(DataError, match="notes.txt: cannot be read .ASE: .*dpdata: .*--format"):
        list(read_frames(tmp_path / "notes.txt"))
    with pytest.raises(DataError, match="no such file"):
        list(read_frames(tmp_path / "nothing"))
    with pytest.raises(DataError, match="ASE cannot read it as vasp"):
        list(read_frames(tmp_path / "notes.txt", "vasp"))


def test_wrong_type_map(tmp_path):
    with pytest.raises(ValueError, match="--type-map O lacks H"):
        converted(tmp_path, [water()], type_map=["O"])
    folder, report = converted(tmp_path, [water()], name="b", type_map=["O", "H", "C"])
    assert (folder / "train/OH2/type_map.raw").read_text().split() == report["type_map"] == ["O", "H", "C"]


def test_sizes_share_folders_up_to_twice(tmp_path):
    spool = Spool(tmp_path)
    records = []
    for natoms in (2, 3, 4, 5, 30):
        frame = Frame("x", 0, np.full(natoms, 8), np.zeros((natoms, 3)), np.eye(3), (True,) * 3)
        records.append(spool.add(frame, Labels(energy=1.0), "Default"))
    groups = make_groups(records, ["O"], "auto")
    spool.close()
    assert [(group.name, len(group.records)) for group in groups] == [
        ("mixed-2to4", 3),
        ("mixed-5", 1),
        ("mixed-30", 1),
    ]


def test_one_mixed_folder_makes_all_mixed(tmp_path):
    """DeePMD-kit refuses a part in which only some folders have mixed types; a part of single compositions stays simple."""
    images = [water(1), water(2, copies=2), water(3, labels="e"), water(4, pbc=False)]
    folder, _ = converted(tmp_path, images)
    systems = find_systems(folder)
    assert len(systems) == 3
    assert all((system / "set.000/real_atom_types.npy").exists() for system in systems)
    assert DeepmdDataSystem([str(system) for system in systems], 1, 1, type_map=["H", "O"]).mixed_type
    folder, _ = converted(tmp_path, [images[0], images[2], images[3]], name="alike")
    assert not list(folder.rglob("real_atom_types.npy"))


def test_charge_and_spin(tmp_path):
    """Written as fparam in the order asked for; equal structures of other charge are no duplicates; and read back."""
    lines = []
    for info in ("charge=-1 spin=2", "total_charge=1", "Q=3"):
        lines += ["2", f"{info} energy=-1.5 Properties=species:S:1:pos:R:3", "O 0 0 0", "H 0 0 0.97"]
    path = tmp_path / "ions.xyz"
    path.write_text("\n".join(lines) + "\n")
    job = Conversion({"train": [path]}, valid_fraction=0.0, fparam=("total_spin", "total_charge"))
    report = convert(job, tmp_path / "data")
    folder = next((tmp_path / "data/train").iterdir())
    assert np.load(folder / "set.000/fparam.npy").tolist() == [[2.0, -1.0], [1.0, 1.0], [1.0, 0.0]]
    assert json.loads((folder.parent.parent / "fparam.json").read_text()) == ["total_spin", "total_charge"]
    assert not report["doubts"]
    notes = {note["what"]: note["frames"] for note in report["notes"]}
    assert notes["no total_spin or spin: 1 is taken"] == 2
    assert [frame.info["fparam"].tolist() for frame in read_systems(folder)] == [[2.0, -1.0], [1.0, 1.0], [1.0, 0.0]]  # fmt: skip
    with pytest.raises(DataError, match="frame 0 .*has no Q, which --fparam asks for"):
        convert(Conversion({"train": [path]}, fparam=("Q",)), tmp_path / "none")
    with pytest.raises(DataError, match="not with --layout lmdb"):
        convert(Conversion({"train": [path]}, layout="lmdb", fparam=("total_charge",)), tmp_path / "none")


# --- damaged folders ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("coord", np.array([{}]), "coord.npy: is no whole array of numbers"),
        ("coord", np.ones((1, 6)) + 1j, "coord.npy: is of type complex128"),
        ("box", np.array([["9"] * 9]), "box.npy: is of type <U1"),
        ("energy", None, "energy.npy: is no whole array of numbers"),
        ("real_atom_types", np.array([[0, 0.5]]), r"frame 0 has the type 0\.5"),
        ("real_atom_types", np.array([[0, -2]]), "frame 0 has the type -2"),
        ("real_atom_types", np.array([[0, np.nan]]), "frame 0 has the type nan"),
    ],
)
def test_arrays_that_are_no_numbers(name, content, words, tmp_path):
    """Pickled objects, other kinds, an interrupted copy, types that a cast would change: refused by file."""
    part = tmp_path / "set.000"
    part.mkdir()
    (tmp_path / "type.raw").write_text("0\n0\n")
    (tmp_path / "type_map.raw").write_text("O\n")
    for array, width in (("coord", 6), ("box", 9), ("energy", 1)):
        np.save(part / f"{array}.npy", np.arange(1.0, width + 1)[None])
    assert len(list(read_systems(tmp_path))) == 1
    if content is None:
        whole = part / f"{name}.npy"
        whole.write_bytes(whole.read_bytes()[:-3])
    else:
        np.save(part / f"{name}.npy", content, allow_pickle=True)
    with pytest.raises(DataError, match=words):
        list(read_systems(tmp_path))
