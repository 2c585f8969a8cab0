r"""The layers of MACE in plain torch, reordered for speed; parameters named and shaped as in native MACE.

Features are stored as (node, component, channel): the components of all irreps one after the other, the channels
last and contiguous, so that every channel-wise step is a vector operation and every mixing of channels a matrix
product. Native MACE stores (channel, component) per irrep; :meth:`Rows.native` converts.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor

from deepmd_gnn.graph.compilation import compilation
from deepmd_gnn.nn.activations import activate
from deepmd_gnn.nn.modules import ModuleList
from deepmd_gnn.nn.products import product as product_operator


def matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply two matrices.

    Parameters
    ----------
    left, right : torch.Tensor
        Shapes (n, k) and (k, m).

    Returns
    -------
    torch.Tensor
        Shape (n, m).
    """
    if left.dtype == torch.float64:
        # Inside LAMMPS, whose library exports a slow reference `dgemm_` that torch's plain products in float64 are
        # bound to. Batches of two or more go to the library that torch brings.
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            nrow = left.shape[0]
            half = (nrow + 1) // 2
            rows = left if 2 * half == nrow else torch.cat([left, left.new_zeros(1, left.shape[1])])
            product = torch.bmm(rows.reshape(2, half, -1), right.unsqueeze(0).expand(2, -1, -1))
            return product.view(2 * half, -1)[:nrow]
        elif isinstance(left, FakeTensor) or isinstance(right, FakeTensor):  # noqa: RET505 - TorchScript
            return _traced_product(left, right)
    return left @ right


def _traced_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if compilation().plain_products:
        return left @ right
    return _Product.apply(left, right)  # type: ignore[no-any-return, no-untyped-call]


class _Product(torch.autograd.Function):
    """Derivatives as products of the same form.

    Of autograd's own, with the rows in the middle of a batch, TorchInductor asks whether there is a single row, which it
    cannot know (``is_preferred_layout_as_bmm_input``).
    """

    @staticmethod
    def forward(ctx: Any, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(left, right)
        return _in_two(left, right)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        left, right = ctx.saved_tensors
        first, second = ctx.needs_input_grad
        return (
            _Product.apply(gradient, right.t()) if first else None,  # type: ignore[no-untyped-call]
            _Product.apply(left.t(), gradient) if second else None,  # type: ignore[no-untyped-call]
        )


def _in_two(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply in a batch of two while a graph is traced, where only one of the outer sizes is a plain number."""
    if compilation().file_operators:
        return product_operator(left, right)  # type: ignore[no-any-return]
    nrow, ncol = left.shape[0], right.shape[1]
    if isinstance(nrow, int):
        left = torch.nn.functional.pad(left, (0, 0, 0, nrow % 2))
        rows = left.view(2, -1, left.shape[1])
        return torch.bmm(rows, right.unsqueeze(0).expand(2, -1, -1)).flatten(0, 1)[:nrow]
    right = torch.nn.functional.pad(right, (0, ncol % 2))
    columns = right.view(right.shape[0], 2, -1).transpose(0, 1)
    product = torch.bmm(left.unsqueeze(0).expand(2, -1, -1), columns)
    return product.transpose(0, 1).flatten(1)[:, :ncol]


class SphericalHarmonics(torch.nn.Module):
    r"""Real spherical harmonics by recursion, :math:`Y_{l+1} \propto (Y_l \otimes Y_1)_{l+1}`.

    Parameters
    ----------
    steps : list[torch.Tensor]
        Coupling of step l → l + 1, shape ((2l + 1) * 3, 2l + 3), for l = 1, 2, …
    """

    max_ell: Final[int]

    def __init__(self, steps: list[torch.Tensor]) -> None:
        super().__init__()
        self.max_ell = len(steps) + 1
        self.steps = ModuleList([Constant(step) for step in steps])

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Evaluate all l with e3nn's "component" normalisation.

        Parameters
        ----------
        vectors : torch.Tensor
            Non-zero vectors, Å (only their directions count), shape (nedge, 3).

        Returns
        -------
        torch.Tensor
            Shape (nedge, (max_ell + 1)²).
        """
        first = vectors * (3.0**0.5 / torch.linalg.norm(vectors, dim=1, keepdim=True))
        harmonics = [torch.ones_like(first[:, :1]), first]
        last = first
        for step in self.steps:
            last = matmul((last.unsqueeze(2) * first.unsqueeze(1)).flatten(1), step.value)
            harmonics.append(last)
        return torch.cat(harmonics, dim=1)


class Constant(torch.nn.Module):
    """A tensor that follows the model to its device and precision but is no part of its weights.

    Parameters
    ----------
    value : torch.Tensor
        The tensor.
    """

    value: torch.Tensor

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)
        # TorchScript stores such buffers all the same; a model that reads a frozen file's weights skips them.
        self.register_load_state_dict_pre_hook(_forget_value)  # type: ignore[no-untyped-call]


def _forget_value(
    module: torch.nn.Module,  # noqa: ARG001 - torch's signature
    state_dict: dict[str, torch.Tensor],
    prefix: str,
    *rest: object,  # noqa: ARG001
) -> None:
    state_dict.pop(prefix + "value", None)


class RadialNetwork(torch.nn.Module):
    """Multilayer perceptron with e3nn's normalisation and no biases.

    Parameters
    ----------
    weights : list[torch.Tensor]
        Weight of each layer, shape (inputs, outputs).
    gain : float
        Factor that gives the activation unit second moment.
    activation : str
        One of :func:`~deepmd_gnn.nn.activations.activate`.
    """

    if TYPE_CHECKING:

        def children(self) -> "Iterator[Weight]":
            """The layers."""

    def __init__(self, weights: list[torch.Tensor], gain: float, activation: str = "silu") -> None:
        super().__init__()
        self.gain = gain
        self.activation = activation
        self.names = [f"layer{index}" for index in range(len(weights))]
        for name, weight in zip(self.names, weights, strict=True):
            self.add_module(name, Weight(weight))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Apply the layers, the last one without activation; shape (nedge, inputs) → (nedge, outputs)."""
        hidden = inputs
        first = True
        for layer in self.children():
            if not first:
                hidden = activate(hidden, self.activation) * self.gain
            first = False
            hidden = matmul(hidden, layer.weight * layer.weight.shape[0] ** -0.5)
        return hidden


class Weight(torch.nn.Module):
    """A parameter called ``weight``.

    Parameters
    ----------
    weight : torch.Tensor
        Initial value.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach().clone())


