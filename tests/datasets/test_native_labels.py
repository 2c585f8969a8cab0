"""Labels against native MACE's loader and against derivatives of an independent calculator."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from mace.data import AtomicData, KeySpecification, load_from_xyz
from mace.tools import AtomicNumberTable
from mace.tools.default_keys import DefaultKeys
from native_models import default_dtype

from deepmd_gnn.datasets.extxyz import read_extxyz
from deepmd_gnn.datasets.frames import DataError, frame_from_atoms
from deepmd_gnn.datasets.labels import DEFAULT_KEYS, LabelReader
from deepmd_gnn.datasets.sources import read_frames


def labelled(stress_shape, key="REF_stress", seed=0):
    rng = np.random.default_rng(seed)
    cell = np.diag([5.0, 6.0, 7.0]) + rng.normal(size=(3, 3)) * 0.5
    atoms = Atoms("OH2", positions=rng.normal(size=(3, 3)), cell=cell, pbc=True)
    xx, yy, zz, yz, xz, xy = voigt = rng.normal(size=6)
    matrix = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    value = {(6,): voigt, (9,): matrix.reshape(9), (3, 3): matrix}[stress_shape]
    atoms.info |= {"REF_energy": rng.normal(), key: value}
    atoms.arrays["REF_forces"] = rng.normal(size=(3, 3))
    return atoms


def native(path, **keys):
    """Energy, forces, stress and virials as native MACE trains on them."""
    names = {**DefaultKeys.keydict(), **keys}
    infos = {
        k.removesuffix("_key"): v
        for k, v in names.items()
        if k.split("_key")[0] in ("energy", "stress", "virials", "head")
    }
    spec = KeySpecification(info_keys=infos, arrays_keys={"forces": names["forces_key"]})
    _, configs = load_from_xyz(str(path), spec)
    with default_dtype():
        table = AtomicNumberTable([1, 8])
        data = [AtomicData.from_config(one, z_table=table, cutoff=3.0) for one in configs]
    return [{k: getattr(d, k).numpy() for k in ("energy", "forces", "stress", "virials")} for d in data]


@pytest.mark.parametrize("shape", [(6,), (9,), (3, 3)])
def test_stress_as_native_reads_it(shape, tmp_path):
    path = tmp_path / "x.xyz"
    ase.io.write(path, [labelled(shape, seed=k) for k in range(3)])
    for frame, expected in zip(read_extxyz(path), native(path), strict=True):
        labels = LabelReader().read(frame)
        volume = np.linalg.det(frame.cell)
        np.testing.assert_allclose(labels.virial, -expected["stress"][0] * volume, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(labels.energy, expected["energy"], rtol=1e-12)
        np.testing.assert_allclose(labels.forces, expected["forces"], rtol=1e-12)


@pytest.mark.parametrize("shape", [(6,), (3, 3)])
def test_virials_as_native_reads_them(shape, tmp_path):
    path = tmp_path / "x.xyz"
    ase.io.write(path, labelled(shape, "REF_virials"))
    labels = LabelReader().read(next(read_extxyz(path)))
    np.testing.assert_allclose(labels.virial, native(path)[0]["virials"][0], rtol=1e-12)


def test_renamed_keys_as_native(tmp_path):
    path = tmp_path / "x.xyz"
    atoms = labelled((6,))
    atoms.info["dft_energy"] = atoms.info.pop("REF_energy")
    atoms.arrays["dft_forces"] = atoms.arrays.pop("REF_forces")
    ase.io.write(path, atoms)
    expected = native(path, energy_key="dft_energy", forces_key="dft_forces")[0]
    reader = LabelReader({**DEFAULT_KEYS, "energy": ("dft_energy",), "forces": ("dft_forces",)})
    labels = reader.read(next(read_extxyz(path)))
    assert labels.names == ("energy", "force", "virial")  # REF_stress is not lost
    assert labels.energy == pytest.approx(expected["energy"].item())


def test_sign_and_unit_by_differences(tmp_path):
    """The virial is −dE/dε: by differences of energies of ASE's EMT, through a file that ASE writes."""
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=1)
    atoms.set_cell(
        atoms.cell @ (np.eye(3) + [[0.02, 0.01, 0], [0, 0.01, 0.03], [0, 0, -0.02]]), scale_atoms=True
    )
    atoms.calc = EMT()
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress(),
    }

    def energy(strain):
        other = atoms.copy()
        other.set_cell(atoms.cell @ (np.eye(3) + strain).T, scale_atoms=True)
        other.calc = EMT()
        return other.get_potential_energy()

    expected = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            strain = np.zeros((3, 3))
            strain[a, b] = 1e-5
            expected[a, b] = -(energy(strain) - energy(-strain)) / 2e-5
    atoms.calc = SinglePointCalculator(atoms, **results)
    path = tmp_path / "x.xyz"
    ase.io.write(path, atoms)  # energy, forces and stress of a calculator
    ours = [LabelReader().read(next(read_frames(path))), LabelReader().read(frame_from_atoms(atoms, "x", 0))]
    for labels in ours:
        np.testing.assert_allclose(labels.virial, expected, atol=1e-5 * np.abs(expected).max())
        np.testing.assert_allclose(labels.forces, results["forces"], atol=1e-8)


def frame(**info):
    atoms = labelled((6,))
    atoms.info = {"REF_energy": 1.0, **info}
    return frame_from_atoms(atoms, "file.xyz", 3)


WRONG = {
    "energy": ({"REF_energy": np.array([1.0, 2.0])}, r"REF_energy has the shape \(2,\), but must be one number"),
    "word": ({"REF_energy": "low"}, "REF_energy is 'low'"),
    "stress": ({"REF_stress": np.zeros(5)}, r"REF_stress has the shape \(5,\), but must be six or nine numbers"),
    "forces": ({"forces": np.zeros(1)}, r"forces has the shape \(1,\), but must be three numbers .* each of the 3 atoms"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_named(name):
    info, words = WRONG[name]
    bad = frame(**info)
    if name == "forces":
        bad.arrays.clear()
    with pytest.raises(DataError, match=rf"file.xyz, frame 3 \(counted from 0\): {words}"):
        LabelReader().read(bad)


def test_what_is_not_used_is_said():
    reader = LabelReader()
    labels = reader.read(
        frame(REF_energy=np.nan, config_weight=2.0, REF_stress=np.ones(6), virials=np.ones(9), dft_energy=3.0)
    )
    assert labels.names == ("force", "virial")
    notes = " ".join(reader.notes)
    assert "REF_energy is not finite" in notes
    assert "config_weight other than 0 and 1 is not used" in notes
    assert "virials and stress disagree" in notes
    assert reader.unused == {"dft_energy": 1}
    labels = LabelReader().read(frame(config_forces_weight=0.0))
    assert labels.names == ("energy",)


def test_stress_without_cell():
    reader, free = LabelReader(), frame(REF_stress=np.ones(6))
    free.pbc = (False, False, False)
    assert "virial" not in reader.read(free).names
    assert "stress of a frame without periodic cell: left out" in reader.notes
    assert torch.get_default_dtype() == torch.float32  # native's loader was asked in float64
