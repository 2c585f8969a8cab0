"""Node features of a model, for ``eval_descriptor``, ``dp eval-desc`` and ``dp embed``."""

from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.builders import make_graph
from deepmd_gnn.host.evaluation import Evaluation


class Embedding(Evaluation):
    """A model that also returns node features."""

    @torch.jit.export
    def forward_embedding(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        box: torch.Tensor | None = None,
        fparam: torch.Tensor | None = None,
        aparam: torch.Tensor | None = None,  # noqa: ARG002 - the host's signature
        charge_spin: torch.Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Node features of frames.

        Parameters
        ----------
        coord, atype, box : torch.Tensor
            As in ``forward``: Å, shapes (nf, nloc, 3), (nf, nloc) and (nf, 9).
        fparam : torch.Tensor, optional
            Quantities of the frames that the features depend on, shape (nf, nquantity).
        aparam, charge_spin : torch.Tensor, optional
            Not used.

        Returns
        -------
        dict[str, torch.Tensor]
            ``descriptor`` (nf, nloc, ·): the features of all layers side by side, as native MACE's
            ``node_feats``; ``atomic_feature`` (nf, nloc, channels): the scalars of the last layer;
            ``structural_feature`` (nf, channels): their sum over atoms.
        """
        if self.training:
            raise RuntimeError("mace model: embeddings need eval mode; call model.eval() first.")
        graph = self.with_frame_values(self.graphs.of_frames(coord, atype, box), fparam, atype.shape[0])
        return self.features(graph, atype)

    def features(self, graph: AtomGraph, atype: torch.Tensor) -> dict[str, torch.Tensor]:
        """Node features of a graph whose nodes are the atoms of `atype`, see :meth:`forward_embedding`."""
        nf, nloc = atype.shape
        with torch.no_grad():
            layers = self.energy_model(graph, None)[1]
            features = self.energy_model.feature_columns(layers)
        counts = (atype >= 0).unsqueeze(2)
        features = features[1:].reshape(nf, nloc, features.shape[1]) * counts
        last = layers[len(layers) - 1][1:, 0].reshape(nf, nloc, self.energy_model.channels) * counts
        return {"descriptor": features, "atomic_feature": last, "structural_feature": last.sum(dim=1)}

    def get_dp_atomic_model(self) -> "ExtendedFeatures":
        """What the host's interface to ``.pt2`` and ``.pte`` asks for features."""
        return ExtendedFeatures(self)


class ExtendedFeatures:
    """Node features for atoms with ghosts, under the names that the host's interface to exported files uses.

    Parameters
    ----------
    model : Embedding
        The model of the file.
    """

    def __init__(self, model: Embedding) -> None:
        self.model = model

    def has_chg_spin_ebd(self) -> bool:
        """No embedding of charge and spin."""
        return False

    def descriptor(
        self,
        coord: torch.Tensor,
        atype: torch.Tensor,
        nlist: torch.Tensor,
        mapping: torch.Tensor,
        charge_spin: torch.Tensor | None = None,  # noqa: ARG002 - the host's signature
    ) -> tuple[torch.Tensor | None, ...]:
        """Features of the owned atoms.

        Parameters
        ----------
        coord : torch.Tensor
            Å, shape (nf, nall, 3), owned atoms first.
        atype, mapping : torch.Tensor
            Types and owners, shape (nf, nall).
        nlist : torch.Tensor
            Shape (nf, nloc, ·). The host has cut it to `sel` neighbours, so only its size is read; the pairs are
            found here.
        charge_spin : torch.Tensor, optional
            Not used.

        Returns
        -------
        tuple
            ``descriptor`` and ``atomic_feature`` of :meth:`Embedding.forward_embedding`; None for what MACE lacks.
        """
        names = self.model.frame_values.spelled()
        if names:  # the host does not hand the values over
            raise NotImplementedError(
                f"mace model: features of exported files are not available for models whose energy depends on {names}. "
                "Evaluate the checkpoint (.pt) or a .pth."
            )
        nf, nall = atype.shape
        nloc = nlist.shape[1]
        owned = atype[:, :nloc]
        center, neighbor, edge_vec = self.model.graphs.pairs(coord.reshape(nf, nall, 3), atype, None)
        first = torch.arange(nf, device=atype.device).unsqueeze(1) * nloc
        owner = (mapping + first).reshape(-1)
        kept = center % nall < nloc
        sender, receiver = owner[neighbor[kept]], owner[center[kept]]
        types = owned.reshape(-1)
        atoms = torch.stack([sender, receiver])
        graph = make_graph(types, types, sender, receiver, edge_vec[kept], atoms, self.model.rcut)
        found = self.model.features(self.model.graphs.without_excluded_pairs(graph), owned)
        return found["descriptor"], found["atomic_feature"], None, None, None

    @property
    def fitting_net(self) -> "LastLayer":
        """What comes before the readouts."""
        return LastLayer()


class LastLayer:
    """Hands the scalars of the last layer through, where the host asks its fitting network for a middle layer."""

    def set_return_middle_output(self, wanted: bool) -> None:
        """Nothing to set: there is no other output."""

    def __call__(
        self,
        descriptor: torch.Tensor,  # noqa: ARG002 - the host's signature
        atype: torch.Tensor,  # noqa: ARG002
        gr: torch.Tensor,
        **unused: Any,  # noqa: ARG002
    ) -> dict[str, torch.Tensor]:
        """Return the second result of :meth:`ExtendedFeatures.descriptor`, shape (nf, nloc, channels)."""
        return {"middle_output": gr}
