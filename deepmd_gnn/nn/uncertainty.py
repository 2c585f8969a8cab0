"""Standard deviations from the features before the last linear layer: last-layer prediction rigidity (LLPR) [1]_.

The energy is linear in the weights of the last layer, so that with a Gaussian prior their posterior is Gaussian, and its
covariance needs nothing but the features of the training data.

References
----------
.. [1] F. Bigi, S. Chong, M. Ceriotti, F. Grasselli, Mach. Learn.: Sci. Technol. 5, 045018 (2024), arXiv:2403.02251.
"""

import torch

# Names of the buffers, in a checkpoint behind "uncertainty.".
TENSORS = ("factor", "members", "force_scale", "description")


class LastLayerUncertainty(torch.nn.Module):
    r"""Posterior of the last layer's weights; without tensors (of no size) for a model that has none.

    Attributes
    ----------
    factor : torch.Tensor
        :math:`A` with :math:`A^T A = \alpha^2 (F^T F + \varsigma^2)^{-1}`, so that :math:`|A f|` is the standard deviation of an energy
        with features :math:`f`; float64, shape (weights, weights).
    members : torch.Tensor
        Draws from the posterior, as changes of the weights, float64, shape (number, weights).
    force_scale : torch.Tensor
        Factor of the standard deviations of forces, float64, shape ().
    description : torch.Tensor
        Where it comes from: JSON, a number for each byte, int32 (the host carries no bytes from one backend to another).
    """

    factor: torch.Tensor
    members: torch.Tensor
    force_scale: torch.Tensor
    description: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("members", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("force_scale", torch.ones((), dtype=torch.float64))
        self.register_buffer("description", torch.zeros(0, dtype=torch.int32))

    def is_known(self) -> bool:
        """Whether there is a posterior."""
        return self.factor.numel() > 0

    def deviations(self, features: torch.Tensor) -> torch.Tensor:
        """Standard deviations of energies.

        Parameters
        ----------
        features : torch.Tensor
            Derivatives of the energies by the weights, eV, float64, shape (…, weights).

        Returns
        -------
        torch.Tensor
            eV, shape (…,).
        """
        # Its derivative is a number for features that vanish, too.
        return torch.matmul(features, self.factor.t()).square().sum(dim=-1).clamp(min=1.0e-200).sqrt()
