"""From a network to its kernels of training, and the modules that launch them in place of the torch code."""

from typing import Any

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels.cpu.convolution_code import shape_of
from deepmd_gnn.kernels.cpu.generated import contraction_polynomials
from deepmd_gnn.kernels.triton import training_contraction, training_convolution
from deepmd_gnn.kernels.triton.modules import CONTRACTED, data_of_module, monomials_of, power_of_two, terms_of
from deepmd_gnn.kernels.triton.source import generated_module, kept_source
from deepmd_gnn.kernels.triton.training_contraction_code import ATOMS, ContractionTraining
from deepmd_gnn.kernels.triton.training_convolution_code import ConvolutionTraining
from deepmd_gnn.kernels.triton.training_launches import Launch


def convolution_source(conv: Any, channels: int, dtype: str) -> str:
    """Write the kernels of a :class:`~deepmd_gnn.nn.convolution.Convolution`.

    Parameters
    ----------
    conv : Convolution
        The torch code.
    channels : int
        Of the features.
    dtype : str
        Precision of the network.

    Returns
    -------
    str
        Name of the generated module.
    """
    shape = shape_of(conv)
    kernels = ConvolutionTraining(shape, channels, min(CONTRACTED, power_of_two(channels)), dtype)
    data = data_of_module(
        WIDTH=shape.width,
        COMPONENTS=shape.components,
        HARMONICS=shape.harmonics,
        PATHS=terms_of(shape),
        BLOCKS=kernels.blocks,
        GROUPS=len(kernels.pairs),
    )
    return kept_source(kernels.code() + data)


def contraction_source(contraction: Any, channels: int, dtype: str) -> str:
    """Write the kernels of a :class:`~deepmd_gnn.nn.symmetric_contraction.SymmetricContraction`.

    Parameters
    ----------
    contraction : SymmetricContraction
        The torch code.
    channels : int
        Of the features.
    dtype : str
        Precision of the network.

    Returns
    -------
    str
        Name of the generated module.
    """
    polynomial = contraction_polynomials(contraction)
    kernels = ContractionTraining(polynomial, channels, min(CONTRACTED, power_of_two(channels)), dtype)
    data = data_of_module(
        COMPONENTS=polynomial.variables,
        WIDTH=len(polynomial.trees),
        BLOCKS=kernels.blocks,
        PARTS=len(kernels.parts),
        GROUPS=len(kernels.groups),
        ATOMS=ATOMS,
        TERMS=polynomial.terms,
        MONOMIALS=monomials_of(polynomial),
    )
    return kept_source(kernels.code() + data)


def weights_to_coefficients(contraction: Any, terms: list[tuple[int, int]]) -> torch.Tensor:
    """The linear map from the weights of all orders and irreps to the coefficients of the terms.

    Parameters
    ----------
    contraction : SymmetricContraction
        The torch code.
    terms : list[tuple[int, int]]
        Output component and monomial of every coefficient.

    Returns
    -------
    torch.Tensor
        Shape (terms, parameters), in the precision and on the device of the contraction.
    """
    parts = [part.coefficients.value.transpose(1, 2) for part in contraction.contractions]
    outputs, monomials = (list(column) for column in zip(*terms, strict=True))
    nmonomial = parts[0].shape[1]
    # Components of an irrep read the weights of that irrep only.
    matrix = torch.block_diag(*(part.flatten(0, 1) for part in parts))
    return matrix.view(-1, nmonomial, matrix.shape[1])[outputs, monomials].contiguous()


