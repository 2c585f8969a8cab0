"""A checksum of a model's weights, to see whether what was computed with them still belongs to them."""

import hashlib
from typing import TYPE_CHECKING

from deepmd_gnn.files.tensor_names import NETWORK, model_name

if TYPE_CHECKING:
    import torch


def weight_checksum(tensors: "dict[str, torch.Tensor]") -> str:
    """SHA-256 of all numbers that decide energies: the network's tensors and E0.

    Parameters
    ----------
    tensors : dict[str, torch.Tensor]
        Of one model, of any shapes, by their names in it or in a checkpoint. Constants, which are in some kinds of file only, do not count.

    Returns
    -------
    str
        In hexadecimal; it depends neither on the order nor on the device of the tensors.
    """
    digest = hashlib.sha256()
    named = {model_name(name): value for name, value in tensors.items()}
    for name in sorted(named):
        constant = name.endswith(".value") or not name.startswith(NETWORK)
        if not constant or name == "out_bias":
            value = named[name].detach().cpu().contiguous()
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
            digest.update(value.numpy().tobytes())
    return digest.hexdigest()
