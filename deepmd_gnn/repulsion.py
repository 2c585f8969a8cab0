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
        types: torch.Tensor,
        edge_index: torch.Tensor,
        atomic_numbers: torch.Tensor,
        nnode: int,
    ) -> torch.Tensor:
        """Evaluate.

        Parameters
        ----------
        lengths : torch.Tensor
            Å, float64, shape (nedge, 1).
        types : torch.Tensor
            Types of the senders, the receivers first, shape (nsender,).
        edge_index : torch.Tensor
            Sender and receiver, shape (2, nedge).
        atomic_numbers : torch.Tensor
            Of each type, shape (ntypes,).
        nnode : int
            Number of receivers.

        Returns
        -------
        torch.Tensor
            eV, half of each pair's energy to each end, shape (nnode,).
        """
        numbers = atomic_numbers[types]
        charges = numbers.to(lengths.dtype)
        first, second = charges[edge_index[0]].unsqueeze(1), charges[edge_index[1]].unsqueeze(1)
        screening = self.a_prefactor * 0.529 / (first.pow(self.a_exp) + second.pow(self.a_exp))
        scaled = lengths / screening
        phi = (
            self.c[0] * torch.exp(-3.2 * scaled)
            + self.c[1] * torch.exp(-0.9423 * scaled)
            + self.c[2] * torch.exp(-0.4028 * scaled)
            + self.c[3] * torch.exp(-0.2016 * scaled)
        )
        radii = self.covalent_radii[numbers]
        reach = (radii[edge_index[0]] + radii[edge_index[1]]).unsqueeze(1)
        pairs = 14.3996 * first * second / lengths * phi * self._envelope(lengths / reach)
        return lengths.new_zeros(nnode).index_add(0, edge_index[1], 0.5 * pairs.squeeze(1))

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
