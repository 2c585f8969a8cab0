"""The ZBL repulsion as an operator of a ``.pt2`` for CPUs, see ``repulsion.hpp``: only pairs within its reach are evaluated."""

from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.repulsion import DECAYS, HALF_COULOMB, Repulsion, envelope


@torch.library.custom_op("deepmd_gnn::pair_repulsion", mutates_args=())
def pair_repulsion(
    vectors: torch.Tensor,
    index: torch.Tensor,
    kind: torch.Tensor,
    pairs: torch.Tensor,
    shape: torch.Tensor,
    nnode: int,
) -> torch.Tensor:
    """Give each node half of the energies of its pairs.

    Parameters
    ----------
    vectors : torch.Tensor
        Å, float64, contiguous, shape (nedge, 3).
    index : torch.Tensor
        Sender and receiver of each edge, int64, contiguous, shape (2, nedge).
    kind : torch.Tensor
        Type of each sender, the receivers first, int64, shape (nsender,).
    pairs : torch.Tensor
        For each pair of types where the repulsion ends, Å, the screening length, Å, and half of the Coulomb energy at 1 Å, eV; float64,
        shape (ntypes, ntypes, 3).
    shape : torch.Tensor
        Factors and decays of the exponentials, then the exponent of the envelope, float64, shape (9,).
    nnode : int
        Receivers.

    Returns
    -------
    torch.Tensor
        eV, float64, shape (nnode,).
    """
    energy, _ = _of_edges(vectors, index, kind, pairs, shape)
    return energy.new_zeros(nnode).index_add(0, index[1], energy)


@pair_repulsion.register_fake
def _(vectors: Any, index: Any, kind: Any, pairs: Any, shape: Any, nnode: int) -> torch.Tensor:  # noqa: ARG001
    return vectors.new_empty(nnode)


@torch.library.custom_op("deepmd_gnn::pair_repulsion_backward", mutates_args=())
def pair_repulsion_backward(
    gradient: torch.Tensor,
    vectors: torch.Tensor,
    index: torch.Tensor,
    kind: torch.Tensor,
    pairs: torch.Tensor,
    shape: torch.Tensor,
) -> torch.Tensor:
    """Differentiate :func:`pair_repulsion` with respect to the vectors, shape (nedge, 3); `gradient` has shape (nnode,)."""
    _, slope = _of_edges(vectors, index, kind, pairs, shape)
    along = slope / torch.linalg.norm(vectors, dim=1) * gradient[index[1]]
    return vectors * along.unsqueeze(1)


@pair_repulsion_backward.register_fake
def _(gradient: Any, vectors: Any, index: Any, kind: Any, pairs: Any, shape: Any) -> torch.Tensor:  # noqa: ARG001
    return torch.empty_like(vectors)


def _of_edges(
    vectors: torch.Tensor, index: torch.Tensor, kind: torch.Tensor, pairs: torch.Tensor, shape: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy of each edge, eV, and its derivative by the distance, eV/Å, shape (nedge,)."""
    reach, screening, strength = pairs[kind[index[0]], kind[index[1]]].unbind(1)
    r = torch.linalg.norm(vectors, dim=1)
    terms = shape[:4] * torch.exp(-shape[4:8] * (r / screening).unsqueeze(1))
    phi, falls = terms.sum(dim=1), -(terms * shape[4:8]).sum(dim=1) / screening
    p, x = shape[8], r / reach
    within = envelope(x, p)
    descent = -p * (p + 1.0) * (p + 2.0) / 2.0 * x ** (p - 1.0) * (1.0 - x) ** 2 / reach * (x < 1.0)
    return strength / r * phi * within, strength / r * ((falls - phi / r) * within + phi * descent)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:  # noqa: ARG001
    ctx.save_for_backward(*inputs[:5])


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return pair_repulsion_backward(gradient.contiguous(), *ctx.saved_tensors), *[None] * 5


pair_repulsion.register_autograd(_differentiate, setup_context=_save)


class OperatorRepulsion(torch.nn.Module):
    """Stands for :class:`~deepmd_gnn.nn.repulsion.Repulsion`.

    Parameters
    ----------
    repulsion : Repulsion
        The torch code.
    numbers : torch.Tensor
        Atomic numbers of the types, shape (ntypes,).
    """

    pairs: torch.Tensor
    shape: torch.Tensor

    def __init__(self, repulsion: Repulsion, numbers: torch.Tensor) -> None:
        super().__init__()
        first, second = torch.meshgrid(numbers.long(), numbers.long(), indexing="ij")
        screening = repulsion.screening(first.double(), second.double())
        strength = HALF_COULOMB * first.double() * second.double()
        self.register_buffer(
            "pairs", torch.stack([repulsion.reach(first, second), screening, strength], dim=2)
        )
        exponent = repulsion.p.double().view(1)
        self.register_buffer(
            "shape", torch.cat([repulsion.c, torch.tensor(DECAYS, dtype=torch.float64), exponent])
        )

    def forward(self, lengths: torch.Tensor, numbers: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.repulsion.Repulsion.forward`, shape (nnode, 1)."""
        del lengths, numbers
        nnode = graph.node_types.shape[0]
        inputs = (graph.edge_vec.contiguous(), graph.edge_index.contiguous(), graph.sender_types)
        energy: torch.Tensor = pair_repulsion(*inputs, self.pairs, self.shape, nnode)
        return energy.unsqueeze(1)


def operator_repulsion(energy_model: Any) -> OperatorRepulsion | None:
    """The module for a network that has the repulsion; else None."""
    if not getattr(energy_model, "repulsive", False):
        return None
    return OperatorRepulsion(energy_model.pair_repulsion_fn.cpu(), energy_model.atomic_numbers.cpu())
