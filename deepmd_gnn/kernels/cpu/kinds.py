"""The first layer's convolution where atoms of an element all send the same: tables of few functions, and matrices that bring the channels."""

from typing import Any, NamedTuple

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels import operators
from deepmd_gnn.kernels.cpu.convolution_code import ConvolutionShape
from deepmd_gnn.kernels.cpu.mixing import linear_matrices, mapped_width, sorted_paths, used_paths
from deepmd_gnn.kernels.cpu.vectors import in_vectors
from deepmd_gnn.kernels.tables.functions import combinations
from deepmd_gnn.kernels.tables.radial import RadialTable
from deepmd_gnn.nn.linear import Linear

# How many functions it takes depends on the weights; a compiled program is for a multiple of this.
FUNCTIONS = 16
# Bytes of the matrices: one for each element and degree.
LARGEST_MATRICES = 64 * 2**20
# Bytes of those for each pair of elements, which a few atoms read: they should stay in the cache.
LARGEST_OF_PAIRS = 2**20


class KindSums(NamedTuple):
    """What the kernel of the first layer reads."""

    functions: torch.Tensor
    """Table of the functions of the distance, for one kind of edges or each pair of elements, float64, shape (kinds, nodes, 1, 4, nfunction)."""
    matrices: torch.Tensor
    """From functions to channels of the result, float64, shape (1 or element of the receiver, ntypes, npath, nfunction, channels)."""
    paths: list[tuple[int, int, int]]
    """First harmonic, first component of the result and number of components of each matrix."""
    width: int
    """Components of the result."""
    maps: int
    """How many of the maps that follow are included."""


def kind_sums(
    energy_model: Any,
    table: RadialTable,
    shape: ConvolutionShape,
    maps: list[Linear],
    factor: float,
    lanes: int,
) -> KindSums | None:
    """Write the convolution of the first layer, and the linear maps that follow, as sums over kinds of senders.

    Parameters
    ----------
    energy_model : MaceEnergy or NequipEnergy
        The network.
    table : RadialTable
        Radial weights of the first layer.
    shape : ConvolutionShape
        Its paths.
    maps : list[Linear]
        None, or the map that follows, or this one and one that may depend on the element of the receiver; the last one is included where the
        matrices of all pairs of elements are small.
    factor : float
        That the result of the first map is multiplied with.
    lanes : int
        Numbers in a vector of the CPU.

    Returns
    -------
    KindSums or None
        None if the layer has another form, or if this one would not be faster.
    """
    sent = energy_model.sent_by_types()
    if sent is None or shape.components > 1:
        return None
    degrees = [_degree(path.coupling, path.target) for path in shape.paths]
    if None in degrees:
        return None
    kinds, nodes, weights = table.values.shape[:3]
    mixing = combinations(table.values, energy_model.dtype)
    mixing = torch.nn.functional.pad(mixing, (0, 0, 0, -len(mixing) % FUNCTIONS))
    channels = weights // len(shape.paths)
    neighbors = float(energy_model.avg_num_neighbors)
    if not pays(shape, channels, len(mixing), energy_model.ntypes, neighbors, lanes):
        return None
    ntypes = energy_model.ntypes
    pairs = ntypes**2 * len(shape.paths) * mixing.shape[0] * channels * energy_model.dtype.itemsize
    if pairs > LARGEST_OF_PAIRS:
        maps = maps[:1]
    features = sent.detach().double().cpu().reshape(ntypes, 1, channels)
    blocks: dict[tuple[int, int, int], torch.Tensor] = {}
    for p, (path, found) in enumerate(zip(shape.paths, degrees, strict=True)):
        assert found is not None
        first, strength = found
        size = 2 * int(first**0.5) + 1
        part = mixing[:, p * channels : (p + 1) * channels] * features * strength
        for target, matrix in _mapped(maps, factor, path.target, size, channels):
            key = (first, target, size)
            blocks[key] = blocks.get(key, torch.zeros(())) + part @ matrix.unsqueeze(1)
    size = sum(block.numel() for block in blocks.values()) * energy_model.dtype.itemsize
    if not blocks or 2 * size > LARGEST_MATRICES:
        return None
    functions = torch.einsum("znwk,fw->znkf", table.values, mixing).view(kinds, nodes, 1, 4, -1)
    width = mapped_width(maps[-1]) if maps else shape.width
    return KindSums(functions, torch.stack(list(blocks.values()), dim=2), list(blocks), width, len(maps))


