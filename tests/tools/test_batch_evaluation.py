"""Models on the frames of a file: native's numbers, in the order of the file, and their errors."""

import ase.io
import numpy as np
import pytest
from documented import ROOT
from tolerances import IMPORTED

from deepmd_gnn import convert
from deepmd_gnn.commands.evaluate import _put
from deepmd_gnn.datasets.extxyz import read_extxyz, write_extxyz
from deepmd_gnn.datasets.frames import DataError, Frame
from deepmd_gnn.datasets.labels import Labels, full_matrix
from deepmd_gnn.tools.batch_evaluation import BatchEvaluation, Prediction, invariants
from deepmd_gnn.tools.errors import ErrorTable, system_name
from deepmd_gnn.tools.evaluated_files import read_evaluated
from deepmd_gnn.tools.evaluation import load_potential

DATA = ROOT / "tests/data"


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    path = tmp_path_factory.mktemp("native") / "a.pt"
    convert(str(DATA / "v0.3.6_mace02_com1_swa.model"), str(path))
    return load_potential(path)


def test_as_native_evaluates(potential):
    """Energies, forces and stress of MACECalculator, stored beside the structures; batches change nothing."""
    expected = np.load(DATA / "v0.3.6_mace02_com1_swa.ref.npz")
    frames = list(read_extxyz(DATA / "ref_structures.extxyz"))
    found = list(BatchEvaluation([potential], frames=3)(frames))
    assert [frame.index for frame, _ in found] == list(range(len(frames)))
    for frame, prediction in found:
        _put(frame, prediction, "MACE_", None)
        k = frame.index
        assert prediction.energy == pytest.approx(float(expected[f"{k}/energy"]), abs=IMPORTED["energy"])
        assert np.abs(prediction.forces - expected[f"{k}/forces"]).max() < IMPORTED["force"]
        if f"{k}/stress" in expected:
            full = full_matrix(expected[f"{k}/stress"]).reshape(9)
            assert np.abs(frame.info["MACE_stress"] - full).max() < IMPORTED["stress"]


class Shifted:
    """A model whose numbers are known: energies and forces of `shift`."""

    def __init__(self, shift):
        self.shift = shift

    def get_type_map(self):
        return ["O", "H"]

    def eval(self, coord, cells, types, atomic):
        count, natoms = len(coord), len(types)
        energy = self.shift * coord.sum(axis=1, keepdims=True)
        force = np.full((count, natoms, 3), self.shift)
        virial = np.full((count, 9), self.shift)
        return (energy, force, virial, energy, virial) if atomic else (energy, force, virial)


def frames(count, natoms=2, periodic=False):
    rng = np.random.default_rng(count)
    cell = np.eye(3) * 9.0 * periodic
    return [Frame("x", k, np.array([8, 1] * natoms)[: natoms + k % 2], rng.random((natoms + k % 2, 3)), cell, (periodic,) * 3) for k in range(count)]  # fmt: skip


def test_order_and_committee():
    """Frames of two sizes in batches of two, evaluated together and given back in order; population deviations."""
    given = frames(9)
    found = list(BatchEvaluation([Shifted(1.0), Shifted(3.0)], frames=2)(iter(given)))
    assert [id(frame) for frame, _ in found] == [id(frame) for frame in given]
    for frame, prediction in found:
        total = frame.positions.sum()
        assert prediction.energy == pytest.approx(2 * total)
        assert prediction.energy_deviation == pytest.approx(total / frame.natoms)
        np.testing.assert_allclose(prediction.forces, 2.0)
        np.testing.assert_allclose(prediction.force_deviation, 3**0.5)
        assert prediction.virial is None


def test_frames_that_cannot_be_evaluated():
    slab = frames(1, periodic=True)[0]
    slab.pbc = (True, True, False)
    with pytest.raises(DataError, match="some directions only"):
        list(BatchEvaluation([Shifted(1.0)])([slab]))
    assert next(BatchEvaluation([Shifted(1.0)], mixed_pbc="skip")([slab]))[1] is None
    slab.numbers = np.array([6, 1])
    with pytest.raises(DataError, match="has atoms of C, but the model knows only O, H"):
        list(BatchEvaluation([Shifted(1.0)], mixed_pbc="vacuum")([slab]))


def test_invariants():
    """Scalars are the first columns of each layer; the last layer may have no others."""
    features = np.arange(10.0)[None]
    np.testing.assert_array_equal(invariants(features, "2x0e + 2x1o", 2), [[0, 1, 8, 9]])


def test_errors_by_system_and_element(tmp_path):
    table = ErrorTable()
    for frame, shift in zip(frames(4, periodic=True), (1.0, 1.0, 3.0, 3.0), strict=True):
        frame.info["config_type"] = "a" if frame.index < 2 else "b"
        zero = np.zeros((frame.natoms, 3))
        forces = zero + np.where(frame.numbers == 8, shift, 0.0)[:, None]
        labels = Labels(energy=0.0, forces=zero, virial=np.zeros((3, 3)))
        table.add(frame, labels, shift * frame.natoms, forces, np.full((3, 3), shift * 729))
    found = table.to_dict()
    assert found["system"]["a"]["energy"]["rmse"] == pytest.approx(1.0)
    assert found["system"]["b"]["stress"]["mae"] == pytest.approx(3.0)
    assert found["element"]["H"]["forces"]["rmse"] == 0.0
    assert found["element"]["O"]["forces"]["rmse"] == pytest.approx(5**0.5, rel=0.05)
    assert found["all"]["energy"] == {"rmse": pytest.approx(5**0.5), "mae": 2.0, "count": 4}
    lines = table.text().splitlines()
    assert [line.split()[0] for line in lines] == ["RMSE", "a", "b", "O", "H", "all"] or [
        line.split()[0] for line in lines
    ] == ["RMSE", "a", "b", "H", "O", "all"]
    assert lines[-1].split()[:2] == ["all", "4"]
    assert ErrorTable().text() == ""


def test_evaluated_files(tmp_path):
    """Series by system and by element; compositions where there is no config_type."""
    path = tmp_path / "out.xyz"
    given = frames(4, periodic=True)
    for frame in given:
        frame.info |= {"REF_energy": 2.0 * frame.natoms, "REF_virials": np.ones(9)}
        frame.arrays["REF_forces"] = frame.positions * 2
        _put(frame, Prediction(3.0 * frame.natoms, frame.positions, np.eye(3)), "MACE_", None)
    with path.open("w") as file:
        write_extxyz(file, given)
    assert len(ase.io.read(path, ":")) == 4
    series = read_evaluated(path)
    assert {one.name for one in series["energy"]} == {"HO", "HO2"} == {system_name(frame) for frame in given}
    np.testing.assert_allclose(series["energy"][0].prediction, 3.0)
    np.testing.assert_allclose(series["virial"][0].prediction[0], np.eye(3).reshape(9) / 2, atol=1e-12)
    series = read_evaluated(path, "element")
    assert [one.name for one in series["force"]] == ["H", "O"]
    assert sum(len(one.reference) for one in series["force"]) == sum(frame.natoms for frame in given)
    with pytest.raises(DataError, match="has no DP_energy"):
        read_evaluated(path, prefix="DP_")
