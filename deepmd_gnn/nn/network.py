"""What every network is: energies of atoms as a function of a graph. It knows no derivatives and no host."""

from typing import TYPE_CHECKING

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.derivatives import Distribution
from deepmd_gnn.nn.stages import Stages


class EnergyNetwork(torch.nn.Module):
    """Energies of atoms on a graph; a subclass has weights and fills in the methods.

    Parts whose names begin with ``readouts``, ``embedding_readout`` or ``partial_charges``, and ``scale``, turn features into energies and belong to one task; everything
    else makes the features, which tasks can share.

    Attributes
    ----------
    ntypes, channels, nlayers : int
        Elements, channels of the features, and layers that send messages.
    dtype : torch.dtype
        Precision of what is learned.
    atomic_numbers : torch.Tensor
        Elements in the order of the type map, int64, shape (ntypes,).
    avg_num_neighbors, scale : torch.Tensor
        Statistics of the training data, float64, shape ().
    distribution : Distribution
        What becomes of the gradients of its edges; beside the network, because whoever puts kernels into it changes this, too.
    """

    if TYPE_CHECKING:
        dtype: torch.dtype  # TorchScript knows it as a number

    ntypes: int
    channels: int
    nlayers: int
    atomic_numbers: torch.Tensor
    avg_num_neighbors: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.distribution = Distribution()

    def forward(
        self, graph: AtomGraph, comm_dict: dict[str, torch.Tensor] | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Evaluate the network.

        Parameters
        ----------
        graph : AtomGraph
            Types and edge vectors.
        comm_dict : dict[str, torch.Tensor], optional
            Communication tensors if ghosts are senders of their own; layers 2… then exchange features.

        Returns
        -------
        energy : torch.Tensor
            Without E0, eV, float64, shape (nnode,).
        features : list[torch.Tensor]
            Node features of each layer, shape (nnode, components, channels); component 0 is a scalar.
        """
        raise NotImplementedError

    def energies(
        self,
        graph: AtomGraph,
        comm_dict: dict[str, torch.Tensor] | None,
        stages: Stages | None,  # noqa: ARG002 - of a subclass
    ) -> torch.Tensor:
        """Energies that :meth:`forward` gives; a network that can be evaluated in stages does so where they are given."""
        return self.forward(graph, comm_dict)[0]

    def tabulated(self) -> bool:
        """Whether :meth:`energies` can be evaluated in stages; see :class:`~deepmd_gnn.nn.staged_network.StagedNetwork`."""
        return False

    def staged_gradient(self, energy: torch.Tensor, graph: AtomGraph, stages: Stages) -> torch.Tensor:
        """Differentiate an energy that was evaluated in stages with respect to the edge vectors.

        Parameters
        ----------
        energy : torch.Tensor
            eV; the sum is differentiated.
        graph : AtomGraph
            Whose edge vectors require grad.
        stages : Stages
            As :meth:`energies` has filled it.

        Returns
        -------
        torch.Tensor
            eV/Å, shape (nedge, 3).
        """
        raise NotImplementedError

    @torch.jit.unused
    def sent_by_types(self) -> torch.Tensor | None:
        """What atoms of each type send in the first layer, shape (ntypes, ·); None if that depends on more than the type."""
        return None

    def feature_columns(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Put the features of all layers side by side, as users of descriptors expect them; shape (nnode, ·)."""
        return torch.cat([layer.flatten(1) for layer in features], dim=1)

    def last_inputs(self, features: list[torch.Tensor], graph: AtomGraph) -> torch.Tensor:
        """Derivatives of the energies by the weights of the last linear layers, of which the energy is a linear function.

        Parameters
        ----------
        features : list[torch.Tensor]
            From :meth:`forward`.
        graph : AtomGraph
            As given to it.

        Returns
        -------
        torch.Tensor
            eV per unit of weight, float64, shape (nnode, weights), in the order of :meth:`last_layer`.
        """
        raise NotImplementedError

    @torch.jit.unused
    def last_layer(self) -> "list[str]":
        """Names of the weights of the last linear layers; empty for a network that does not tell them."""
        return []

    @torch.jit.unused
    def element_axes(self) -> "dict[str, tuple[int | list[tuple[int, int]], bool]]":
        """Say which weights belong to elements.

        Returns
        -------
        dict[str, tuple[int or list[tuple[int, int]], bool]]
            Name → product of the sizes before the axis of elements, and whether the weight is divided by the square root of
            the number of elements when it is used. A weight of several blocks, one after the other, has for each the sizes
            before and after its axis.
        """
        raise NotImplementedError
