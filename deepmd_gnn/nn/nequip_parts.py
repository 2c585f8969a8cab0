"""Parts of NequIP: radial basis, radial network, non-linearities and readout."""

from typing import Final

import torch

from deepmd_gnn.nn.linear import RadialNetwork, Weight, matmul


class BesselBasis(torch.nn.Module):
    r""":math:`\frac{2}{r_c} \sin(w_n r / r_c) / r`.

    Parameters
    ----------
    r_max : float
        Cutoff in Å.
    num_basis : int
        Number of functions.
    trainable : bool
        Whether the :math:`w_n`, which begin as :math:`n \pi`, are learned.
    """

    def __init__(self, r_max: float, num_basis: int, trainable: bool) -> None:
        super().__init__()
        self.r_max = r_max
        weights = torch.arange(1, num_basis + 1, dtype=torch.float64) * torch.pi
        if trainable:
            self.bessel_weights = torch.nn.Parameter(weights)
        else:
            self.register_buffer("bessel_weights", weights)

    def forward(self, lengths: torch.Tensor) -> torch.Tensor:
        """Evaluate, shape (nedge, 1) → (nedge, num_basis), Å → 1/Å²."""
        return 2.0 / self.r_max * torch.sin(self.bessel_weights * lengths / self.r_max) / lengths


class RadialBasis(torch.nn.Module):
    """Bessel functions times the polynomial envelope.

    Parameters
    ----------
    r_max : float
        Cutoff in Å.
    num_basis : int
        Number of functions.
    trainable : bool
        See :class:`BesselBasis`.
    power : float
        p of the envelope: it and its first two derivatives vanish at the cutoff.
    """

    def __init__(self, r_max: float, num_basis: int, trainable: bool, power: float) -> None:
        super().__init__()
        self.basis = BesselBasis(r_max, num_basis, trainable)
        self.r_max = r_max
        self.power = power

    def forward(
        self,
        lengths: torch.Tensor,
        one_hot: torch.Tensor,  # noqa: ARG002 - as MACE's, whose transforms know the elements
        edge_index: torch.Tensor,  # noqa: ARG002
        atomic_numbers: torch.Tensor,  # noqa: ARG002
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Evaluate.

        Parameters
        ----------
        lengths : torch.Tensor
            Å, shape (nedge, 1).
        one_hot, edge_index, atomic_numbers : torch.Tensor
            Not read.

        Returns
        -------
        features : torch.Tensor
            Shape (nedge, num_basis).
        cutoff : None
            The envelope is in the features.
        """
        return self.basis(lengths) * self.envelope(lengths), None

    def envelope(self, lengths: torch.Tensor) -> torch.Tensor:
        """Polynomial cutoff, shape (nedge, 1) → the same; zero from the cutoff on."""
        x = lengths / self.r_max
        p = self.power
        terms = (p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x.square()
        return (1.0 - torch.pow(x, p) * terms) * (x < 1.0)


class PathNetwork(RadialNetwork):
    """A radial network that has weights for every path of a tensor product and makes those of some.

    Parameters
    ----------
    weights : list[torch.Tensor]
        Weight of each layer, shape (inputs, outputs).
    gain : float
        Factor that gives SiLU unit second moment.
    paths : list[int]
        Which paths.
    channels : int
        Weights of a path.
    """

    def __init__(self, weights: list[torch.Tensor], gain: float, paths: list[int], channels: int) -> None:
        super().__init__(weights, gain)
        self.paths = paths
        self.channels = channels
        self.nlayers = len(weights)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the layers, the last one without activation, shapes (n, inputs) → (n, outputs)."""
        hidden = inputs
        for number, layer in enumerate(self.children(), start=1):
            weight = layer.weight * layer.weight.shape[0] ** -0.5
            if number == self.nlayers:
                # Not indexed: a compiled training step would have to add gradients up.
                columns = torch.split(weight, self.channels, dim=1)
                hidden = matmul(hidden, torch.cat([columns[path] for path in self.paths], dim=1))
            else:
                hidden = torch.nn.functional.silu(matmul(hidden, weight)) * self.gain
        return hidden


class Nonlinearity(torch.nn.Module):
    """Equivariant non-linearity of a layer.

    Parameters
    ----------
    kind : str
        ``"gate"``: SiLU of even and tanh of odd scalars, other irreps times SiLU of further even scalars; or ``"norm"``:
        every irrep scaled so that its norm is SiLU of what it was.
    channels : int
        Channels of every component.
    scalars : list[tuple[int, bool]]
        Component of each scalar, and whether it is even; "gate" only.
    gated : list[tuple[int, int, int]]
        For every other irrep its first component, how many it has, and the component of its gate; the gate of "norm" is not
        read.
    gains : tuple[float, float]
        Factors that give SiLU and tanh unit second moment.
    components : int
        Of the input.
    """

    is_gate: Final[bool]
    channels: Final[int]
    components: Final[int]
    # One of them may be empty, of which TorchScript could not tell what is in it.
    scalars: list[tuple[int, bool]]
    gated: list[tuple[int, int, int]]

    def __init__(
        self,
        kind: str,
        channels: int,
        scalars: list[tuple[int, bool]],
        gated: list[tuple[int, int, int]],
        gains: tuple[float, float],
        components: int,
    ) -> None:
        super().__init__()
        self.is_gate = kind == "gate"
        self.channels = channels
        self.components = components
        self.scalars = scalars
        self.gated = gated
        self.silu_gain, self.tanh_gain = gains

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Apply it.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, components with gates, channels).

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        outputs: list[torch.Tensor] = []
        for place, even in self.scalars:
            scalar = features[:, place : place + 1]
            outputs.append(self.activated(scalar, even) if self.is_gate else self.scaled(scalar))
        for first, dim, gate in self.gated:
            part = features[:, first : first + dim]
            if self.is_gate:
                outputs.append(part * self.activated(features[:, gate : gate + 1], True))
            else:
                outputs.append(self.scaled(part))
        return torch.cat(outputs, dim=1)

    def activated(self, scalars: torch.Tensor, even: bool) -> torch.Tensor:
        """SiLU of even, tanh of odd scalars, shape (n, channels)."""
        if even:
            return torch.nn.functional.silu(scalars) * self.silu_gain
        return torch.tanh(scalars) * self.tanh_gain

    def scaled(self, part: torch.Tensor) -> torch.Tensor:
        """An irrep of shape (n, 2l + 1, channels) whose norm n becomes SiLU(n); norms below 1e-8 count as 1e-8, as in e3nn."""
        norm = part.square().sum(dim=1, keepdim=True).clamp(min=1e-16).sqrt()
        return part * (torch.nn.functional.silu(norm) / norm)


