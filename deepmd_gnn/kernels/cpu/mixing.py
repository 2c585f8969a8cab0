"""Linear maps between channels as an operator with a generated kernel."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch

from deepmd_gnn.kernels.cpu.vectors import in_vectors
from deepmd_gnn.kernels.operators import current
from deepmd_gnn.nn.interactions import Interaction
from deepmd_gnn.nn.linear import Linear, LinearPath


@torch.library.custom_op("deepmd_gnn::mace_mix", mutates_args=())
def mix(
    features: torch.Tensor,
    matrices: torch.Tensor,
    paths: torch.Tensor,
    backward_matrices: torch.Tensor,
    backward_paths: torch.Tensor,
    kind: torch.Tensor,
    width: int,
    channels: int,
) -> torch.Tensor:
    """Mix the channels of every irrep.

    Parameters
    ----------
    features : torch.Tensor
        Shape (nnode, components, channels of the features).
    matrices : torch.Tensor
        Shape (vectors of the result's channels, types, matrices, channels of the features, lanes).
    paths : torch.Tensor
        First component of the features and of the result, number of components, matrix; sorted by the result, int64,
        shape (npath, 4). Components of the result that no path leads to are zero.
    backward_matrices, backward_paths : torch.Tensor
        Those of the derivative, which is such a map too.
    kind : torch.Tensor
        Type of each node, int64, shape (nnode,), or empty if all have the same matrices.
    width, channels : int
        Components and channels of the result.

    Returns
    -------
    torch.Tensor
        Shape (nnode, width, channels).
    """
    del backward_matrices, backward_paths
    out = features.new_empty(features.shape[0], width, channels)
    sizes = (*features.shape, matrices.shape[1], matrices.shape[2], paths.shape[0], width, channels)
    current().call("mace_mix", features, matrices, paths, kind, *sizes, out)
    return out


@mix.register_fake
def _(
    features: Any,
    matrices: Any,
    paths: Any,
    backward_matrices: Any,
    backward_paths: Any,
    kind: Any,
    width: int,
    channels: int,
) -> torch.Tensor:
    return features.new_empty(features.shape[0], width, channels)


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[1:6])
    ctx.shape = inputs[0].shape


def _differentiate(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    matrices, paths, backward_matrices, backward_paths, kind = ctx.saved_tensors
    sizes = (ctx.shape[1], ctx.shape[2])
    features = mix(gradient.contiguous(), backward_matrices, backward_paths, matrices, paths, kind, *sizes)
    return (features, *[None] * 7)


mix.register_autograd(_differentiate, setup_context=_save)


class GeneratedLinear(torch.nn.Module):
    """Stands for a :class:`~deepmd_gnn.nn.linear.Linear` that :func:`covers` accepts.

    Parameters
    ----------
    linear : Linear
        The map.
    lanes : int
        Numbers in a vector of the CPU.
    factor : float
        That the result is multiplied with.
    """

    matrices: torch.Tensor
    paths: torch.Tensor
    backward_matrices: torch.Tensor
    backward_paths: torch.Tensor

    def __init__(self, linear: Linear, lanes: int, factor: float = 1.0) -> None:
        super().__init__()
        self.ntypes, self.channels = linear.ntypes, linear.channels
        self.width = mapped_width(linear)
        matrices, used = linear_matrices(linear) * factor, used_paths(linear)
        turned = [(target, source, dim) for source, target, dim in used]
        self.register_buffer("matrices", in_vectors(matrices, lanes))
        self.register_buffer("paths", sorted_paths(used))
        self.register_buffer("backward_matrices", in_vectors(matrices.transpose(2, 3), lanes))
        self.register_buffer("backward_paths", sorted_paths(turned))

    def forward(self, features: torch.Tensor, one_hot: torch.Tensor) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.linear.Linear`."""
        kind = one_hot.argmax(dim=1) if self.ntypes > 1 else self.paths.new_empty(0)
        return mix(features.contiguous(), *self.tensors(), kind, self.width, self.channels)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The map and its derivative, as :func:`mix` takes them."""
        return self.matrices, self.paths, self.backward_matrices, self.backward_paths


def no_linear(dtype: torch.dtype) -> GeneratedLinear:
    """Tensors for a kernel that reads none."""
    paths = [LinearPath(0, 0, 1, 0, 1, 1, 1.0)]
    return GeneratedLinear(Linear(torch.zeros(1, dtype=dtype), paths), 1)


def covers(linear: Linear) -> bool:
    """Whether all irreps of a map have the same channels, or scalars a multiple of them, so that the kernel can evaluate it."""
    inputs = {path[4] for path in linear.paths} - {0}
    if len(inputs) != 1 or any(
        outputs % linear.channels or (dim > 1 and outputs > linear.channels)
        for _, _, dim, _, _, outputs in linear.paths
    ):
        return False
    # Maps of MACE's non-linear blocks count such scalars as one component.
    sizes = {target: dim * outputs // linear.channels for _, target, dim, _, _, outputs in linear.paths}
    places = accumulate((size for _, size in sorted(sizes.items())), initial=0)
    return all(target == place for target, place in zip(sorted(sizes), places, strict=False))


def mapped_width(linear: Linear) -> int:
    """Components of the result of a map."""
    return max(target + dim * outputs // linear.channels for _, target, dim, _, _, outputs in linear.paths)


def linear_matrices(linear: Linear) -> torch.Tensor:
    """Matrices of all elements and irreps with their factors, shape (types, matrices, inputs, outputs)."""
    found = []
    for (*_, offset, inputs, outputs), factor in zip(linear.paths, linear.factors, strict=True):
        if inputs:
            weight = linear.weight.detach()[offset : offset + inputs * max(1, linear.ntypes) * outputs]
            matrix = weight.view(inputs, -1, outputs).transpose(0, 1) * factor
            # Scalars in several sets of channels: a component each.
            found += matrix.split(linear.channels, dim=2)
    return torch.stack(found, dim=1)


def used_paths(linear: Linear) -> list[tuple[int, int, int]]:
    """Source, target and dimension of the blocks that have a matrix."""
    return [
        (source, target + part, dim)
        for source, target, dim, _, inputs, outputs in linear.paths
        if inputs > 0
        for part in range(outputs // linear.channels)
    ]


def sorted_paths(paths: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Rows for the kernel from source, target and dimension of every matrix, int64, shape (npath, 4)."""
    rows = [(*path, matrix) for matrix, path in enumerate(paths)]
    return torch.tensor(sorted(rows, key=lambda row: row[1]))


def mapped_linears(energy_model: Any) -> dict[tuple[str, int, str], Linear]:
    """The maps of a network that run on nodes and that the kernels can evaluate.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.

    Returns
    -------
    dict[tuple[str, int, str], Linear]
        By list of blocks, layer and name.
    """
    found = {}
    for blocks in ("interactions", "products"):
        for layer, block in enumerate(getattr(energy_model, blocks, ())):
            for name, part in block.named_children():
                # What the first layer sends, and what depends on the element alone, is computed once per element.
                once = name.endswith("embedding") or (layer == 0 and name == "linear_up")
                if isinstance(part, Linear) and covers(part) and not once:
                    found[blocks, layer, name] = part
    return found


def averaging_layers(energy_model: Any, linears: dict[tuple[str, int, str], Linear]) -> list[int]:
    """Layers whose messages are divided by the average number of neighbours after one of the maps, which can do that, too."""
    return [
        layer
        for layer, interaction in enumerate(energy_model.interactions)
        if isinstance(interaction, Interaction)
        and not interaction.density
        and ("interactions", layer, "linear") in linears
    ]


def map_factors(
    energy_model: Any, linears: dict[tuple[str, int, str], Linear], averaging: list[int]
) -> dict[tuple[str, int, str], float]:
    """What the maps of :func:`mapped_linears` multiply by: those of the layers of :func:`averaging_layers` divide by the neighbours."""
    average = float(1.0 / energy_model.avg_num_neighbors)  # data without a pair have 0
    averaged = {("interactions", layer, "linear") for layer in averaging}
    return {place: average if place in averaged else 1.0 for place in linears}


def mixes_messages(interaction: torch.nn.Module) -> str:
    """Name of the map that follows the convolution of a block."""
    return "linear_1" if hasattr(interaction, "linear_1") else "linear"
