"""Parts of MACE's non-linear interaction block: gate, normalised networks, linear layers with bias."""

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.linear import matmul
from deepmd_gnn.nn.symmetric_contraction import Factor


class Gate(torch.nn.Module):
    """Equivariant non-linearity: SiLU on scalars, other irreps times the sigmoid of further scalars.

    Parameters
    ----------
    scalars : list[int]
        Components that pass through SiLU.
    gates, gated : list[int]
        Component of the gate of each gated component, and that component.
    gains : tuple[float, float]
        Factors that give SiLU and the sigmoid unit second moment.
    """

    def __init__(
        self, scalars: list[int], gates: list[int], gated: list[int], gains: tuple[float, float]
    ) -> None:
        super().__init__()
        total = 1 + max(*scalars, *gates, *gated) if gates else 1 + max(scalars)
        self.scalars = Factor(torch.tensor(scalars), total)
        self.gates = Factor(torch.tensor(gates, dtype=torch.int64), total)
        self.gated = Factor(torch.tensor(gated, dtype=torch.int64), total)
        self.silu_gain, self.sigmoid_gain = gains

    def forward(self, features: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """Apply the gate.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, components with gates, channels).
        graph : AtomGraph
            Its mode is read.

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        rows = features.transpose(0, 1)
        scalars = torch.nn.functional.silu(self.scalars(rows, graph)) * self.silu_gain
        gates = torch.sigmoid(self.gates(rows, graph)) * self.sigmoid_gain
        return torch.cat([scalars, self.gated(rows, graph) * gates]).transpose(0, 1)


class NormedNetwork(torch.nn.Module):
    """Multilayer perceptron with biases, layer normalisation and SiLU (MACE's ``RadialMLP``).

    Parameters
    ----------
    net : torch.nn.Sequential
        Layers, named as in MACE.
    """

    def __init__(self, net: torch.nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the layers, shape (nedge, inputs) → (nedge, outputs)."""
        return self.net(inputs)


class Affine(torch.nn.Module):
    """``torch.nn.Linear`` through :func:`~deepmd_gnn.nn.linear.matmul`.

    Parameters
    ----------
    weight, bias : torch.Tensor
        Shapes (outputs, inputs) and (outputs,).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach().clone())
        self.bias = torch.nn.Parameter(bias.detach().clone())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the map, shape (n, inputs) → (n, outputs)."""
        return matmul(inputs, self.weight.t()) + self.bias
