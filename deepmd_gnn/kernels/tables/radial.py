r"""Radial weights of a layer as a table: quintic Hermite interpolation on a grid that is denser near 0.

Node k of n is at the distance :math:`r_k` with :math:`k / (n - 1) = u(r_k) = (1 + R b)\, r / (R (1 + b r))`, cutoff R, bend b. Radial
functions oscillate, and those of a transformed distance also rise steeply, where atoms are close: with :math:`R b = 1.2` three fifths of the
nodes are as exact as equidistant ones, b = 0, and tables stay in the cache.
"""

import copy
import functools
from typing import Any, NamedTuple, TypeVar

import torch

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.nn.interactions import NonLinearInteraction, edge_density

# Below this distance (Å) the first bins extrapolate: derivatives of sin(x) / x lose digits there.
SMALLEST = 1e-2
STEP = 1e-3  # Å, of the differences
# Where the error is measured: places between two nodes.
BETWEEN = (0.25, 0.4, 0.5)
PROBES = 128  # bins looked at
# Largest error of the weights and their derivatives, relative to the largest of each.
TOLERANCE = {torch.float32: (2e-8, 5e-7), torch.float64: (1e-12, 1e-10)}
FEWEST, MOST = {torch.float32: 96, torch.float64: 512}, 4096
# In units of 1 / cutoff.
BEND = 1.2


class RadialTable(NamedTuple):
    """Values and derivatives at the nodes."""

    values: torch.Tensor
    """Value, first and second derivative by the number of the node, and difference to the next value, float64, shape
    (kinds, nodes, weights, 4)."""
    error: float
    """Largest error of a weight between nodes, relative to the largest weight."""
    derivative_error: float
    """The same of its derivative."""
    bend: float
    """Per Å, see above."""

    def fine(self, dtype: torch.dtype) -> bool:
        """Whether the errors are within the tolerance of a precision."""
        tolerance, derivative_tolerance = TOLERANCE[dtype]
        return self.error <= tolerance and self.derivative_error <= derivative_tolerance

    def refinement(self, dtype: torch.dtype) -> float:
        """How many times more nodes should be fine: the errors go with the sixth and fifth power of the spacing."""
        tolerance, derivative_tolerance = TOLERANCE[dtype]
        value, derivative = self.error / tolerance, self.derivative_error / derivative_tolerance
        return float(max(value ** (1 / 6), derivative ** (1 / 5)))

    def description(self) -> dict[str, Any]:
        """What a frozen file says about it; plain values."""
        return {
            "nodes": self.values.shape[1],
            "error": self.error,
            "derivative_error": self.derivative_error,
        }


def kinds_of_pairs(energy_model: Any, interaction: Any) -> int:
    """Tables of a layer: one, or one for every pair of elements (sender, receiver) if they change the weights."""
    transformed = hasattr(energy_model.radial_embedding, "distance_transform")
    return energy_model.ntypes**2 if transformed or isinstance(interaction, NonLinearInteraction) else 1


def kinds_of_edges(graph: AtomGraph, ntypes: int) -> torch.Tensor:
    """Table of each edge if every pair of elements has one, int64, shape (nedge,)."""
    sender, receiver = graph.edge_index[0], graph.edge_index[1]
    return graph.sender_types[sender] * ntypes + graph.sender_types[receiver]


def density_layers(energy_model: Any) -> list[int]:
    """Layers with a learned number of neighbours; those of some networks know nothing of it."""
    return [
        layer for layer, block in enumerate(energy_model.interactions) if getattr(block, "density", False)
    ]


