"""Sums over neighbours in stages: what is prepared when a network is built."""

import torch

from deepmd_gnn.nn.convolution import Convolution
from deepmd_gnn.nn.staged_network import StagedNetwork
from deepmd_gnn.nn.stages import TabulatedSums, in_pieces, new_stages


def test_coefficients_follow_the_order_of_degrees():
    """The coefficients of sums by degree are those of sums path by path, in another order."""
    torch.manual_seed(0)
    degrees = [(0, 1), (1, 4), (0, 1), (1, 4)]
    sums = TabulatedSums([1, 3], [0, 0, 1, 1], degrees, torch.arange(16.0).view(1, -1))
    assert sums.degrees == [(0, 1), (1, 4)]
    assert sums.heights == [4, 4]
    # Path by path: 1, then 3 harmonics, then 3 components, then 3 harmonics times 3 components.
    expected = [0, 4, 5, 6, 1, 7, 8, 9, 2, 10, 11, 12, 3, 13, 14, 15]
    assert sums.mixing.value[0].tolist() == expected


def test_pieces_and_lists():
    vectors = torch.arange(5000 * 3.0).view(-1, 3)
    assert torch.equal(torch.cat(in_pieces(vectors)), vectors)
    assert max(len(piece) for piece in in_pieces(vectors)) % 2 == 0  # see `matmul`
    assert new_stages().sums is not new_stages().sums


def test_networks_begin_without_tables():
    assert issubclass(Convolution, torch.nn.Module)
    assert not StagedNetwork().tabulated()
