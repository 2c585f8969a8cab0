"""The readouts of MACE: from the scalars of a node's features to its energy."""

from typing import Final

import torch

from deepmd_gnn.nn.activations import activate
from deepmd_gnn.nn.linear import Weight, matmul


class Readout(torch.nn.Module):
    """Energy of a node from the scalars of its features.

    Parameters
    ----------
    weights : list[torch.Tensor]
        One matrix (linear readout), or two (one hidden layer), shape (inputs, outputs).
    gate : str
        Non-linearity of the hidden layer.
    gain : float
        Factor that gives it unit second moment.
    """

    is_linear: Final[bool]
    gate: Final[str]

    def __init__(self, weights: list[torch.Tensor], gate: str, gain: float) -> None:
        super().__init__()
        self.is_linear = len(weights) == 1
        self.gate = gate
        self.gain = gain
        self.channels = weights[0].shape[0]
        if self.is_linear:
            self.linear = Weight(weights[0].flatten())
        else:
            self.linear_1 = Weight(weights[0].flatten())
            self.linear_2 = Weight(weights[1].flatten())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute node energies.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, components, channels), scalars first.

        Returns
        -------
        torch.Tensor
            Shape (nnode,), in units of the model's scale.
        """
        scalars = features[:, 0]
        if self.is_linear:
            return scalars @ (self.linear.weight * self.channels**-0.5)
        else:  # noqa: RET505 - TorchScript compiles only the branch that applies
            hidden = matmul(scalars, self.linear_1.weight.view(self.channels, -1) * self.channels**-0.5)
            hidden = activate(hidden, self.gate)
            return hidden @ (self.linear_2.weight * (self.gain * self.linear_2.weight.shape[0] ** -0.5))

    def last_inputs(self, features: torch.Tensor) -> torch.Tensor:
        """Derivatives of the node energies by the last layer's weights; shape (nnode, components, channels) → (nnode, weights)."""
        scalars = features[:, 0]
        if self.is_linear:
            return scalars * self.channels**-0.5
        else:  # noqa: RET505 - TorchScript compiles only the branch that applies
            hidden = matmul(scalars, self.linear_1.weight.view(self.channels, -1) * self.channels**-0.5)
            return activate(hidden, self.gate) * (self.gain * self.linear_2.weight.shape[0] ** -0.5)

    @torch.jit.unused
    def matrices(self) -> "dict[str, tuple[int, int]]":
        """Inputs and outputs of the weights, by their names."""
        if self.is_linear:
            return {"linear.weight": (self.channels, 1)}
        width = self.linear_2.weight.numel()
        return {"linear_1.weight": (self.channels, width), "linear_2.weight": (width, 1)}

    @torch.jit.unused
    def last_layer(self) -> "list[str]":
        """Names of the weights that :meth:`last_inputs` differentiates by."""
        return ["linear.weight" if self.is_linear else "linear_2.weight"]


class BiasedWeight(Weight):
    """A parameter called ``weight`` and one called ``bias``.

    Parameters
    ----------
    weight, bias : torch.Tensor
        Initial values.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__(weight)
        self.bias = torch.nn.Parameter(bias.detach().clone())


class BiasReadout(torch.nn.Module):
    """Energy of a node by two hidden layers, the second one with bias (MACE's ``NonLinearBiasReadoutBlock``).

    Parameters
    ----------
    weights : list[torch.Tensor]
        Flat matrices of shape (inputs, outputs): to the hidden scalars, among them, to the energy.
    biases : list[torch.Tensor]
        Biases of the last two.
    gate : str
        Non-linearity of the hidden layers.
    gain : float
        Factor that gives it unit second moment.
    """

    gate: Final[str]

    def __init__(
        self, weights: list[torch.Tensor], biases: list[torch.Tensor], gate: str, gain: float
    ) -> None:
        super().__init__()
        self.gate = gate
        self.gain = gain
        self.width = weights[2].numel()
        self.linear_1 = Weight(weights[0])
        self.linear_mid = BiasedWeight(weights[1], biases[0])
        self.linear_2 = BiasedWeight(weights[2], biases[1])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compute node energies; see :meth:`Readout.forward`."""
        hidden = self.hidden(features)
        return hidden @ (self.linear_2.weight * self.width**-0.5) + self.linear_2.bias

    def hidden(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the second hidden layer; shape (nnode, components, channels) → (nnode, width)."""
        scalars = features[:, 0]
        first = self.linear_1.weight.view(-1, self.width) * scalars.shape[1] ** -0.5
        hidden = activate(matmul(scalars, first), self.gate) * self.gain
        middle = self.linear_mid.weight.view(self.width, self.width) * self.width**-0.5
        return activate(matmul(hidden, middle) + self.linear_mid.bias, self.gate) * self.gain

    def last_inputs(self, features: torch.Tensor) -> torch.Tensor:
        """See :meth:`Readout.last_inputs`; the last column belongs to the bias."""
        hidden = self.hidden(features) * self.width**-0.5
        return torch.cat([hidden, torch.ones_like(hidden[:, :1])], dim=1)

    @torch.jit.unused
    def matrices(self) -> "dict[str, tuple[int, int]]":
        """See :meth:`Readout.matrices`."""
        inputs = self.linear_1.weight.numel() // self.width
        return {
            "linear_1.weight": (inputs, self.width),
            "linear_mid.weight": (self.width, self.width),
            "linear_2.weight": (self.width, 1),
        }

    @torch.jit.unused
    def last_layer(self) -> "list[str]":
        """See :meth:`Readout.last_layer`."""
        return ["linear_2.weight", "linear_2.bias"]
