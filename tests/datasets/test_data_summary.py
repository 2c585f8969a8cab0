"""What an input depends on: read from folders and databases."""

import json

import numpy as np
import pytest
from training_data import composition_frames, write_lmdb, write_mixed_system, write_system

from deepmd_gnn.datasets.frames import DataError
from deepmd_gnn.datasets.summary import summarise_folder


def test_parts_of_a_folder(tmp_path):
    write_system(tmp_path / "train/a", composition_frames(5, 4, 1))
    write_system(tmp_path / "train/b", composition_frames(8, 2, 2), periodic=False)
    write_mixed_system(tmp_path / "valid/m", [*composition_frames(5, 2, 3), *composition_frames(8, 1, 4)])
    (tmp_path / "e0.json").write_text(json.dumps({"O": -5.0}))
    data = summarise_folder(tmp_path)
    assert data.train.systems == [str(tmp_path / "train/a"), str(tmp_path / "train/b")]
    assert (data.train.frames, data.train.nsystems, data.train.periodic) == (6, 2, 4)
    assert data.train.labels == {"energy": 6, "force": 6, "virial": 4}
    assert data.train.mean_size == 6
    box = np.load(tmp_path / "train/a/set.000/box.npy")
    assert data.train.volume_per_atom == pytest.approx(abs(np.linalg.det(box[0].reshape(3, 3))) / 5)
    assert data.valid.frames == 3
    assert sorted(set(data.valid.sizes)) == [5, 8]
    assert data.test is None
    assert data.e0 == tmp_path / "e0.json"


def test_energies_that_compositions_leave_open(tmp_path):
    write_system(tmp_path / "a", composition_frames(5, 2, 1))
    assert summarise_folder(tmp_path).train.undetermined() == 1
    write_system(tmp_path / "b", composition_frames(8, 2, 400))
    assert summarise_folder(tmp_path).train.undetermined() == 0


def test_database(tmp_path):
    write_lmdb(tmp_path / "train.lmdb", composition_frames(5, 3, 1), ["O", "H"])
    part = summarise_folder(tmp_path).train
    assert part.is_database
    assert (part.systems, part.frames, part.type_map) == (str(tmp_path / "train.lmdb"), 3, ["O", "H"])


def test_what_is_no_data(tmp_path):
    with pytest.raises(DataError, match="no such folder. `deepmd-gnn data FILE"):
        summarise_folder(tmp_path / "nothing")
    with pytest.raises(DataError, match="has no training data"):
        summarise_folder(tmp_path)
    write_system(tmp_path / "train", composition_frames(5, 3, 1))
    np.save(tmp_path / "train/set.000/energy.npy", np.zeros(2))
    with pytest.raises(DataError, match=r"energy.npy: has the shape \(2,\) instead of \(3, …\)"):
        summarise_folder(tmp_path)
