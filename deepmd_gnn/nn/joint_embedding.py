"""Embedding of quantities of a whole frame (charge, spin, temperature), native MACE's ``GenericJointEmbedding``."""

from typing import Final

import torch

from deepmd_gnn.config.embeddings import Feature


class Category(torch.nn.Module):
    """A row for each class.

    Parameters
    ----------
    weight : torch.Tensor
        Shape (num_classes, emb_dim).
    offset : int
        Added to a value to get its class.
    """

    offset: Final[int]

    def __init__(self, weight: torch.Tensor, offset: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach().clone())
        self.offset = offset

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Rows of the classes, NaN where there is no such class: shape (nframe, 1), float64 → (nframe, emb_dim)."""
        count = self.weight.shape[0]
        place = value[:, 0] + self.offset
        known = (place == torch.round(place)) & (place >= 0) & (place < count)
        index = torch.where(known, place, torch.zeros_like(place)).to(torch.int64)
        # A product, so that its derivative adds nothing atomically when it is compiled; frames are few.
        rows = torch.nn.functional.one_hot(index, count).to(self.weight.dtype) @ self.weight
        return torch.where(known.unsqueeze(1), rows, torch.full_like(rows, float("nan")))


class Quantity(torch.nn.Sequential):
    """Two layers with SiLU between them, under native's names."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Shape (nframe, 1), float64 → (nframe, emb_dim)."""
        features = value
        for layer in self:
            if isinstance(layer, torch.nn.Linear):
                features = features.to(layer.weight.dtype)
            features = layer(features)
        return features


class JointEmbedding(torch.nn.Module):
    """What the quantities of a frame add to the features of each of its atoms before the first message.

    Parameters
    ----------
    features : list[Feature]
        The quantities, in the order of the columns.
    native : torch.nn.Module
        ``GenericJointEmbedding`` with the weights; its last layer has no bias.
    """

    def __init__(self, features: list[Feature], native: torch.nn.Module) -> None:
        super().__init__()
        parts: dict[str, torch.nn.Module] = {}
        for feature in features:
            given: torch.nn.Module = native.get_submodule(f"embedders.{feature.name}")
            if isinstance(given, torch.nn.Embedding):
                parts[feature.name] = Category(given.weight, feature.offset)
            else:
                parts[feature.name] = Quantity(*given.children())
        self.embedders = torch.nn.ModuleDict(parts)
        self.project = torch.nn.Sequential(*native.get_submodule("project").children())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Embed.

        Parameters
        ----------
        values : torch.Tensor
            A row per frame, a column per quantity, float64, shape (nframe, nquantity).

        Returns
        -------
        torch.Tensor
            Shape (nframe, channels); NaN for values that a categorical quantity does not have.
        """
        parts: list[torch.Tensor] = []
        for column, embedder in enumerate(self.embedders.values()):
            parts.append(embedder(values[:, column : column + 1]))
        return self.project(torch.cat(parts, dim=1))
