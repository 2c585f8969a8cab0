"""What a user is told when a GPU's memory does not suffice."""

import pytest
import torch
from deepmd.pt.utils.auto_batch_size import AutoBatchSize
from helpers import random_frame, tiny_model

from deepmd_gnn.host.gpu_memory import evaluated

WORDS = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is free. "
    "Including non-PyTorch memory, this process has 77.88 GiB memory in use. Of the allocated memory 70.00 GiB is "
    "allocated by PyTorch, and 7.20 GiB is reserved by PyTorch but unallocated."
)


@pytest.mark.parametrize(("frames", "kind"), [(1, MemoryError), (2, torch.OutOfMemoryError)])
def test_message(frames, kind):
    """The host takes fewer frames at a time after the one error, and hands on the other."""
    model = tiny_model()

    def full(*arguments):
        raise torch.OutOfMemoryError(WORDS)

    model.replay = full
    coord, atype, cell = random_frame(natoms=3, box_length=50.0)
    coord, atype, cell = (
        torch.tensor(values).unsqueeze(0).expand(frames, *values.shape) for values in (coord, atype, cell)
    )
    with pytest.raises(
        kind, match=f"^mace model: the GPU has too little memory for {3 * frames} atoms with"
    ) as found:
        model(coord, atype, cell)
    message = str(found.value)
    assert "70.00 GiB are in use, 2.50 GiB more were asked for, and 1.20 GiB of 79.10 GiB are free" in message
    assert "more GPUs" in message
    assert found.value.__context__ is None
    assert AutoBatchSize(silent=True).is_oom_error(found.value) == (frames > 1)


def test_other_words():
    """Torch's words are quoted where they are not the known ones."""
    graph = tiny_model().graphs.lone_atoms(torch.device("cpu"))

    def full():
        raise torch.OutOfMemoryError("no\nmemory")

    with pytest.raises(MemoryError, match=r"neighbours: no memory\. It grows"):
        evaluated(full, graph, 1)
    assert evaluated(lambda: 1, graph, 1) == 1
