"""The Ziegler–Biersack–Littmark repulsion as MACE has it, without its dependence on torch's default dtype."""

from typing import Final

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.edge_sums import sum_at_receivers

# Of the four exponentials of the screening function.
DECAYS = (3.2, 0.9423, 0.4028, 0.2016)
# Half of the Coulomb energy of two unit charges at 1 Å, eV.
HALF_COULOMB = 0.5 * 14.3996


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
    # TorchScript knows attributes of a module, and no names of a file.
    decays: Final[tuple[float, float, float, float]]
    half_coulomb: Final[float]
    p: torch.Tensor
    covalent_radii: torch.Tensor
    a_exp: torch.Tensor
    a_prefactor: torch.Tensor

    def __init__(self, native: torch.nn.Module) -> None:
        super().__init__()
        self.decays, self.half_coulomb = DECAYS, HALF_COULOMB  # type: ignore[misc]
        for name in ("c", "p", "covalent_radii", "a_exp", "a_prefactor"):
            value = getattr(native, name).detach().clone()
            self.register_buffer(name, value.double() if value.is_floating_point() else value)

    def forward(self, lengths: torch.Tensor, numbers: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """Give each node half of the energies of its pairs.

        Parameters
        ----------
        lengths : torch.Tensor
            Å, float64, shape (nedge, 1).
        numbers : torch.Tensor
            Atomic numbers of the senders, int64, shape (nsender, 1).
        graph : AtomGraph
            Senders and receivers.

        Returns
        -------
        torch.Tensor
            eV, float64, shape (nnode, 1).
        """
        sender_number, receiver_number = numbers[graph.edge_index[0]], numbers[graph.edge_index[1]]
        return sum_at_receivers(self.of_edges(lengths, sender_number, receiver_number), graph)

    def of_edges(
        self, lengths: torch.Tensor, sender_number: torch.Tensor, receiver_number: torch.Tensor
    ) -> torch.Tensor:
        """Half of the energy of each pair, eV, from lengths in Å and atomic numbers; all of shape (nedge, 1)."""
        first, second = sender_number.to(lengths.dtype), receiver_number.to(lengths.dtype)
        scaled = lengths / self.screening(first, second)
        phi = torch.zeros_like(scaled)
        for k, decay in enumerate(self.decays):
            phi = phi + self.c[k] * torch.exp(-decay * scaled)
        x = lengths / self.reach(sender_number, receiver_number)
        return self.half_coulomb * first * second / lengths * phi * envelope(x, self.p.to(x.dtype))

    def screening(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Screening length of pairs of atomic numbers, Å, of their shape."""
        return self.a_prefactor * 0.529 / (first.pow(self.a_exp) + second.pow(self.a_exp))

    def reach(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distance where the repulsion of pairs of atomic numbers ends, Å, of their shape."""
        return self.covalent_radii[first] + self.covalent_radii[second]


def envelope(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """Polynomial cutoff of exponent p, which is 1 at x = 0 and 0 from 1 on; any shape."""
    falling = (
        1.0
        - (p + 1.0) * (p + 2.0) / 2.0 * x.pow(p)
        + p * (p + 2.0) * x.pow(p + 1.0)
        - p * (p + 1.0) / 2.0 * x.pow(p + 2.0)
    )
    return falling * (x < 1.0)
