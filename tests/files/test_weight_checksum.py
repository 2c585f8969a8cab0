"""The checksum of weights: the same by all names, another for other numbers."""

import torch

from deepmd_gnn.files.weight_checksum import weight_checksum


def test_what_counts():
    tensors = {
        "energy_model.readouts.0.linear.weight": torch.ones(3),
        "energy_model.scale": torch.tensor(2.0),
        "out_bias": torch.zeros(1, 2, 1),
    }
    stored = {name.replace("energy_model", "fitting_net"): value for name, value in tensors.items()}
    first = weight_checksum(tensors)
    constants = {"energy_model.steps.0.value": torch.ones(2), "min_nbor_dist": torch.ones(()), "uncertainty.factor": torch.ones(2, 2)}  # fmt: skip
    assert weight_checksum(dict(reversed(list(stored.items())))) == first
    assert weight_checksum({**tensors, **constants}) == first
    for name, value in tensors.items():
        assert weight_checksum({**tensors, name: value + 1e-6}) != first
    assert weight_checksum({**tensors, "out_bias": torch.zeros(2)}) != first
