"""Linear maps between channels as an operator with a Triton kernel."""

from typing import Any

import torch

from deepmd_gnn.kernels.cpu.mixing import linear_matrices, mapped_width, used_paths
from deepmd_gnn.kernels.triton import reference
from deepmd_gnn.kernels.triton.mixing_kernel import mix as mix_kernel
from deepmd_gnn.kernels.triton.operator import operator
from deepmd_gnn.kernels.triton.operators import on_cpu
from deepmd_gnn.nn.linear import Linear

# Atoms, channels of the result and channels of the features that a program multiplies at a time.
TILES = {torch.float32: (64, 64, 32), torch.float64: (32, 32, 16)}


@operator("deepmd_gnn::triton_mix")
def mix(
    features: torch.Tensor,
    matrices: torch.Tensor,
    begins: torch.Tensor,
    paths: torch.Tensor,
    backward_matrices: torch.Tensor,
    backward_begins: torch.Tensor,
    backward_paths: torch.Tensor,
    one_hot: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """Mix the channels of every irrep.

    Parameters
    ----------
    features : torch.Tensor
        Shape (nnode, components, channels of the features).
    matrices : torch.Tensor
        Shape (types, matrices, channels of the features, channels of the result).
    begins : torch.Tensor
        Where the paths to each component of the result begin, int32, shape (width + 1,).
    paths : torch.Tensor
        Component of the features and matrix, int32, shape (npath, 2).
    backward_matrices, backward_begins, backward_paths : torch.Tensor
        Those of the derivative, which is such a map too.
    one_hot : torch.Tensor
        Elements, shape (nnode, types), or empty if all have the same matrices.
    width : int
        Components of the result; those that no path leads to are zero.

    Returns
    -------
    torch.Tensor
        Shape (nnode, width, channels of the result).
    """
    del backward_matrices, backward_begins, backward_paths
    if on_cpu(features):
        return reference.mix(features, matrices, begins, paths, one_hot, width)
    return launch_mix(features, matrices, begins, paths, one_hot, width)


def launch_mix(
    features: torch.Tensor,
    matrices: torch.Tensor,
    begins: torch.Tensor,
    paths: torch.Tensor,
    one_hot: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """Launch the kernel of :func:`mix`."""
    out = features.new_empty(features.shape[0], width, matrices.shape[3])
    mix_into(out, features, matrices, begins, paths, one_hot)
    return out


def mix_into(
    out: torch.Tensor,
    features: torch.Tensor,
    matrices: torch.Tensor,
    begins: torch.Tensor,
    paths: torch.Tensor,
    one_hot: torch.Tensor | None,
) -> None:
    """:func:`launch_mix` into an array that is there, shape (nnode, width, channels); None: one matrix for all elements."""
    nnode, components, inputs = features.shape
    width, outputs = out.shape[1:]
    rows, columns, depth = tile(features.dtype, outputs)
    types = one_hot.shape[1] if one_hot is not None and one_hot.dim() == 2 else 0
    mix_kernel[((nnode + rows - 1) // rows, width, (outputs + columns - 1) // columns)](
        features,
        matrices,
        begins,
        paths,
        matrices if one_hot is None else one_hot,  # nobody reads it without types
        out,
        nnode,
        components,
        matrices.shape[1],
        width,
        begins.shape[0] - 1,
        INPUTS=inputs,
        OUTPUTS=outputs,
        TYPES=types,
        ROWS=rows,
        COLUMNS=columns,
        DEPTH=depth,
        REAL=triton_type(features.dtype),
    )


def tile(dtype: torch.dtype, outputs: int) -> tuple[int, int, int]:
    """Rows, columns and depth of what a program multiplies at a time, for so many channels of the result."""
    rows, columns, depth = TILES[dtype]
    return rows, min(columns, max(16, 1 << (outputs - 1).bit_length())), depth


def triton_type(dtype: torch.dtype) -> Any:
    """Triton's name of a precision."""
    import triton.language as tl

    return tl.float64 if dtype == torch.float64 else tl.float32


@mix.register_fake
def _(
    features: Any,
    matrices: Any,
    begins: Any,
    paths: Any,
    backward_matrices: Any,
    backward_begins: Any,
    backward_paths: Any,
    one_hot: Any,
    width: int,
) -> torch.Tensor:
    return features.new_empty(features.shape[0], width, matrices.shape[3])


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[1:-1])
    ctx.width = inputs[0].shape[1]


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    matrices, begins, paths, backward_matrices, backward_begins, backward_paths, one_hot = ctx.saved_tensors
    features = mix(
        gradient.contiguous(),
        backward_matrices,
        backward_begins,
        backward_paths,
        matrices,
        begins,
        paths,
        one_hot,
        ctx.width,
    )
    return (features, *[None] * 8)


mix.register_autograd(_differentiate, setup_context=_save)


class TritonLinear(torch.nn.Module):
    """Stands for a :class:`~deepmd_gnn.nn.linear.Linear` that :func:`~deepmd_gnn.kernels.cpu.mixing.covers` accepts.

    Parameters
    ----------
    linear : Linear
        The map.
    factor : float
        Multiplies the result.
    """

    matrices: torch.Tensor
    begins: torch.Tensor
    paths: torch.Tensor
    backward_matrices: torch.Tensor
    backward_begins: torch.Tensor
    backward_paths: torch.Tensor

    def __init__(self, linear: Linear, factor: float = 1.0) -> None:
        super().__init__()
        self.ntypes, self.channels = linear.ntypes, linear.channels
        matrices, used = linear_matrices(linear) * factor, used_paths(linear)
        self.width = mapped_width(linear)
        turned = [(target, source, dim) for source, target, dim in used]
        self.register_buffer("matrices", matrices.contiguous())
        self.register_buffer("backward_matrices", matrices.transpose(2, 3).contiguous())
        for prefix, paths in (("", used), ("backward_", turned)):
            begins, rows = by_component(paths)
            self.register_buffer(f"{prefix}begins", begins)
            self.register_buffer(f"{prefix}paths", rows)

    def forward(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.linear.Linear`."""
        elements = one_hot if self.ntypes > 0 else one_hot.new_empty(0)
        return mix(features.contiguous(), *self.arrays(), elements, self.width)  # type: ignore[no-any-return]

    def arrays(self) -> tuple[torch.Tensor, ...]:
        """The map and its derivative, as :func:`mix` takes them, also for shapes."""
        backward = (self.backward_matrices, self.backward_begins, self.backward_paths)
        return self.matrices, self.begins, self.paths, *backward

    def try_once(self, device: torch.device) -> None:
        """Evaluate and differentiate the map for one atom."""
        components, elements = len(self.backward_begins) - 1, max(1, self.ntypes)
        features = self.matrices.new_zeros(1, components, self.matrices.shape[2], requires_grad=True)
        out = self(features, torch.ones(1, elements, dtype=self.matrices.dtype, device=device))
        torch.autograd.grad(out.sum(), features)


def by_component(paths: list[tuple[int, int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sort the blocks of a map, source, target and dimension, by component of the result: shapes (width + 1,) and (npath, 2)."""
    width = max(target + dim for _, target, dim in paths)
    leading: list[list[tuple[int, int]]] = [[] for _ in range(width)]
    for matrix, (source, target, dim) in enumerate(paths):
        for m in range(dim):
            leading[target + m].append((source + m, matrix))
    begins = torch.tensor([0, *(len(found) for found in leading)]).cumsum(0).to(torch.int32)
    rows = torch.tensor([row for found in leading for row in found], dtype=torch.int32).view(-1, 2)
    return begins, rows
