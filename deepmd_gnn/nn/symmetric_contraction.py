"""The product basis of MACE as polynomials over distinct monomials; weights named as in native MACE."""

from typing import Any, Final

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph, is_compiled, trains_compiled
from deepmd_gnn.graph.edge_operators import pick
from deepmd_gnn.graph.edge_sums import rows_of_types
from deepmd_gnn.nn.linear import Constant, Linear, matmul
from deepmd_gnn.nn.modules import ModuleList
from deepmd_gnn.nn.staged_products import StagedPolynomials
from deepmd_gnn.nn.stages import Stages


class Contraction(torch.nn.Module):
    r"""Symmetric contraction to one irrep: a polynomial in the components with weights per element and channel.

    Parameters
    ----------
    coefficients : torch.Tensor
        Coupling :math:`U_{M,k,a}` of the monomials a, shape (2L + 1, nparam, nmonomial).
    weights : list[torch.Tensor]
        Native weights of the orders from the highest down, shape (ntypes, nparam of the order, channels).
    """

    def __init__(self, coefficients: torch.Tensor, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.coefficients = Constant(coefficients)
        # A coupling that vanishes leaves its weights without effect and without gradient.
        used = [bool(part.any()) for part in coefficients.split([w.shape[1] for w in weights], dim=1)]
        parameters = [torch.nn.Parameter(w.detach().clone(), u) for w, u in zip(weights, used, strict=True)]
        self.weights_max = parameters[0]
        self.weights = torch.nn.ParameterList(parameters[1:])

    def forward(self, monomials: torch.Tensor, types: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """Contract.

        Parameters
        ----------
        monomials : torch.Tensor
            Shape (nmonomial, nnode, channels).
        types : torch.Tensor
            Shape (nnode,).
        graph : AtomGraph
            Its mode is read.

        Returns
        -------
        torch.Tensor
            Shape (nnode, 2L + 1, channels).
        """
        nmonomial, nnode, channels = monomials.shape
        weights: list[torch.Tensor] = [self.weights_max]
        for weight in self.weights:
            weights.append(weight)
        per_node = rows_of_types(torch.cat(weights, dim=1), types, graph).transpose(
            0, 1
        )  # (nparam, nnode, channels)
        coefficients = self.coefficients.value
        dim, nparam, _ = coefficients.shape
        basis = matmul(
            coefficients.view(dim * nparam, nmonomial), monomials.view(nmonomial, nnode * channels)
        )
        return (basis.view(dim, nparam, nnode, channels) * per_node).sum(dim=1).transpose(0, 1)

    def of_kind(self, kind: int) -> torch.Tensor:
        """Multiply the weights of an element and the coefficients: its polynomials, shape (channels, 2L + 1, nmonomial)."""
        weights: list[torch.Tensor] = [self.weights_max[kind]]
        for weight in self.weights:
            weights.append(weight[kind])
        rows = torch.cat(weights).t()
        components: list[torch.Tensor] = []
        for coefficients in self.coefficients.value.unbind():
            components.append(matmul(rows, coefficients))
        return torch.stack(components, dim=1)


class Factor(torch.nn.Module):
    """Pick one factor of every monomial.

    Parameters
    ----------
    index : torch.Tensor
        Which of the factors each monomial has, shape (nmonomial,).
    nfactor : int
        Number of factors.
    """

    def __init__(self, index: torch.Tensor, nfactor: int) -> None:
        super().__init__()
        self.index = Constant(index)
        self.transposed = Constant(torch.nn.functional.one_hot(index, nfactor).T.double())

    def forward(self, factors: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """Gather.

        Parameters
        ----------
        factors : torch.Tensor
            Shape (nfactor, nnode, channels).
        graph : AtomGraph
            Its mode is read: a compiled one differentiates with a matrix product, for the reasons given in
            :mod:`~deepmd_gnn.graph.edge_sums`.

        Returns
        -------
        torch.Tensor
            Shape (nmonomial, nnode, channels).
        """
        if is_compiled(graph) and not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return _picked(factors, self.index.value, self.transposed.value, trains_compiled(graph))
        return factors[self.index.value]


@torch.jit.unused
def _picked(
    factors: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor, trains: bool
) -> torch.Tensor:
    if trains:  # the gradient will be differentiated once more, by the compiler
        return pick(factors, index, transposed)
    return _Pick.apply(factors, index, transposed)  # type: ignore[no-untyped-call]


class _Pick(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, factors: torch.Tensor, index: torch.Tensor, transposed: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(transposed)
        return factors.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (transposed,) = ctx.saved_tensors
        nfactor = transposed.shape[0]
        product = matmul(transposed, gradient.flatten(1))
        return product.view(nfactor, *gradient.shape[1:]), None, None


class SymmetricContraction(torch.nn.Module):
    """All irreps of the product basis (MACE paper, eqs. 10 and 11) from one set of monomials.

    Parameters
    ----------
    contractions : list[Contraction]
        One per output irrep.
    prefixes, lasts : list[torch.Tensor]
        For the orders 2, 3, …: each monomial is a monomial of the order below times a component.
    """

    def __init__(
        self, contractions: list[Contraction], prefixes: list[torch.Tensor], lasts: list[torch.Tensor]
    ) -> None:
        super().__init__()
        self.contractions = ModuleList(contractions)
        ncomponent = contractions[0].coefficients.value.shape[2] - sum(len(last) for last in lasts)
        below = [ncomponent, *(len(last) for last in lasts)]  # monomials of the orders 1, 2, …
        self.prefixes = ModuleList(
            [Factor(prefix, size) for prefix, size in zip(prefixes, below[:-1], strict=True)]
        )
        self.lasts = ModuleList([Factor(last, ncomponent) for last in lasts])
        self.fewest = 10  # nodes of an element that are worth it
        self.staged = StagedPolynomials(
            ncomponent, [prefix.tolist() for prefix in prefixes], [last.tolist() for last in lasts]
        )

    def forward(self, features: torch.Tensor, types: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """Contract.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, components, channels).
        types : torch.Tensor
            Shape (nnode,).
        graph : AtomGraph
            Its mode is read.

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        components = features.transpose(0, 1).contiguous()
        orders = [components]
        product = components
        for prefix, last in zip(self.prefixes, self.lasts):  # noqa: B905 - TorchScript
            product = prefix(product, graph) * last(components, graph)
            orders.append(product)
        monomials = torch.cat(orders)
        outputs: list[torch.Tensor] = []
        for contraction in self.contractions:
            outputs.append(contraction(monomials, types, graph))
        return torch.cat(outputs, dim=1)

    def in_stages(
        self, features: torch.Tensor, types: torch.Tensor, graph: AtomGraph, stages: Stages
    ) -> torch.Tensor:
        """:meth:`forward` as a leaf; what the derivative needs is appended to the stages."""
        with torch.no_grad():
            if self.is_few(types):
                contracted = self.forward(features, types, graph)
            else:
                contracted = self.staged(features, self.polynomials(types), types)
        contracted.requires_grad_(True)
        stages.messages.append(features)
        stages.contracted.append(contracted)
        return contracted

    def gradient_in_stages(
        self, features: torch.Tensor, types: torch.Tensor, graph: AtomGraph, gradient: torch.Tensor
    ) -> torch.Tensor:
        """Differentiate :meth:`in_stages`; `gradient` is with respect to its result, shapes as there.

        Of few nodes by autograd, in a graph of its own: other ranks may have many, and all must go through the exchange between the layers
        equally often.
        """
        if self.is_few(types):
            leaf = features.detach().requires_grad_(True)
            given: list[torch.Tensor | None] = [gradient]
            by_features = torch.autograd.grad([self.forward(leaf, types, graph)], [leaf], given)[0]
            assert by_features is not None
        else:
            with torch.no_grad():
                by_features = self.staged.in_pieces(features, self.polynomials(types), types, gradient)
        return by_features

    def is_few(self, types: torch.Tensor) -> bool:
        """Whether to multiply out the weights of elements takes longer than to evaluate their nodes; types of shape (nnode,)."""
        return types.shape[0] < self.fewest * int(torch.bincount(types).gt(0).sum())

    def polynomials(self, types: torch.Tensor) -> list[torch.Tensor]:
        """Coefficients of all polynomials for each element that there is, shape (channels, components, nmonomial)."""
        counts: list[int] = torch.bincount(types).tolist()
        found: list[torch.Tensor] = []
        for kind, count in enumerate(counts):
            parts: list[torch.Tensor] = []
            if count > 0:
                for contraction in self.contractions:
                    parts.append(contraction.of_kind(kind))
            found.append(torch.cat(parts, dim=1) if count > 0 else torch.zeros(0, device=types.device))
        return found


class Product(torch.nn.Module):
    """Symmetric contraction and linear map: MACE's ``EquivariantProductBasisBlock`` without its skip connection.

    Parameters
    ----------
    symmetric_contractions : SymmetricContraction
        The contraction.
    linear : Linear
        Mixes its channels.
    agnostic : bool
        Whether all elements share the weights of the contraction.
    """

    agnostic: Final[bool]
    gated: Final[bool]  # type: ignore[misc]
    limited: Final[bool]  # type: ignore[misc]

    def __init__(self, symmetric_contractions: SymmetricContraction, linear: Linear, agnostic: bool) -> None:
        super().__init__()
        self.gated = False
        self.limited = False
        # TorchScript wants both in every block.
        self.gate: torch.nn.Module = torch.nn.Identity()
        self.limit: torch.nn.Module = torch.nn.Identity()
        self.symmetric_contractions = symmetric_contractions
        self.linear = linear
        self.agnostic = agnostic

    @torch.jit.unused
    def set_gate(self, gate: torch.nn.Module) -> None:
        """Multiply the product basis by numbers, see :class:`~deepmd_gnn.nn.node_features.NodeGate`."""
        self.gate, self.gated = gate, True  # type: ignore[misc]

    @torch.jit.unused
    def set_limit(self, limit: torch.nn.Module) -> None:
        """Limit the features, see :class:`~deepmd_gnn.nn.node_features.SoftLimit`."""
        self.limit, self.limited = limit, True  # type: ignore[misc]

    def forward(
        self,
        message: torch.Tensor,
        types: torch.Tensor,
        one_hot: torch.Tensor,
        graph: AtomGraph,
        stages: Stages | None = None,
    ) -> torch.Tensor:
        """Compute the node features, without skip connection.

        Parameters
        ----------
        message : torch.Tensor
            Shape (nnode, components, channels).
        types, one_hot : torch.Tensor
            Elements, shapes (nnode,) and (nnode, ntypes).
        graph : AtomGraph
            Its mode is read.
        stages : Stages, optional
            Where the contraction is differentiated in stages.

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        kinds = self.kinds(types)
        if stages is None:
            features = self.symmetric_contractions(message, kinds, graph)
        else:
            features = self.symmetric_contractions.in_stages(message, kinds, graph, stages)
        if self.gated:
            features = self.gate(features, one_hot)
        features = self.linear(features, one_hot)
        if self.limited:
            features = self.limit(features)
        return features

    def kinds(self, types: torch.Tensor) -> torch.Tensor:
        """Which weights of the contraction nodes have, by their elements; shape (nnode,) → (nnode,)."""
        return torch.zeros_like(types) if self.agnostic else types
