"""Linear maps between channels in training: one launch for all irreps of a map, and one for the derivative of its weights.

A map is linear in features and matrices, and its derivative with respect to the features is such a map, so derivatives of any
order follow. As in :mod:`~deepmd_gnn.kernels.triton.training_contraction`, matrices have a derivative while autograd is off only.
"""

from typing import Any, NamedTuple

import torch

from deepmd_gnn.kernels.cpu.mixing import covers, mapped_width, used_paths
from deepmd_gnn.kernels.triton.mixing import TILES, by_component, launch_mix, triton_type
from deepmd_gnn.kernels.triton.operator import operator
from deepmd_gnn.kernels.triton.operators import on_cpu
from deepmd_gnn.kernels.triton.reference import mix as mixed
from deepmd_gnn.kernels.triton.training_mixing_kernel import outer as outer_kernel
from deepmd_gnn.nn.linear import Linear

# Atoms of a program that sums over atoms.
ATOMS = 256


@operator("deepmd_gnn::train_mix")
def mix(
    features: torch.Tensor,
    matrices: torch.Tensor,
    begins: torch.Tensor,
    paths: torch.Tensor,
    backward_begins: torch.Tensor,
    backward_paths: torch.Tensor,
    pair_begins: torch.Tensor,
    pairs: torch.Tensor,
    backward_pairs: torch.Tensor,
    one_hot: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """Mix the channels of every irrep.

    Parameters
    ----------
    features, matrices, begins, paths, backward_begins, backward_paths, one_hot, width :
        See :func:`~deepmd_gnn.kernels.triton.mixing.mix`; the derivative has the same matrices, transposed.
    pair_begins : torch.Tensor
        Where the pairs of a matrix begin, int32, shape (matrices + 1,).
    pairs, backward_pairs : torch.Tensor
        Components of features and result that each matrix connects, and the same turned around, int32, shape (·, 2).

    Returns
    -------
    torch.Tensor
        Shape (nnode, width, channels of the result).
    """
    del backward_begins, backward_paths, pair_begins, pairs, backward_pairs
    if on_cpu(features):
        return mixed(features, matrices, begins, paths, one_hot, width)
    with torch.cuda.device_of(features):  # type: ignore[no-untyped-call]
        return launch_mix(features, matrices, begins, paths, one_hot, width)


@mix.register_fake
def _(
    features: Any,
    matrices: Any,
    begins: Any,
    paths: Any,
    backward_begins: Any,
    backward_paths: Any,
    pair_begins: Any,
    pairs: Any,
    backward_pairs: Any,
    one_hot: Any,
    width: int,
) -> torch.Tensor:
    return features.new_empty(features.shape[0], width, matrices.shape[3])


@operator("deepmd_gnn::train_outer")
def outer(
    features: torch.Tensor,
    gradient: torch.Tensor,
    pair_begins: torch.Tensor,
    pairs: torch.Tensor,
    one_hot: torch.Tensor,
) -> torch.Tensor:
    """Differentiate :func:`mix` with respect to the matrices.

    Parameters
    ----------
    features : torch.Tensor
        Shape (nnode, components, channels of the features).
    gradient : torch.Tensor
        With respect to the result, shape (nnode, width, channels of the result).
    pair_begins, pairs, one_hot :
        See there.

    Returns
    -------
    torch.Tensor
        Shape (types, matrices, channels of the features, channels of the result).
    """
    inputs, outputs, nmatrix = features.shape[2], gradient.shape[2], pair_begins.shape[0] - 1
    types = one_hot.shape[1] if one_hot.dim() == 2 else 0
    out = features.new_zeros(max(1, types), nmatrix, inputs, outputs)
    if on_cpu(features):
        begins, members = pair_begins.tolist(), one_hot.unbind(1) if types else [None]
        for matrix in range(nmatrix):
            for source, target in pairs[begins[matrix] : begins[matrix + 1]].tolist():
                for kind, member in enumerate(members):
                    left = features[:, source] if member is None else features[:, source] * member[:, None]
                    out[kind, matrix] += left.T @ gradient[:, target]
        return out
    nnode = features.shape[0]
    rows, columns, depth = TILES[features.dtype]
    grid = (
        nmatrix * max(1, types),
        -(-inputs // rows) * -(-outputs // columns),
        -(-nnode // ATOMS),
    )
    with torch.cuda.device_of(features):  # type: ignore[no-untyped-call]
        outer_kernel[grid](
            features, gradient, pair_begins, pairs, one_hot, out,
            nnode, features.shape[1], gradient.shape[1], nmatrix,
            INPUTS=inputs, OUTPUTS=outputs, TYPES=types, ATOMS=ATOMS, ROWS=rows, COLUMNS=columns, DEPTH=depth,
            REAL=triton_type(features.dtype),
        )  # fmt: skip
    return out


@outer.register_fake
def _(features: Any, gradient: Any, pair_begins: Any, pairs: Any, one_hot: Any) -> torch.Tensor:
    types = one_hot.shape[1] if one_hot.dim() == 2 else 1
    return features.new_empty(types, pair_begins.shape[0] - 1, features.shape[2], gradient.shape[2])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:-1])


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    features, matrices, *lists, one_hot = ctx.saved_tensors
    begins, paths, backward_begins, backward_paths, pair_begins, pairs, backward_pairs = lists
    gradient = gradient.contiguous()
    d_features = d_matrices = None
    if ctx.needs_input_grad[0]:
        d_features = mix(
            gradient, matrices.transpose(2, 3).contiguous(), backward_begins, backward_paths, begins, paths,
            pair_begins, backward_pairs, pairs, one_hot, features.shape[1],
        )  # fmt: skip
    if ctx.needs_input_grad[1] and not torch.is_grad_enabled():
        d_matrices = outer(features, gradient, pair_begins, pairs, one_hot)
    return d_features, d_matrices, *[None] * 9


mix.register_autograd(_differentiate, setup_context=_keep)


def trainable(linear: Linear) -> bool:
    """Whether the weights of a map are matrices of one size, one after the other, so that a view of them is enough."""
    if not covers(linear):
        return False
    size = linear.paths[0][4] * max(1, linear.ntypes) * linear.channels
    paths = enumerate(linear.paths)
    return all(path[3] == place * size and path[4] and path[5] == linear.channels for place, path in paths)


class _Lists(NamedTuple):
    """Which components the matrices connect, see :func:`mix`."""

    begins: torch.Tensor
    paths: torch.Tensor
    backward_begins: torch.Tensor
    backward_paths: torch.Tensor
    pair_begins: torch.Tensor
    pairs: torch.Tensor
    backward_pairs: torch.Tensor


class TrainedLinear(torch.nn.Module):
    """Stands for a map that is :func:`trainable`.

    Parameters
    ----------
    linear : Linear
        The map.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        device = linear.weight.device
        self.ntypes, self.channels = linear.ntypes, linear.channels
        used, self.width = used_paths(linear), mapped_width(linear)
        turned = [(target, source, dim) for source, target, dim in used]
        rows = [(source + m, target + m) for source, target, dim in used for m in range(dim)]
        pairs = torch.tensor(rows, dtype=torch.int32)
        ends = torch.tensor([0, *(dim for *_, dim in used)]).cumsum(0).to(torch.int32)
        lists = (*by_component(used), *by_component(turned), ends, pairs, pairs.flip(1))
        self.lists = _Lists(*(part.to(device) for part in lists))
        factors = torch.tensor(linear.factors, dtype=linear.weight.dtype, device=device)
        self.factors = factors.view(1, -1, 1, 1)
        self.shape = (len(used), linear.paths[0][4], max(1, linear.ntypes), linear.channels)
        self.weights: list[torch.Tensor] = []

    def reading(self, linear: Linear) -> "TrainedLinear":
        """Use the weights of a map of the same form; they stay its own."""
        self.weights = [linear.weight]
        return self

    def try_once(self) -> None:
        """Launch all kernels for one atom, to compile them."""
        like, (nmatrix, inputs, types, outputs) = self.factors, self.shape
        elements = like.new_ones(1, types) if self.ntypes > 0 else like.new_empty(0)
        features = like.new_zeros(1, len(self.lists.backward_begins) - 1, inputs)
        out = mix(
            features, like.new_zeros(types, nmatrix, inputs, outputs), *self.lists, elements, self.width
        )
        begins, paths, backward_begins, backward_paths, ends, pairs, backward_pairs = self.lists
        turned = (backward_begins, backward_paths, begins, paths, ends, backward_pairs, pairs)
        mix(out, like.new_zeros(types, nmatrix, outputs, inputs), *turned, elements, features.shape[1])
        outer(features, out, ends, pairs, elements)
        outer(out, features, ends, backward_pairs, elements)

    def forward(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.linear.Linear`."""
        count = self.shape[0] * self.shape[1] * self.shape[2] * self.shape[3]
        matrices = self.weights[0][:count].view(self.shape).permute(2, 0, 1, 3) * self.factors
        elements = one_hot if self.ntypes > 0 else one_hot.new_empty(0)
        return mix(features.contiguous(), matrices.contiguous(), *self.lists, elements, self.width)
