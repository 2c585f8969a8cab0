"""Parts of a network whose weights do not change any more: fewer launches, because what they compute anew is prepared."""

from typing import Any

import torch

from deepmd_gnn.kernels.triton.mixing import TritonLinear
from deepmd_gnn.nn.activations import activate
from deepmd_gnn.nn.linear import Constant, Linear, LinearPath
from deepmd_gnn.nn.readouts import Readout


class Prepared(torch.nn.Module):
    """A tensor instead of what makes it of the weights.

    Parameters
    ----------
    value : torch.Tensor
        Any shape.
    channels : int
        Of a :class:`~deepmd_gnn.nn.linear.Linear` that it stands for.
    """

    value: torch.Tensor

    def __init__(self, value: torch.Tensor, channels: int = 0) -> None:
        super().__init__()
        self.register_buffer("value", value)
        self.channels = channels

    def forward(self, *_: torch.Tensor) -> torch.Tensor:
        """Return the tensor, of any shape."""
        return self.value


class PreparedElements(Constant):
    """Stands for :class:`~deepmd_gnn.nn.inputs.Elements`.

    Parameters
    ----------
    ntypes : int
        Elements.
    dtype : torch.dtype
        Of the network.
    """

    def __init__(self, ntypes: int, dtype: torch.dtype) -> None:
        super().__init__(torch.eye(ntypes, dtype=dtype))

    def forward(self, types: torch.Tensor) -> torch.Tensor:
        """Look the rows up, shape (n,) → (n, ntypes)."""
        return self.value[types]


class NoEdgeVectors(torch.nn.Module):
    """Stands for vectors and lengths that nobody reads."""

    def forward(self, edge_vec: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return something of the shapes of :class:`~deepmd_gnn.nn.inputs.EdgeVectors`, Å, (nedge, 3) → (nedge, 3) and (nedge, 1)."""
        unread = edge_vec.detach()
        return unread, unread[:, :1]


class TritonReadout(Readout):
    """A readout whose first matrix reads the scalars where they lie.

    Parameters
    ----------
    readout : Readout
        With one or two layers; they are still those of this one.
    """

    last: torch.Tensor

    def __init__(self, readout: Readout) -> None:
        torch.nn.Module.__init__(self)
        self.is_linear, self.gate, self.gain = readout.is_linear, readout.gate, readout.gain  # type: ignore[misc]
        self.channels = readout.channels
        for name, part in readout.named_children():
            self.add_module(name, part)
        first: Any = next(readout.children())
        width = first.weight.numel() // self.channels
        paths = [LinearPath(0, 0, 1, 0, self.channels, width, self.channels**-0.5)]
        self.first = TritonLinear(Linear(first.weight, paths))
        last = torch.ones(1) if self.is_linear else self.linear_2.weight.detach() * (self.gain * width**-0.5)
        self.register_buffer("last", last)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.readouts.Readout.forward`."""
        hidden = self.first(features, features)
        if self.is_linear:
            return hidden.flatten()
        return activate(hidden.squeeze(1), self.gate) @ self.last


class PreparedParts:
    """What kernels replace besides layers.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.
    """

    def __init__(self, energy_model: Any) -> None:
        self.readouts = {
            index: TritonReadout(readout)
            for index, readout in enumerate(energy_model.readouts)
            if isinstance(readout, Readout)
        }
        with torch.no_grad():
            self.sent_by_types = energy_model.sent_by_types()

    def maps(self) -> list[TritonLinear]:
        """Linear maps of the readouts."""
        return [readout.first for readout in self.readouts.values()]

    def swaps(self, energy_model: Any, reads_radial: bool) -> list[tuple[Any, str, torch.nn.Module]]:
        """Parent, name and module of what is replaced in a network with the same weights.

        Parameters
        ----------
        energy_model : MaceEnergy
            The network.
        reads_radial : bool
            Whether anything reads the radial features.
        """
        device, first = energy_model.scale.device, energy_model.interactions[0]
        elements = PreparedElements(energy_model.ntypes, energy_model.dtype)
        found: list[tuple[Any, str, torch.nn.Module]] = [(energy_model, "elements", elements.to(device))]
        if not (reads_radial or energy_model.repulsive or energy_model.unbounded):
            found.append((energy_model, "edge_vectors", NoEdgeVectors()))
        if self.sent_by_types is not None:
            channels = first.linear_up.channels
            sent = Prepared(self.sent_by_types.unflatten(1, (-1, channels)), channels)
            found.append((first, "linear_up", sent.to(device)))
        for index, readout in self.readouts.items():
            found.append((energy_model.readouts, str(index), readout.to(device)))
        return found
