"""What a network computes of a graph before its layers."""

import torch

from deepmd_gnn.nn.inputs import EdgeVectors, Elements


def test_vectors_point_to_the_receiver():
    vectors, lengths = EdgeVectors()(torch.tensor([[3.0, 0.0, -4.0]], dtype=torch.float64))
    assert vectors.tolist() == [[-3.0, 0.0, 4.0]]
    assert lengths.tolist() == [[5.0]]


def test_elements():
    found = Elements(3, torch.float32)(torch.tensor([1, 0]))
    assert found.dtype == torch.float32
    assert found.tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
