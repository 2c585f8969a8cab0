"""The Ziegler–Biersack–Littmark repulsion as MACE has it, without its dependence on torch's default dtype."""

import torch


class Repulsion(torch.nn.Module):
    """ZBL between all pairs closer than the sum of their covalent radii.

    Native MACE multiplies a Python number by integer atomic numbers, which torch rounds to the default dtype of the
    process: with float32, DeePMD-kit's default, forces of close pairs are off by 1e-8 eV/Å. Here everything is float64,
    as in native MACE after ``MACECalculator(default_dtype="float64")``.

    Parameters
    ----------
    native : torch.nn.Module
        MACE's ``ZBLBasis``, whose constants are taken over under the same names.
    """

    c: torch.Tensor
    p: torch.Tensor
    covalent_radii: torch.Tensor
    a_exp: torch.Tensor
    a_prefactor: torch.Tensor

    def __init__(self, native: torch.nn.Module) -> None:
        super().__init__()
        for name in ("c", "p", "covalent_radii", "a_exp", "a_prefactor"):
            value = getattr(native, name).detach().clone()
            self.register_buffer(name, value.double() if value.is_floating_point() else value)

    def forward(
        self,
        lengths: torch.Tensor,
        sender_number: torch.Tensor,
        receiver_number: torch.Tensor,
    ) -> torch.Tensor:
        """Evaluate each edge's half of the pair energy.

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
        first, second = sender_number.to(lengths.dtype), receiver_number.to(lengths.dtype)
        screening = self.a_prefactor * 0.529 / (first.pow(self.a_exp) + second.pow(self.a_exp))
        scaled = lengths / screening
        phi = (
            self.c[0] * torch.exp(-3.2 * scaled)
            + self.c[1] * torch.exp(-0.9423 * scaled)
            + self.c[2] * torch.exp(-0.4028 * scaled)
            + self.c[3] * torch.exp(-0.2016 * scaled)
        )
        reach = self.covalent_radii[sender_number] + self.covalent_radii[receiver_number]
        return 0.5 * 14.3996 * first * second / lengths * phi * self._envelope(lengths / reach)

    def _envelope(self, x: torch.Tensor) -> torch.Tensor:
        """Polynomial cutoff."""
        p = self.p.to(x.dtype)
        falling = (
            1.0
            - (p + 1.0) * (p + 2.0) / 2.0 * x.pow(p)
            + p * (p + 2.0) * x.pow(p + 1.0)
            - p * (p + 1.0) / 2.0 * x.pow(p + 2.0)
        )
        return falling * (x < 1.0)
