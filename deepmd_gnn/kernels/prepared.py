"""Parts of a network whose weights do not change any more: fewer operations, because what they compute anew is prepared."""

from collections.abc import Callable
from typing import Any

import torch

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


class Nothing(torch.nn.Module):
    """Stands for a radial network whose outputs nobody reads, and for a linear map that the convolution applies."""

    def forward(self, features: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        """Return the input, any shape."""
        return features


class NoHarmonics(torch.nn.Module):
    """Stands for spherical harmonics that nobody reads."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return no columns, Å, shape (nedge, 3) → (nedge, 0)."""
        return vectors.new_empty(vectors.shape[0], 0)  # no view, which would keep the vectors


class NoRadialFeatures(torch.nn.Module):
    """Stands for radial features that nobody reads."""

    def forward(self, lengths: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return no columns, shape (nedge, 1) → (nedge, 0), and no envelope."""
        return lengths.new_empty(lengths.shape[0], 0), None


class PreparedReadout(Readout):
    """A readout whose first matrix reads the scalars where they lie.

    Parameters
    ----------
    readout : Readout
        With one or two layers; they are still those of this one.
    kernel : Callable[[Linear], torch.nn.Module]
        Makes what evaluates a linear map.
    """

    last: torch.Tensor

    def __init__(self, readout: Readout, kernel: Callable[[Linear], torch.nn.Module]) -> None:
        torch.nn.Module.__init__(self)
        self.is_linear, self.gate, self.gain = readout.is_linear, readout.gate, readout.gain  # type: ignore[misc]
        self.channels = readout.channels
        for name, part in readout.named_children():
            self.add_module(name, part)
        first: Any = next(readout.children())
        width = first.weight.numel() // self.channels
        paths = [LinearPath(0, 0, 1, 0, self.channels, width, self.channels**-0.5)]
        self.first = kernel(Linear(first.weight, paths))
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
    kernel : Callable[[Linear], torch.nn.Module]
        Makes what evaluates a linear map.
    """

    def __init__(self, energy_model: Any, kernel: Callable[[Linear], torch.nn.Module]) -> None:
        self.readouts = {
            index: PreparedReadout(readout, kernel)
            for index, readout in enumerate(energy_model.readouts)
            if isinstance(readout, Readout)
        }
        with torch.no_grad():
            self.sent_by_types = energy_model.sent_by_types()

    def maps(self) -> list[torch.nn.Module]:
        """Linear maps of the readouts."""
        return [readout.first for readout in self.readouts.values()]

    def swaps(
        self, energy_model: Any, reads_radial: bool, reads_lengths: bool
    ) -> list[tuple[Any, str, torch.nn.Module]]:
        """Parent, name and module of what is replaced in a network with the same weights, whose convolutions find harmonics themselves.

        Parameters
        ----------
        energy_model : MaceEnergy
            The network.
        reads_radial, reads_lengths : bool
            Whether anything reads the radial features, and the lengths of the edges.
        """
        device, first = energy_model.scale.device, energy_model.interactions[0]
        elements = PreparedElements(energy_model.ntypes, energy_model.dtype)
        found: list[tuple[Any, str, torch.nn.Module]] = [
            (energy_model, "elements", elements.to(device)),
            (energy_model, "spherical_harmonics", NoHarmonics()),
        ]
        if not reads_radial:
            found.append((energy_model, "radial_embedding", NoRadialFeatures()))
        if not (reads_radial or reads_lengths):
            found.append((energy_model, "edge_vectors", NoEdgeVectors()))
        if self.sent_by_types is not None:
            channels = first.linear_up.channels
            sent = Prepared(self.sent_by_types.unflatten(1, (-1, channels)), channels)
            found.append((first, "linear_up", sent.to(device)))
        for index, readout in self.readouts.items():
            found.append((energy_model.readouts, str(index), readout.to(device)))
        return found