def convolution_launches(code: str, channels: int, like: torch.Tensor, moving: bool) -> list[Launch]:
    """Launches of all kernels of a convolution for a single edge, to compile them.

    Parameters
    ----------
    code : str
        Generated module.
    channels : int
        Of the features.
    like : torch.Tensor
        Of any shape, of the precision and on the device of the network.
    moving : bool
        Whether what is sent depends on positions.

    Returns
    -------
    list[Launch]
    """
    module = generated_module(code)
    radial = like.new_zeros(1, len(module.PATHS) * channels)
    sent, out = (like.new_zeros(1, width, channels) for width in (module.COMPONENTS, module.WIDTH))
    harmonics = like.new_zeros(1, module.HARMONICS)
    place, begin = (torch.arange(size, device=like.device) for size in (1, 2))
    lists = (place, place, begin)
    inputs = (radial, sent, harmonics)
    parts = like.new_zeros(module.BLOCKS * module.GROUPS, *harmonics.shape)
    results = (torch.zeros_like(radial), torch.zeros_like(sent), parts)
    launches = training_convolution.values_launches(module, *inputs, *lists, out)
    for of_sent, of_harmonics in ((moving, True), (True, False)):
        launches += training_convolution.derivative_launches(
            module, out, *inputs, *lists, *results, of_sent=of_sent, of_harmonics=of_harmonics
        )
    return launches + training_convolution.change_launches(
        module,
        out,
        *inputs,
        *inputs,
        *lists,
        torch.zeros_like(out),
        *results[:2],
        moving=moving,
        of_sent=True,
    )


def contraction_launches(code: str, channels: int, like: torch.Tensor) -> list[Launch]:
    """The same for a contraction and a single atom; `like` has any shape."""
    module = generated_module(code)
    features, out = (like.new_zeros(1, width, channels) for width in (module.COMPONENTS, module.WIDTH))
    coefficients = like.new_zeros(1, len(module.TERMS), channels)
    kind = torch.zeros(1, dtype=torch.int64, device=like.device)
    d_features, d_coefficients = torch.zeros_like(features), torch.zeros_like(coefficients)
    inputs = (features, coefficients, kind)
    return [
        *training_contraction.values_launches(module, *inputs, out),
        *training_contraction.derivative_launches(module, out, *inputs, d_features),
        *training_contraction.weights_launches(module, d_coefficients, out, features, kind),
        *training_contraction.change_launches(
            module,
            out,
            features,
            features,
            coefficients,
            kind,
            torch.zeros_like(out),
            d_features,
            d_coefficients,
        ),
    ]


class TrainedConvolution(torch.nn.Module):
    """Convolution of a layer.

    Parameters
    ----------
    code : str
        Generated module.
    channels : int
        Of the features.
    moving : bool
        Whether what is sent depends on positions.
    """

    def __init__(self, code: str, channels: int, moving: bool) -> None:
        super().__init__()
        self.code, self.channels, self.moving = code, channels, moving

    def forward(
        self, sent: torch.Tensor, graph: AtomGraph, harmonics: torch.Tensor, radial: torch.Tensor
    ) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.convolution.Convolution`."""
        assert graph.order is not None
        assert graph.begin is not None
        return training_convolution.convolve(
            radial.contiguous(),
            sent.contiguous(),
            harmonics.contiguous(),
            graph.edge_index[0].contiguous(),
            graph.order,
            graph.begin,
            self.code,
            self.moving,
        )


class TrainedContraction(torch.nn.Module):
    """Symmetric contraction of a layer.

    Parameters
    ----------
    contraction : SymmetricContraction
        The torch code.
    code : str
        Generated module.
    """

    def __init__(self, contraction: Any, code: str) -> None:
        super().__init__()
        self.code = code
        self.matrix = weights_to_coefficients(contraction, generated_module(code).TERMS)
        self.weights: list[torch.Tensor] = []

    def reading(self, contraction: Any) -> "TrainedContraction":
        """Use the weights of a contraction of the same form; they stay its own."""
        self.weights = [
            weight for part in contraction.contractions for weight in (part.weights_max, *part.weights)
        ]
        return self

    def forward(self, features: torch.Tensor, types: torch.Tensor, graph: AtomGraph) -> torch.Tensor:
        """See :meth:`~deepmd_gnn.nn.symmetric_contraction.SymmetricContraction.forward`."""
        del graph
        coefficients = torch.matmul(self.matrix, torch.cat(self.weights, dim=1))
        return training_contraction.contract(features.contiguous(), coefficients, types, self.code)
