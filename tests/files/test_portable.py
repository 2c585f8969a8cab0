"""Plain data of portable files: HDF5 gives arrays without axes back as numbers."""

import numpy as np

from deepmd_gnn.files.portable import whole_file_with_arrays, with_arrays


def test_numbers_become_arrays():
    data = {"@variables": {"scale": 2.0, "w": np.ones(3)}, "type": "toy"}
    found = with_arrays(data)
    assert found["@variables"]["scale"].shape == ()
    assert found["@variables"]["w"] is data["@variables"]["w"]
    assert isinstance(data["@variables"]["scale"], float)
    assert with_arrays({"type": "toy"}) == {"type": "toy"}


def test_the_hosts_own_numbers_too():
    """The smallest distance of the data, which stands beside the model; models of the host are its business."""
    number = np.float64(0.9)
    ours = {
        "model": {"type": "mace", "@variables": {"scale": number}},
        "@variables": {"min_nbor_dist": number},
    }
    found = whole_file_with_arrays(ours)
    for variables in (found["@variables"], found["model"]["@variables"]):
        assert all(isinstance(value, np.ndarray) for value in variables.values())
    theirs = {"model": {"type": "standard"}, "@variables": {"min_nbor_dist": number}}
    assert whole_file_with_arrays(theirs) is theirs
