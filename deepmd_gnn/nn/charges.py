r"""Charges of atoms, their Coulomb energy, and an embedding of the total charge: options of mlip's MACE.

Charges are linear in what the last layers of the readouts read, as in mlip 0.2.5, and shifted by the same number for all atoms of
a frame, so that their sum is its total charge. Their energy is

.. math:: E_i = \frac{k}{2} q_i \Big( \sum_{j, r_{ij} < R} q_j \big( \chi(r_{ij}) + s(r_{ij}) \big) + q_i s(0) \Big),
          \quad s(r) = \frac{r^2}{2 R^3} - \frac{3}{2 R} .

:math:`\chi` is 1/r, below 5 Å bounded as in PhysNet [1]_; s is the reaction field of a conductor beyond the cutoff R [2]_. Energy and force vanish
there. mlip has no s: its energy jumps at the cutoff.

References
----------
.. [1] O. T. Unke and M. Meuwly, J. Chem. Theory Comput. 15, 3678 (2019).
.. [2] J. A. Barker and R. O. Watts, Mol. Phys. 26, 789 (1973).
"""

import torch

from deepmd_gnn.config.charges import LEAST_CUTOFF
from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.linear import Weight
from deepmd_gnn.nn.modules import ModuleList

# e²/(4πε0) in eV Å, with mlip's ε0 of 5.5263494e-3 e²/(eV Å).
COULOMB = 1.0 / (4.0 * 3.141592653589793 * 5.5263494e-3)


def bounded_inverse(r: torch.Tensor, exact_from: float) -> torch.Tensor:
    """PhysNet's 1/r, finite at 0 and exact from a distance on; distances above 0 in Å, any shape, → 1/Å."""
    x = torch.clamp(r / exact_from, max=1.0)
    near = 1.0 - 6.0 * x**5 + 15.0 * x**4 - 10.0 * x**3
    return near * torch.rsqrt(r.square() + 1.0) + (1.0 - near) / r


class PartialCharges(torch.nn.Module):
    """Charges of atoms.

    Parameters
    ----------
    weights : list[torch.Tensor]
        For each readout, shape (weights of its last layer,).
    column : int
        Of the total charge among the quantities of a frame.
    cutoff : float
        Of the Coulomb energy, Å.
    """

    def __init__(self, weights: list[torch.Tensor], column: int, cutoff: float) -> None:
        super().__init__()
        self.layers = ModuleList([Weight(weight) for weight in weights])
        self.column = column
        self.cutoff = cutoff
        self.exact_from = LEAST_CUTOFF
        self.coulomb = COULOMB

    def forward(self, inputs: list[torch.Tensor], graph: AtomGraph) -> torch.Tensor:
        """Read charges.

        Parameters
        ----------
        inputs : list[torch.Tensor]
            Of the last layer of each readout, shape (nnode, ·).
        graph : AtomGraph
            Frames and their total charges.

        Returns
        -------
        torch.Tensor
            e, float64, shape (nnode,); 0 for the guard and virtual atoms.
        """
        values, frames, present = graph.values, graph.frames, graph.present
        assert values is not None
        assert frames is not None
        assert present is not None
        charge = torch.zeros_like(present)
        for index, layer in enumerate(self.layers):
            charge = charge + (inputs[index] @ layer.weight).to(torch.float64)
        charge = charge * present
        frame = frames[: present.shape[0]]
        zero = torch.zeros(values.shape[0], dtype=torch.float64, device=charge.device)
        lacking = values[:, self.column] - zero.index_add(0, frame, charge)
        share = lacking / zero.index_add(0, frame, present).clamp(min=1.0)
        return charge + share[frame] * present

    def energies(self, charge: torch.Tensor, sent: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """Coulomb energy of each node.

        Parameters
        ----------
        charge, sent : torch.Tensor
            Charges of the nodes and of all senders, e, float64, shapes (nnode,) and (nsender,).
        graph : AtomGraph
            Pairs of charges.

        Returns
        -------
        torch.Tensor
            eV, float64, shape (nnode,).
        """
        index, vectors = graph.far_index, graph.far_vec
        assert index is not None
        assert vectors is not None
        distance = torch.linalg.norm(vectors, dim=1)
        constant = -1.5 / self.cutoff
        field = distance.square() * (0.5 / self.cutoff**3) + constant
        potential = sent[index[0]] * (bounded_inverse(distance, self.exact_from) + field)
        total = (charge * constant).index_add(0, index[1], potential)
        return 0.5 * self.coulomb * charge * total


class ChargeEmbedding(torch.nn.Module):
    """A row of features for each total charge, mlip's ``use_total_charge_embedding``.

    Parameters
    ----------
    weight : torch.Tensor
        Shape (2 largest + 1, channels): charges from -largest to largest.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach().clone())

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of the total charges, NaN where there is none: shape (nframe, 1), float64 → (nframe, channels)."""
        count = self.weight.shape[0]
        place = values[:, 0] + (count - 1) // 2
        known = (place == torch.round(place)) & (place >= 0) & (place < count)
        index = torch.where(known, place, torch.zeros_like(place)).to(torch.int64)
        # A product, so that its derivative adds nothing atomically when it is compiled; frames are few.
        rows = torch.nn.functional.one_hot(index, count).to(self.weight.dtype) @ self.weight
        return torch.where(known.unsqueeze(1), rows, torch.full_like(rows, float("nan")))
