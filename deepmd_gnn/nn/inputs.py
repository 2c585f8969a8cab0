"""What a network computes of a graph before its layers. Kernels that do not read it, or have it prepared, replace these."""

import torch

from deepmd_gnn.nn.linear import Weight


class EdgeVectors(torch.nn.Module):
    """Vectors of the edges with MACE's sign, and their lengths. Kernels that compute both themselves replace it."""

    def forward(self, edge_vec: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Position of the sender minus that of the receiver, Å, (nedge, 3) → receiver minus sender, (nedge, 3) and (nedge, 1)."""
        vectors = -edge_vec
        return vectors, torch.linalg.norm(vectors, dim=1, keepdim=True)


class Elements(torch.nn.Module):
    """Types as one-hot rows.

    Parameters
    ----------
    ntypes : int
        Elements.
    dtype : torch.dtype
        Of the rows.
    """

    def __init__(self, ntypes: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.ntypes = ntypes
        self.dtype = dtype

    def forward(self, types: torch.Tensor) -> torch.Tensor:
        """Make the rows, int64, shape (n,) → (n, ntypes)."""
        return torch.nn.functional.one_hot(types, self.ntypes).to(self.dtype)


class NodeEmbedding(torch.nn.Module):
    """Native's name for the map from elements to features.

    Parameters
    ----------
    linear : Weight
        Flat matrix of shape (ntypes, channels).
    """

    def __init__(self, linear: Weight) -> None:
        super().__init__()
        self.linear = linear
