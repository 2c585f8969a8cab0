"""Sums over neighbours, and lists of modules, against the formula written out."""

import numpy as np
import pytest
import torch
from helpers import assert_close, random_frame
from tolerances import NATIVE

from deepmd_gnn.graph.arrangement import in_chunks
from deepmd_gnn.graph.builders import make_graph
from deepmd_gnn.graph.neighbor_search import NeighborPairs
from deepmd_gnn.nn.convolution import Convolution, without_guard
from deepmd_gnn.nn.modules import ModuleList

R_MAX = 3.0
CHANNELS = 3
# Scalars and a vector are sent; paths to two scalars and two vectors, with harmonics of degree 0 and 1.
INPUTS, PATHS = [1, 3], [(0, 1), (0, 3), (1, 1), (1, 3)]
DEGREES = [(0, 1), (1, 4), (1, 4), (0, 1)]


def convolution():
    """Random coefficients of every path, with harmonics of its degree only."""
    random = np.random.default_rng(0)
    columns = []
    for (irrep, dim_out), (begin, end) in zip(PATHS, DEGREES, strict=True):
        column = np.zeros((4, INPUTS[irrep] * dim_out))
        column[begin:end] = random.normal(size=(end - begin, column.shape[1]))
        columns.append(column)
    return Convolution(torch.tensor(np.concatenate(columns, axis=1)), INPUTS, PATHS), columns


def graph():
    coord, atype, cell = (torch.tensor(part)[None] for part in random_frame(natoms=7, box_length=4.5))
    center, neighbor, vectors = NeighborPairs(R_MAX)(coord, atype, cell)
    index = torch.stack([neighbor, center])
    return make_graph(atype[0], atype[0], neighbor, center, vectors, index, R_MAX)


def random_inputs(plain):
    random = torch.Generator().manual_seed(1)
    nedge = plain.edge_index.shape[1]

    def normal(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return normal(len(plain.sender_types), 4, CHANNELS), normal(nedge, 4), normal(nedge, 4 * CHANNELS)


@pytest.mark.parametrize("slots", [0, 20, 10**6], ids=["edge by edge", "chunks", "one chunk"])
def test_sums_of_messages(slots):
    """A_{i,p,m3} = Σ_j Σ_{m1,m2} C_{m1,m2,m3} Y_{m2} R_p h_{j,m1}, in whatever order the edges are summed."""
    module, columns = convolution()
    plain = graph()
    sent, harmonics, radial = random_inputs(plain)
    # The guard sends to itself; nothing shall arrive there.
    harmonics = without_guard(harmonics, plain)
    expected = np.zeros((len(plain.node_types), 8, CHANNELS))
    starts, targets = [0, 1], [0, 1, 4, 5]
    for edge, (j, i) in enumerate(plain.edge_index.t().tolist()):
        for path, (irrep, dim_out) in enumerate(PATHS):
            coupling = columns[path].reshape(4, INPUTS[irrep], dim_out)
            h = sent[j, starts[irrep] : starts[irrep] + INPUTS[irrep]].numpy()
            r = radial[edge, path * CHANNELS : (path + 1) * CHANNELS].numpy()
            message = np.einsum("yab,y,c,ac->bc", coupling, harmonics[edge].numpy(), r, h)
            expected[i, targets[path] : targets[path] + dim_out] += message
    arranged = in_chunks(plain, slots) if slots else plain
    assert arranged.mode == ("chunks" if slots else "plain")
    if slots:  # edges are sorted and padded: the numbers follow them
        place = edges_of(arranged, plain)
        harmonics, radial = (torch.where(place.view(-1, 1) >= 0, x[place], 0.0) for x in (harmonics, radial))
    found = module(sent, arranged, harmonics, radial)
    assert_close(found.numpy(), expected, NATIVE["float64"])
    assert module.degrees == DEGREES


def edges_of(arranged, plain):
    """Which edge of the plain graph an edge of the arranged one is; −1 for padding, which repeats the guard's."""
    known = {
        (*map(int, index), *vector): edge
        for edge, (index, vector) in enumerate(
            zip(plain.edge_index.t().tolist(), plain.edge_vec.tolist(), strict=True)
        )
    }
    guard = known[(*map(int, plain.edge_index[:, 0]), *plain.edge_vec[0].tolist())]
    found = [
        known[(*map(int, index), *vector)]
        for index, vector in zip(arranged.edge_index.t().tolist(), arranged.edge_vec.tolist(), strict=True)
    ]
    assert set(found) == set(known.values())
    return torch.tensor([-1 if edge == guard else edge for edge in found])


def test_the_guard_has_no_harmonics():
    plain = graph()
    harmonics = torch.ones(plain.edge_index.shape[1], 4)
    found = without_guard(harmonics, plain)
    assert torch.equal(found[:, 0] == 0, plain.edge_index[1] == 0)
    assert found[plain.edge_index[1] > 0].min() == 1


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return x


def test_lists_of_modules_are_known_to_torchscript():
    model = Layers()
    x = torch.rand(3, 2)
    assert torch.equal(torch.jit.script(model)(x), model(x))
    assert set(model.state_dict()) == {f"parts.{k}.{name}" for k in (0, 1) for name in ("weight", "bias")}
