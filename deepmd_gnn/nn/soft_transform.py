"""The Soft transform of MACE 0.3.5 to 0.3.8, another function than today's."""

import torch


class OldSoftTransform(torch.nn.Module):
    r"""Short distances are pushed outwards: :math:`x + \frac12 - \frac12 \tanh(\rho + a \rho^b)`.

    :math:`\rho` is the distance in units of a quarter of the sum of both covalent radii.

    Parameters
    ----------
    covalent_radii : torch.Tensor
        Å, by atomic number.
    """

    a: torch.Tensor
    b: torch.Tensor
    covalent_radii: torch.Tensor

    def __init__(self, covalent_radii: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("a", torch.tensor(0.2, dtype=torch.float64))
        self.register_buffer("b", torch.tensor(3.0, dtype=torch.float64))
        self.register_buffer("covalent_radii", covalent_radii)

    def forward(
        self,
        x: torch.Tensor,
        node_attrs: torch.Tensor,
        edge_index: torch.Tensor,
        atomic_numbers: torch.Tensor,
    ) -> torch.Tensor:
        """Transform distances; called as native MACE's transforms.

        Parameters
        ----------
        x : torch.Tensor
            Å, shape (nedge, 1).
        node_attrs : torch.Tensor
            One-hot elements, shape (nnode, ntypes).
        edge_index : torch.Tensor
            Senders and receivers, shape (2, nedge).
        atomic_numbers : torch.Tensor
            Shape (ntypes,).

        Returns
        -------
        torch.Tensor
            Å, shape (nedge, 1).
        """
        radii = self.covalent_radii[atomic_numbers[torch.argmax(node_attrs, dim=1)]].unsqueeze(1)
        scaled = 4.0 * x / (radii[edge_index[0]] + radii[edge_index[1]])
        return x + 0.5 - 0.5 * torch.tanh(scaled + self.a * scaled**self.b)