class ScalarReadout(torch.nn.Module):
    """From the even scalars of the last features to an energy: two linear maps.

    Parameters
    ----------
    conv_to_output_hidden, output_hidden_to_scalar : torch.Tensor
        Flat matrices, shapes (channels * hidden,) and (hidden,).
    place : int
        Component of the even scalars.
    """

    def __init__(
        self, conv_to_output_hidden: torch.Tensor, output_hidden_to_scalar: torch.Tensor, place: int
    ) -> None:
        super().__init__()
        self.place = place
        self.conv_to_output_hidden = AtomwiseLinear(conv_to_output_hidden)
        self.output_hidden_to_scalar = AtomwiseLinear(output_hidden_to_scalar)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Energies in units of the model's scale, shape (nnode, components, channels) → (nnode,)."""
        scalars = features[:, self.place]
        second = self.output_hidden_to_scalar.linear.weight
        first = self.conv_to_output_hidden.linear.weight.view(-1, second.shape[0])
        hidden = matmul(scalars, first * first.shape[0] ** -0.5)
        return hidden @ (second * second.shape[0] ** -0.5)


class AtomwiseLinear(torch.nn.Module):
    """The package's name for a linear map of features.

    Parameters
    ----------
    weight : torch.Tensor
        Flat.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.linear = Weight(weight)