class LinearPath(NamedTuple):
    """One block of a linear map between irreps."""

    source: int
    """First component of the irrep in the input."""
    target: int
    """First component in the output."""
    dim: int
    """Number of components."""
    offset: int
    """First weight."""
    inputs: int
    """Channels of the input; 0 makes an irrep that stays zero."""
    outputs: int
    """Channels of the output."""
    factor: float
    """Normalisation."""


class Linear(torch.nn.Module):
    """Mix the channels of every irrep (e3nn's ``o3.Linear``), optionally with one matrix per element.

    Parameters
    ----------
    weight : torch.Tensor
        Flat weights as in e3nn.
    paths : list[LinearPath]
        Blocks, sorted by target.
    ntypes : int
        0: the same weights for all nodes. Otherwise the weights of a block have shape (inputs, ntypes, outputs),
        as in e3nn's fully connected tensor product with the one-hot element.
    channels : int
        Channels of a component of the result; 0: as many as the narrowest block has.
    blocks : list[tuple[int, int]], optional
        Inputs and outputs of all blocks of the weights, in their order, if they are not of one width or not all in `paths`.
    """

    ntypes: Final[int]
    channels: Final[int]

    def __init__(
        self,
        weight: torch.Tensor,
        paths: list[LinearPath],
        ntypes: int = 0,
        channels: int = 0,
        blocks: list[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        # Scalars may come in several sets of channels (the gates of non-linear blocks): each is a component.
        self.channels = channels or min(path.outputs for path in paths)
        self.blocks = blocks or [(path.inputs, path.outputs) for path in paths]
        self.weight = torch.nn.Parameter(weight.detach().clone())
        self.paths = [tuple(path[:-1]) for path in paths]
        self.factors = [path.factor for path in paths]
        self.ntypes = ntypes

    def forward(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """Apply the map.

        Parameters
        ----------
        features : torch.Tensor
            Shape (nnode, components, channels).
        one_hot : torch.Tensor
            Elements, shape (nnode, ntypes); read only with weights per element.

        Returns
        -------
        torch.Tensor
            Shape (nnode, components, channels).
        """
        if self.ntypes == 0:
            return self.mix(features, 0)
        total = self.mix(features * one_hot[:, 0].view(-1, 1, 1), 0)
        for kind in range(1, self.ntypes):
            total = total + self.mix(features * one_hot[:, kind].view(-1, 1, 1), kind)
        return total

    def mix(self, features: torch.Tensor, kind: int) -> torch.Tensor:
        """Apply the matrices of one element to all nodes, shape (nnode, components, channels) → the same."""
        outputs: list[torch.Tensor] = []
        last = -1
        ntypes = max(1, self.ntypes)
        for path, factor in zip(self.paths, self.factors):  # noqa: B905 - TorchScript
            source, target, dim, offset, inputs, width = path
            if inputs == 0:  # nothing couples to this irrep
                outputs.append(
                    features.new_zeros(features.shape[0], dim * width // self.channels, self.channels)
                )
                continue
            block = self.weight[offset : offset + inputs * ntypes * width].view(inputs, ntypes, width)[
                :, kind
            ]
            rows = features[:, source : source + dim].reshape(-1, inputs)
            mixed = matmul(rows, block * factor).view(-1, dim * width // self.channels, self.channels)
            if target == last:
                outputs[-1] = outputs[-1] + mixed
            else:
                outputs.append(mixed)
            last = target
        return torch.cat(outputs, dim=1)
