"""Options as they are kept beside weights: one spelling for equal models."""

from deepmd_gnn.config.described import OPTION_TENSORS, options_of
from deepmd_gnn.config.mace import MaceConfig


def described(pairs=(), atoms=(), **options):
    return options_of(MaceConfig(**options), ["O", "H"], list(pairs), list(atoms))


def test_equal_models_are_described_alike():
    assert described(num_channels=4, max_L=1) == described(hidden_irreps="4x0e+4x1o")
    assert described(pairs=[[1, 0], [0, 1]]) == described(pairs=[[0, 1]])
    assert described().keys() == OPTION_TENSORS.keys()


def test_other_models_are_not():
    for options in ({"gate": "tanh"}, {"r_max": 4.0}, {"pairs": [[0, 1]]}, {"atoms": [1]}):
        assert described(**options) != described()