def pays(
    shape: ConvolutionShape, channels: int, functions: int, ntypes: int, neighbors: float, lanes: int
) -> bool:
    """Whether sums over kinds of senders are faster, by operations on vectors of an atom, forward and backward.

    An edge costs less, by fewer vectors and fewer radial weights; the map costs more with each element. Where not all elements of the model
    are there, they are faster than this says.

    Parameters
    ----------
    shape : ConvolutionShape
        Paths of the layer.
    channels, functions, ntypes, lanes : int
        Channels of the features, functions of the distance, elements, numbers in a vector of the CPU.
    neighbors : float
        Mean number of neighbours of an atom.

    Returns
    -------
    bool
    """
    # Interpolation of a weight and its slope, and what follows for each harmonic.
    weight, harmonic = 30, 5
    before = -(-channels // lanes) * (weight * len(shape.paths) + (harmonic + 1) * shape.harmonics)
    after = -(-functions // lanes) * (weight + harmonic * shape.harmonics)
    maps = 2 * shape.harmonics * channels * (ntypes * functions - channels) / lanes
    return neighbors * (before - after) > maps


def _degree(coupling: dict[tuple[int, int], dict[int, float]], target: int) -> tuple[int, float] | None:
    """First harmonic and coefficient of a path that multiplies scalars by the harmonics of a degree; None for another one."""
    first = min((m2 for _, m2 in coupling), default=0)
    factor = next(iter(coupling[0, first].values())) if coupling else 0.0
    size = 2 * int(first**0.5) + 1
    expected = {(0, first + m): {target + m: factor} for m in range(size)}
    same = coupling.keys() == expected.keys() and all(
        coupling[pair].keys() == wanted.keys()
        and all(abs(value - factor) <= 1e-12 * abs(factor) for value in coupling[pair].values())
        for pair, wanted in expected.items()
    )
    return (first, factor) if same and int(first**0.5) ** 2 == first else None


def _mapped(
    maps: list[Linear], factor: float, source: int, size: int, channels: int
) -> list[tuple[int, torch.Tensor]]:
    """Where the components that begin at `source` go, and by which matrices, float64, shape (1 or ntypes, channels, ·)."""
    places = [(source, torch.eye(channels, dtype=torch.float64).unsqueeze(0))]
    for linear in maps:
        matrices = linear_matrices(linear).double().cpu() * factor
        factor = 1.0
        places = [
            (target, before @ matrices[:, number])
            for place, before in places
            for number, (begin, target, dim) in enumerate(used_paths(linear))
            if begin == place and dim == size
        ]
    return places


class GeneratedKindConvolution(torch.nn.Module):
    """Radial network, convolution and linear map of the first layer, by sums over kinds of senders.

    Parameters
    ----------
    table : torch.Tensor
        Functions of the distance, shape (blocks of functions, kinds, nodes, 1, 4, lanes).
    sums : KindSums
        Matrices and paths.
    grid : torch.Tensor
        See :func:`~deepmd_gnn.kernels.cpu.generated_convolution.grid_of`.
    """

    table: torch.Tensor
    grid: torch.Tensor
    ones: torch.Tensor
    matrices: torch.Tensor
    paths: torch.Tensor
    backward_matrices: torch.Tensor
    backward_paths: torch.Tensor

    def __init__(self, table: torch.Tensor, sums: KindSums, grid: torch.Tensor) -> None:
        super().__init__()
        lanes = table.shape[-1]
        matrices = sums.matrices.to(table.dtype)
        receivers, ntypes, npath, nfunction, self.channels = matrices.shape
        matrices = matrices.view(receivers, ntypes * npath, nfunction, self.channels)
        turned = [(target, source, dim) for source, target, dim in sums.paths]
        self.register_buffer("table", table)
        self.register_buffer("grid", grid)
        # Tells the operator how many functions there are.
        self.register_buffer("ones", torch.ones(1, 1, nfunction, dtype=table.dtype))
        self.register_buffer("matrices", in_vectors(matrices, lanes))
        self.register_buffer("backward_matrices", in_vectors(matrices.transpose(2, 3), lanes))
        self.register_buffer("paths", sorted_paths(sums.paths))
        self.register_buffer("backward_paths", sorted_paths(turned))
        self.width, self.maps = sums.width, sums.maps

    def forward(
        self,
        sent: torch.Tensor,  # noqa: ARG002 - in the matrices
        graph: AtomGraph,
        harmonics: torch.Tensor,  # noqa: ARG002 - found in the kernel
        radial: torch.Tensor,  # noqa: ARG002 - from the table
    ) -> torch.Tensor:
        """See :class:`~deepmd_gnn.nn.convolution.Convolution`, shape (nnode, width, channels)."""
        assert graph.order is not None
        assert graph.begin is not None
        return operators.convolve(
            graph.edge_vec,
            self.ones,
            self.table,
            self.grid,
            graph.edge_index[0].contiguous(),
            graph.sender_types,
            graph.order,
            graph.begin,
            self.matrices,
            self.paths,
            self.backward_matrices,
            self.backward_paths,
            0,
            1,
            self.width,
            self.channels,
        )
