"""Screened nuclear repulsion of close atoms."""

from typing import Any

import torch


class PairRepulsion(torch.nn.Module):
    r"""Ziegler–Biersack–Littmark potential with the parameters of a native ``ZBLBasis``.

    :math:`V(r) = \frac{e^2}{4\pi\epsilon_0} \frac{Z_i Z_j}{r} \phi(r / a)`, half of it to each atom of a pair, faded out
    at the sum of the covalent radii by MACE's polynomial envelope.

    Parameters
    ----------
    native : torch.nn.Module
        ``mace.modules.radial.ZBLBasis``; its buffers and parameters keep their names.

    References
    ----------
    .. [1] J. F. Ziegler, J. P. Biersack, U. Littmark, *The Stopping and Range of Ions in Solids*, Pergamon 1985.
    """

    def __init__(self, native: Any) -> None:
        super().__init__()
        for name, buffer in native.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, parameter in native.named_parameters(recurse=False):
            self.register_parameter(name, parameter)

    def forward(
        self, lengths: torch.Tensor, sender_number: torch.Tensor, receiver_number: torch.Tensor
    ) -> torch.Tensor:
        """Compute each edge's half of the pair energy.

        Parameters
        ----------
        lengths : torch.Tensor
            Å, float64, shape (nedge, 1).
        sender_number, receiver_number : torch.Tensor
            Atomic numbers, int64, shape (nedge, 1).

        Returns
        -------
        torch.Tensor
            eV, shape (nedge, 1).
        """
        # 0.529 Å and 14.3996 eV Å as in native MACE.
        screening = torch.pow(sender_number, self.a_exp) + torch.pow(receiver_number, self.a_exp)
        reduced = lengths * screening / (self.a_prefactor * 0.529)
        phi = self.c[0] * torch.exp(-3.2 * reduced) + self.c[1] * torch.exp(-0.9423 * reduced)
        phi = phi + self.c[2] * torch.exp(-0.4028 * reduced) + self.c[3] * torch.exp(-0.2016 * reduced)
        coulomb = 14.3996 * (sender_number * receiver_number) / lengths
        end = self.covalent_radii[sender_number] + self.covalent_radii[receiver_number]
        return 0.5 * coulomb * phi * self.envelope(lengths / end)

    def envelope(self, x: torch.Tensor) -> torch.Tensor:
        """Fade from 1 to 0 on [0, 1] with vanishing first and second derivatives at 1 (for any exponent p)."""
        p = self.p
        polynomial = (
            1.0
            - (p + 1.0) * (p + 2.0) / 2.0 * torch.pow(x, p)
            + p * (p + 2.0) * torch.pow(x, p + 1)
            - p * (p + 1.0) / 2 * torch.pow(x, p + 2)
        )
        return polynomial * (x < 1.0)
