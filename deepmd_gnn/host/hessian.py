"""Second derivatives of the energy, for the host's Hessian loss and for checkpoints trained with it."""

from collections.abc import Callable

import torch


class HessianMixin:
    """Part of :class:`~deepmd_gnn.mace.MaceModel` that adds ``hessian`` to the results, in Python only."""

    hessian_mode: bool
    training: bool
    predict: Callable[..., dict[str, torch.Tensor]]

    def enable_hessian(self) -> None:
        """Compute the Hessian from now on; the trainer asks for it if the loss has a Hessian term."""
        self.hessian_mode = True

    @torch.jit.unused
    def predict_with_hessian(
        self, coord: torch.Tensor, atype: torch.Tensor, box: torch.Tensor | None, do_atomic_virial: bool
    ) -> dict[str, torch.Tensor]:
        """Evaluate frames, second derivatives included: one backward pass per coordinate.

        Parameters
        ----------
        coord, atype, box, do_atomic_virial :
            As in ``forward``.

        Returns
        -------
        dict[str, torch.Tensor]
            As ``forward``, and ``hessian``, eV/Å², shape (nf, 3 nloc, 3 nloc).
        """
        nf = atype.shape[0]
        with torch.enable_grad():
            position = coord.detach().reshape(nf, -1, 3).requires_grad_(True)
            result = self.predict(position, atype, box, do_atomic_virial)
            force = result["force"].reshape(nf, -1)
            # Frames do not see each other, so that one pass serves all of them.
            rows = [
                torch.autograd.grad(
                    -force[:, k].sum(), position, create_graph=self.training, retain_graph=True
                )[0].reshape(nf, -1)
                for k in range(force.shape[1])
            ]
            result["hessian"] = torch.stack(rows, dim=1)
        return result if self.training else {key: value.detach() for key, value in result.items()}
