"""How the kernels store what belongs to channels."""

import torch


def in_vectors(values: torch.Tensor, lanes: int) -> torch.Tensor:
    """Split the last axis, the channels, into vectors, the last of which is filled with zeros.

    Parameters
    ----------
    values : torch.Tensor
        Shape (…, channels).
    lanes : int
        Numbers in a vector of the CPU.

    Returns
    -------
    torch.Tensor
        Shape (vectors, …, lanes).
    """
    channels = values.shape[-1]
    padded = torch.nn.functional.pad(values, (0, -channels % lanes))
    return padded.view(*padded.shape[:-1], -1, lanes).movedim(-2, 0).contiguous()
