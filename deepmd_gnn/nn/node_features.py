r"""What mlip's MACE can do to node features after the product basis: a gate, and a soft limit of their norms."""

import torch

from deepmd_gnn.nn.linear import Linear, LinearPath


class NodeGate(torch.nn.Module):
    """Each channel of each irrep times a number that is linear in the scalars, with weights of the element.

    Parameters
    ----------
    dims : list[int]
        Components of the irreps; the first one is scalar.
    channels, ntypes : int
        Channels of the features, and elements.
    weight : torch.Tensor
        Normally distributed, shape (channels * ntypes * irreps * channels,).
    bias : torch.Tensor
        Shape (ntypes, irreps * channels).
    """

    def __init__(
        self, dims: list[int], channels: int, ntypes: int, weight: torch.Tensor, bias: torch.Tensor
    ) -> None:
        super().__init__()
        self.dims = dims
        # The weights of an element are used with the factor that others with an axis of elements have.
        factor = (channels * ntypes) ** -0.5
        path = LinearPath(0, 0, 1, 0, channels, len(dims) * channels, factor)
        self.linear = Linear(weight, [path], ntypes, channels)
        self.bias = torch.nn.Parameter(bias.detach().clone())

    def forward(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """Multiply, shapes (nnode, components, channels) and (nnode, ntypes) → (nnode, components, channels)."""
        gates = self.linear(features[:, :1], one_hot)
        gates = gates + (one_hot @ self.bias).view(gates.shape)
        parts: list[torch.Tensor] = []
        begin = 0
        for index, dim in enumerate(self.dims):
            parts.append(features[:, begin : begin + dim] * gates[:, index : index + 1])
            begin += dim
        return torch.cat(parts, dim=1)


class SoftLimit(torch.nn.Module):
    r"""Vectors x of every irrep and channel become :math:`x / (1 + n e^{-1/n})`, where n is their norm per root of components over the limit.

    Parameters
    ----------
    dims : list[int]
        Components of the irreps.
    limit : float
        Of the norms.
    """

    def __init__(self, dims: list[int], limit: float) -> None:
        super().__init__()
        self.dims = dims
        self.limit = limit

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Limit, shape (nnode, components, channels) → the same."""
        parts: list[torch.Tensor] = []
        begin = 0
        for dim in self.dims:
            part = features[:, begin : begin + dim]
            square = part.square().sum(dim=1, keepdim=True) * (self.limit**-2 / dim)
            # Below, the exponential is zero to the last digit, and so are its derivatives.
            far = square > 1e-6
            norm = torch.sqrt(torch.where(far, square, torch.ones_like(square)))
            change = torch.where(far, norm * torch.exp(-1.0 / norm), torch.zeros_like(norm))
            parts.append(part / (1.0 + change))
            begin += dim
        return torch.cat(parts, dim=1)


class SoftEnvelope(torch.nn.Module):
    """Envelope of which all derivatives vanish at the cutoff, 1.2 at the origin: mlip's (e3nn-jax's) soft envelope.

    Parameters
    ----------
    r_max : float
        Cutoff in Å.
    """

    def __init__(self, r_max: float) -> None:
        super().__init__()
        self.r_max = r_max

    def forward(self, distance: torch.Tensor) -> torch.Tensor:
        """Envelope of distances in Å, any shape."""
        x = 2.0 * (1.0 - distance / self.r_max)
        inside = x > 0.0
        value = 1.2 * torch.exp(0.5 - 1.0 / torch.where(inside, x, torch.ones_like(x)))
        return torch.where(inside, value, torch.zeros_like(value))
