"""What torch gets wrong and is mended while something is compiled."""

import torch
from torch._inductor import config
from torch._inductor.select_algorithm import AlgorithmSelectorCache

from deepmd_gnn.files.torch_fixes import room_for_trials


def example(size, stride):
    value = AlgorithmSelectorCache.generate_example_value(size, stride, "cpu", torch.float32, 0, size)
    assert value.shape == size
    return value.untyped_storage().nbytes() // 4


def test_arrays_of_trials_have_room():
    """As many rows as TorchInductor believes that there are where only the data tell, and one more."""
    original = AlgorithmSelectorCache.__dict__["generate_example_value"]
    assert example((3, 5), (5, 1)) == 15
    with config.patch(unbacked_symint_fallback=100), room_for_trials():
        assert example((3, 5), (5, 1)) >= 101 * 5
        assert example((), ()) >= 101
    assert example((3, 5), (5, 1)) == 15
    assert type(AlgorithmSelectorCache.__dict__["generate_example_value"]) is type(original)
