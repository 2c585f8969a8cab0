"""The product basis of MACE as polynomials over distinct monomials; weights named as in native MACE."""

from typing import Final

import torch

from deepmd_gnn.mace_blocks import Constant, Linear, matmul


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

    def forward(self, monomials: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Contract.

        Parameters
        ----------
        monomials : torch.Tensor
            Shape (nmonomial, nnode, channels).
        types : torch.Tensor
            Shape (nnode,).

        Returns
        -------
        torch.Tensor
            Shape (nnode, 2L + 1, channels).
        """
        nmonomial, nnode, channels = monomials.shape
        weights = [self.weights_max]
        for weight in self.weights:
            weights.append(weight)
        per_node = torch.cat(weights, dim=1)[types].transpose(0, 1)  # (nparam, nnode, channels)
        coefficients = self.coefficients.value
        dim, nparam, _ = coefficients.shape
        basis = matmul(
            coefficients.view(dim * nparam, nmonomial), monomials.view(nmonomial, nnode * channels)
        )
        return (basis.view(dim, nparam, nnode, channels) * per_node).sum(dim=1).transpose(0, 1)


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
        self.contractions = torch.nn.ModuleList(contractions)
        self.prefixes = torch.nn.ModuleList([Constant(prefix) for prefix in prefixes])
        self.lasts = torch.nn.ModuleList([Constant(last) for last in lasts])

    def forward(self, features: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Contract.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, components, channels).
        types : torch.Tensor
            Shape (nnode,).

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        components = features.transpose(0, 1).contiguous()
        orders = [components]
        product = components
        for prefix, last in zip(self.prefixes, self.lasts):  # noqa: B905 - TorchScript
            product = product[prefix.value] * components[last.value]
            orders.append(product)
        monomials = torch.cat(orders)
        outputs: list[torch.Tensor] = []
        for contraction in self.contractions:
            outputs.append(contraction(monomials, types))
        return torch.cat(outputs, dim=1)


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

    def __init__(self, symmetric_contractions: SymmetricContraction, linear: Linear, agnostic: bool) -> None:
        super().__init__()
        self.symmetric_contractions = symmetric_contractions
        self.linear = linear
        self.agnostic = agnostic

    def forward(self, message: torch.Tensor, types: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """Compute the node features, without skip connection.

        Parameters
        ----------
        message : torch.Tensor
            Shape (nnode, components, channels).
        types, one_hot : torch.Tensor
            Elements, shapes (nnode,) and (nnode, ntypes).

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        kinds = torch.zeros_like(types) if self.agnostic else types
        return self.linear(self.symmetric_contractions(message, kinds), one_hot)
