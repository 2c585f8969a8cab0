"""Standard deviations of a model's energies and forces by its last layer, see :mod:`~deepmd_gnn.nn.uncertainty`.

The host has no place for further results of an energy model: its ``DeepPot`` and its C++ interface read names of a fixed list. So
these are methods of their own, which frozen TorchScript files keep; :mod:`~deepmd_gnn.tools.uncertainty` calls them.
"""

from typing import TYPE_CHECKING

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph, with_edge_vec
from deepmd_gnn.graph.derivatives import Differentiable, atomic_derivatives, edge_gradient
from deepmd_gnn.host.embedding import Embedding
from deepmd_gnn.host.labels import cell_of_batch

if TYPE_CHECKING:
    from deepmd_gnn.nn.uncertainty import LastLayerUncertainty


class Uncertain(Embedding):
    """A model that may know how uncertain it is."""

    if TYPE_CHECKING:
        uncertainty: LastLayerUncertainty
        last_layer_size: int
        """Weights of the last linear layers; 0 for networks that do not tell them."""

    @torch.jit.export
    def get_last_layer_size(self) -> int:
        """Number of weights that the energy is linear in; 0 for networks without uncertainty."""
        return self.last_layer_size

    @torch.jit.export
    def has_uncertainty(self) -> bool:
        """Whether standard deviations are known."""
        return self.uncertainty.is_known()

    @torch.jit.export
    def forward_last_layer(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None = None,
        fparam: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Derivatives of the atoms' energies by the weights of the last linear layers.

        Parameters
        ----------
        coord, atype, box : torch.Tensor
            As in ``forward``: Å, shapes (nf, nloc, 3), (nf, nloc) and (nf, 9).
        fparam : torch.Tensor, optional
            Quantities of the frames, shape (nf, nquantity).

        Returns
        -------
        torch.Tensor
            eV, float64, shape (nf, nloc, weights).
        """
        return self.features_without_graph(self.graph_of_frames(coord, atype, box, fparam), atype)

    @torch.jit.export
    def forward_uncertainty(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None = None,
        fparam: torch.Tensor | None = None,
        forces: bool = False,
        gradient: bool = False,
    ) -> dict[str, torch.Tensor]:
        """Standard deviations of frames.

        Parameters
        ----------
        coord, atype, box, fparam : torch.Tensor
            As in :meth:`forward_last_layer`.
        forces : bool
            Also of the forces, by one backward pass per member of the posterior.
        gradient : bool
            Also the derivative of the energy's standard deviation, by one backward pass.

        Returns
        -------
        dict[str, torch.Tensor]
            ``energy_std`` (nf, 1) and ``atom_energy_std`` (nf, nloc, 1) in eV; perhaps ``force_std`` (nf, nloc, 1), of an atom's force
            as a vector, and ``energy_std_gradient`` (nf, nloc, 3) in eV/Å; float64.

        Raises
        ------
        RuntimeError
            If the model does not know it, or is being trained.
        """
        if not self.uncertainty.is_known():
            raise RuntimeError(
                "mace model: no uncertainty is stored with this model. `deepmd-gnn uncertainty` makes it from a checkpoint and its data."
            )
        graph = self.graph_of_frames(coord, atype, box, fparam)
        if forces or gradient:
            return self.deviations_with_derivatives(graph, atype, forces, gradient)
        return self.energy_deviations(self.features_without_graph(graph, atype))

    def deviations_with_derivatives(
        self, graph: AtomGraph, atype: torch.Tensor, forces: bool, gradient: bool
    ) -> dict[str, torch.Tensor]:
        """:meth:`forward_uncertainty` where something is differentiated."""
        nf, nloc = atype.shape
        natom = nf * nloc
        result: dict[str, torch.Tensor] = {}
        with Differentiable():
            edge_vec = graph.edge_vec.detach().requires_grad_(True)
            leaf = with_edge_vec(graph, edge_vec)
            features = self.last_layer_features(leaf, atype)
            known = self.energy_deviations(features)
            for name, value in known.items():
                result[name] = value.detach()
            if gradient:
                by_edge = edge_gradient(known["energy_std"], edge_vec, False, True)
                minus = atomic_derivatives(by_edge, leaf, natom)[0]
                result["energy_std_gradient"] = -minus.detach().view(nf, nloc, 3)
            if forces:
                changes = torch.matmul(features, self.uncertainty.members.t())
                variance = torch.zeros(natom, dtype=torch.float64, device=edge_vec.device)
                number = changes.shape[2]
                for member in range(number):
                    by_edge = edge_gradient(changes[:, :, member], edge_vec, False, True)
                    force = atomic_derivatives(by_edge, leaf, natom)[0].detach()
                    variance = variance + force.square().sum(dim=1) / number
                deviation = self.uncertainty.force_scale * variance.sqrt()
                result["force_std"] = deviation.view(nf, nloc, 1)
        return result

    def features_without_graph(self, graph: AtomGraph, atype: torch.Tensor) -> torch.Tensor:
        """:meth:`last_layer_features` that nobody differentiates."""
        with torch.no_grad():  # no return inside, which TorchScript does not survive
            features = self.last_layer_features(graph, atype)
        return features  # noqa: RET504

    def graph_of_frames(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None,
        fparam: torch.Tensor | None,
    ) -> AtomGraph:
        """Graph of frames, arranged, with their quantities, in eval mode only; coordinates in Å, shape (nf, nloc, 3), see ``forward``."""
        if self.training:
            raise RuntimeError("mace model: uncertainties need eval mode; call model.eval() first.")
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            box = cell_of_batch(coord, box)
        return self.with_frame_values(self.graphs.of_frames(coord, atype, box), fparam, atype.shape[0])

    def last_layer_features(self, graph: AtomGraph, atype: torch.Tensor) -> torch.Tensor:
        """See :meth:`forward_last_layer`; zero for virtual atoms and types without energy."""
        nf, nloc = atype.shape
        layers = self.energy_model(graph, None)[1]
        features = self.energy_model.last_inputs(layers, graph)[1:]
        counts = self.atoms_that_count(graph.node_types[1:], atype.reshape(-1))
        features = torch.where(counts.unsqueeze(1), features, torch.zeros_like(features))
        return features.view(nf, nloc, features.shape[1])

    def energy_deviations(self, features: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of frames and atoms, from features of shape (nf, nloc, weights)."""
        return {
            "energy_std": self.uncertainty.deviations(features.sum(dim=1)).unsqueeze(1),
            "atom_energy_std": self.uncertainty.deviations(features).unsqueeze(2),
        }