class OfDistance:
    """Functions of the distance for each pair of elements, with derivatives, in float64.

    Parameters
    ----------
    r_max : float
        Cutoff, Å.
    """

    each = False
    """Whether errors are relative to the largest value of each function, not of all together."""

    def __init__(self, r_max: float) -> None:
        self.r_max = r_max

    def largest(self, values: torch.Tensor) -> torch.Tensor:
        """What errors are relative to, from values of all functions, shape (n, functions) → () or (functions,)."""
        found = values.abs()
        return found.amax(dim=0).clamp(min=torch.finfo(values.dtype).tiny) if self.each else found.max()

    def __call__(self, distances: torch.Tensor, kind: int) -> torch.Tensor:
        """Evaluate for distances of one pair of elements, Å, shape (n,) → (n, functions)."""
        raise NotImplementedError

    def slope(self, distances: torch.Tensor, kind: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Value, and first derivative per Å, both as of :meth:`__call__`: shape (n,) → (n, functions)."""
        one = torch.ones_like(distances)
        value, slope = torch.func.jvp(lambda r: self(r, kind), (distances,), (one,))  # type: ignore[misc]
        return value.detach(), slope.detach()

    def curvature(self, distances: torch.Tensor, kind: int) -> torch.Tensor:
        """Second derivative per Å², shape (n,) → (n, functions), at the cutoff that from inside: the third one jumps there.

        Differences of the first, because torch 2.11's nested ``jvp`` of a layer normalisation is wrong. A table needs
        it to a few digits only: its weight is the squared spacing.
        """
        inside = distances + 2 * STEP < self.r_max
        # Five points around the distance, or before it.
        shifts = torch.zeros_like(distances).masked_fill(~inside, -2.0)
        at = [self.slope(distances + (shifts + n) * STEP, kind)[1] for n in range(-2, 3)]
        around = (at[0] - 8 * at[1] + 8 * at[3] - at[4]) / (12 * STEP)
        before = (3 * at[0] - 16 * at[1] + 36 * at[2] - 48 * at[3] + 25 * at[4]) / (12 * STEP)
        return torch.where(inside.unsqueeze(1), around, before)


class Grid(NamedTuple):
    """Distances of nodes, see above; places are between 0 and 1."""

    r_max: float
    """Å."""
    bend: float
    """Per Å."""

    def distance(self, place: torch.Tensor) -> torch.Tensor:
        """Distances at some places, Å, of their shape."""
        return self.r_max * place / (1.0 + self.r_max * self.bend * (1.0 - place))

    def slope(self, place: torch.Tensor) -> torch.Tensor:
        """Derivative of :meth:`distance`."""
        stretch = 1.0 + self.r_max * self.bend
        return self.r_max * stretch / (1.0 + self.r_max * self.bend * (1.0 - place)) ** 2

    def curvature(self, place: torch.Tensor) -> torch.Tensor:
        """Second derivative of :meth:`distance`."""
        bent = self.r_max * self.bend
        return 2.0 * bent * self.r_max * (1.0 + bent) / (1.0 + bent * (1.0 - place)) ** 3


class Weights(OfDistance):
    """Radial weights of a layer as functions of the distance.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.
    interaction : Interaction
        One of its layers.
    """

    def __init__(self, energy_model: Any, interaction: Any) -> None:
        super().__init__(energy_model.r_max)
        self.model = energy_model
        # On the CPU, wherever the network is: a few thousand distances.
        self.embedding = copy.deepcopy(energy_model.radial_embedding).cpu().double()
        self.interaction = copy.deepcopy(interaction).cpu().double()
        self.atomic_numbers = energy_model.atomic_numbers.cpu()

    def __call__(self, distances: torch.Tensor, kind: int) -> torch.Tensor:
        """See :meth:`OfDistance.__call__`."""
        features, cutoff = self.inputs(distances, kind)
        weights: torch.Tensor = self.interaction.conv_tp_weights(features)
        return weights if cutoff is None else weights * cutoff

    def density(self, distances: torch.Tensor, kind: int) -> torch.Tensor:
        """What an edge of some length, Å, adds to the learned number of neighbours, shape (n,) → (n, 1)."""
        features, cutoff = self.inputs(distances, kind)
        return edge_density(self.interaction.density_fn(features), cutoff)

    def inputs(self, distances: torch.Tensor, kind: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the networks of an edge of some length, Å, read, shape (n,) → (n, ·), and the envelope of their outputs, (n, 1), if there is one."""
        ntypes = self.model.ntypes
        pair = torch.tensor([kind // ntypes, kind % ntypes])
        one_hot = torch.nn.functional.one_hot(pair, ntypes).double()
        index = torch.tensor([[0], [1]]).expand(2, len(distances))
        features, cutoff = self.embedding(distances.unsqueeze(1), one_hot, index, self.atomic_numbers)
        if isinstance(self.interaction, NonLinearInteraction):
            source, target = self.interaction.element_embeddings(one_hot, features.dtype)
            ends = [
                row[kind].expand(len(distances), -1) for row, kind in zip((source, target), pair, strict=True)
            ]
            features = torch.cat([features, *ends], dim=1)
        return features, cutoff


class Densities(OfDistance):
    """What an edge adds to the learned numbers of neighbours, of all layers that have one.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.
    """

    # A layer may multiply a small density by a large number.
    each = True

    def __init__(self, energy_model: Any) -> None:
        super().__init__(energy_model.r_max)
        layers = density_layers(energy_model)
        self.layers = [Weights(energy_model, energy_model.interactions[layer]) for layer in layers]

    def __call__(self, distances: torch.Tensor, kind: int) -> torch.Tensor:
        """See :meth:`OfDistance.__call__`."""
        return torch.cat([layer.density(distances, kind) for layer in self.layers], dim=1)


def _tabulated(weights: OfDistance, nkind: int, nodes: int, bend: float) -> RadialTable:
    grid, spacing = Grid(weights.r_max, bend), 1.0 / (nodes - 1)
    places = torch.linspace(0.0, 1.0, nodes, dtype=torch.float64)
    distances = grid.distance(places)
    safe = distances.clamp(min=SMALLEST)
    by_place, bent = grid.slope(places).unsqueeze(1), grid.curvature(places).unsqueeze(1)
    # The last bin included: the weights are least smooth at the cutoff.
    bins = torch.arange(nodes - 1)[distances[:-1] > SMALLEST].flip(0)[:: max(1, nodes // PROBES)]
    tables, error, derivative_error = [], 0.0, 0.0
    for kind in range(nkind):
        value, slope = weights.slope(safe, kind)
        curvature = weights.curvature(safe, kind)
        shift = (distances - safe).unsqueeze(1)
        value = value + shift * (slope + 0.5 * shift * curvature)
        slope = slope + shift * curvature
        difference = torch.nn.functional.pad(value.diff(dim=0), (0, 0, 0, 1))
        curved = curvature * by_place**2 + slope * bent
        table = torch.stack([value, slope * by_place * spacing, curved * spacing**2, difference], dim=2)
        tables.append(table)
        for t in BETWEEN:
            between = places[bins] + t * spacing
            exact, exact_slope = weights.slope(grid.distance(between), kind)
            approximate, approximate_slope = hermite(table[bins], table[bins + 1], t)
            error = max(error, float(((approximate - exact).abs() / weights.largest(value)).max()))
            approximate_slope = approximate_slope / (spacing * grid.slope(between).unsqueeze(1))
            deviation = (approximate_slope - exact_slope).abs()
            derivative_error = max(derivative_error, float((deviation / weights.largest(slope)).max()))
    return RadialTable(torch.stack(tables), error, derivative_error, bend)


Place = TypeVar("Place", float, torch.Tensor)


def value_factors(t: Place) -> list[Place]:
    """Factors of a quintic Hermite polynomial between two nodes, for a spacing of 1.

    Parameters
    ----------
    t : float or torch.Tensor
        Place between 0 and 1.

    Returns
    -------
    list
        Of slope, curvature and difference at the first node, slope and curvature at the second; the value there has 1.
    """
    t2, t3, t4, t5 = t**2, t**3, t**4, t**5
    return [
        t - 6 * t3 + 8 * t4 - 3 * t5,
        0.5 * (t2 - 3 * t3 + 3 * t4 - t5),
        10 * t3 - 15 * t4 + 6 * t5,
        -4 * t3 + 7 * t4 - 3 * t5,
        0.5 * t3 - t4 + 0.5 * t5,
    ]


def slope_factors(t: Place) -> list[Place]:
    """Derivatives of :func:`value_factors`; the value at the first node has 0."""
    t2, t3, t4 = t**2, t**3, t**4
    return [
        1 - 18 * t2 + 32 * t3 - 15 * t4,
        t - 4.5 * t2 + 6 * t3 - 2.5 * t4,
        30 * t2 - 60 * t3 + 30 * t4,
        -12 * t2 + 28 * t3 - 15 * t4,
        1.5 * t2 - 4 * t3 + 2.5 * t4,
    ]


def hermite(before: torch.Tensor, after: torch.Tensor, t: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Interpolate at the same place in every bin.

    Parameters
    ----------
    before, after : torch.Tensor
        Rows of the table at the nodes around, shape (bins, ·, 4).
    t : float
        Place between 0 and 1.

    Returns
    -------
    value, slope : torch.Tensor
        Shape (bins, ·), for a spacing of 1.
    """
    changes = torch.cat([before[..., 1:], after[..., 1:3]], dim=-1)
    value = before[..., 0] + changes @ before.new_tensor(value_factors(t))
    return value, changes @ before.new_tensor(slope_factors(t))


def radial_table(energy_model: Any, interaction: Any, dtype: torch.dtype) -> RadialTable:
    """Tabulate the radial weights of a layer, with as many nodes as the precision asks for.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.
    interaction : Interaction
        One of its layers.
    dtype : torch.dtype
        Precision of the network; sets the tolerance of the table.

    Returns
    -------
    RadialTable
        The coarsest grid whose error is within the tolerance, or the finest one tried.
    """
    kinds = kinds_of_pairs(energy_model, interaction)
    return coarsest_table(Weights(energy_model, interaction), kinds, dtype)


def density_table(energy_model: Any, dtype: torch.dtype) -> RadialTable | None:
    """Tabulate the learned densities of all layers, as :func:`radial_table` does weights; None if the network has none."""
    layers = density_layers(energy_model)
    if not layers:
        return None
    kinds = max(kinds_of_pairs(energy_model, energy_model.interactions[layer]) for layer in layers)
    return coarsest_table(Densities(energy_model), kinds, dtype)


def coarsest_table(weights: OfDistance, kinds: int, dtype: torch.dtype) -> RadialTable:
    """Tabulate functions of some kinds of pairs on the coarsest grid whose error is within the tolerance of a precision, or the finest one tried."""
    sizes = [FEWEST[dtype]]
    while sizes[-1] < MOST:
        sizes.append(min(sizes[-1] + sizes[-1] // 8, MOST))

    @functools.cache
    def table(place: int) -> RadialTable:
        return _tabulated(weights, kinds, sizes[place], BEND / weights.r_max)

    def fine(place: int) -> bool:
        return place == len(sizes) - 1 or table(place).fine(dtype)

    place = 0
    if not fine(0):
        # Not one size after the other: where quintic interpolation should be fine, and from there up or down.
        wanted = sizes[0] * table(0).refinement(dtype)
        place = next((k for k, size in enumerate(sizes) if size >= wanted), len(sizes) - 1)
        while not fine(place):
            place += 1
        while place > 1 and fine(place - 1):
            place -= 1
    return table(place)
