"""The check that a ``.pt2`` contains, as a library: values, edges, and lists that are not whole."""

import ctypes
import re

import numpy as np
import pytest
import torch
from helpers import random_frame

from deepmd_gnn.config.embeddings import features
from deepmd_gnn.graph.builders import graph_of_edges, guard_distance
from deepmd_gnn.graph.neighbor_search import NeighborPairs
from deepmd_gnn.host.frame_values import FrameValues
from deepmd_gnn.kernels.cpu.input_check import compiled_check

R_MAX = 4.0
LACKS = "mace model: the neighbour list lacks pairs within the cutoff, such as atoms"


def copied(folder):
    """The library under another name, because it counts evaluations."""
    compiled = compiled_check()
    made = compiled.made("input_check.so", [compiled.object("input_check").name], "-shared")
    path = folder / "input_check.so"
    path.write_bytes(made.read_bytes())
    return ctypes.CDLL(str(path))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return copied(tmp_path_factory.mktemp("library"))


@pytest.fixture
def fresh_library(tmp_path):
    """One that has said nothing yet."""
    return copied(tmp_path)


def as_c(argument):
    if isinstance(argument, torch.Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_double(argument) if isinstance(argument, float) else ctypes.c_long(argument)


class Graph:
    """Edges of a frame as the host hands them over, guards at the end."""

    def __init__(self, coord, types, cell, owned=None):
        box = None if cell is None else torch.tensor(cell)[None]
        kinds = torch.tensor(types, dtype=torch.int64)
        center, neighbor, vectors = NeighborPairs(R_MAX)(torch.tensor(coord)[None], kinds[None], box)
        self.types, self.owned = kinds, len(kinds) if owned is None else owned
        keep = center < self.owned
        self.index = torch.cat(
            [torch.stack([neighbor, center])[:, keep], torch.zeros(2, 2, dtype=torch.int64)], 1
        )
        self.vectors = torch.cat([vectors[keep], torch.zeros(2, 3, dtype=torch.float64)])
        self.mask = torch.arange(self.index.shape[1]) < self.index.shape[1] - 2
        self.allowed = torch.ones(2, 2, dtype=torch.bool)
        self.has_energy = torch.ones(2, dtype=torch.bool)
        self.frames = 1

    def without(self, lost):
        """Take edges out, given by a function of neighbour and centre."""
        keep = ~(lost(self.index[0], self.index[1]) & self.mask)
        self.index, self.vectors, self.mask = self.index[:, keep], self.vectors[keep], self.mask[keep]
        return self

    def check(self, library, fresh=True):
        """Status of the check, at a first evaluation or a later one."""
        if fresh:
            self._call(library, 0, 0)
        return self._call(library, len(self.types), self.owned)

    def _call(self, library, natom, owned):
        names = torch.tensor(list(b"O, H"), dtype=torch.uint8)
        nedge = self.index.shape[1]
        kinds, index = torch.full((natom + 1,), -9), torch.full((2, nedge + 1), -9)
        vectors = torch.full((nedge + 1, 3), -9.0, dtype=torch.float64)
        single = self.frames == 1 and owned == natom
        arguments = [self.types, natom, owned, self.index.contiguous(), self.vectors.contiguous(), self.mask]
        arguments += [
            nedge,
            names,
            4,
            self.allowed,
            self.has_energy,
            2,
            int(single),
            R_MAX,
            guard_distance(R_MAX),
        ]
        status = library.mace_check_input(*map(as_c, [*arguments, kinds, index, vectors]))
        if status == 0:
            self._compare(kinds, index, vectors, natom, owned)
        return status

    def _compare(self, kinds, index, vectors, natom, owned):
        """What the rest of the program reads is what it would make in torch."""
        if natom == 0:
            assert kinds.tolist() == [0]
            assert not index.any()
            assert (vectors == guard_distance(R_MAX)).all()
            return
        known = self.types.clamp(min=0)
        graph = graph_of_edges(known, owned, self.index, self.vectors, self.mask, R_MAX, self.allowed)
        assert torch.equal(kinds, graph.sender_types)
        assert torch.equal(index, graph.edge_index)
        assert torch.equal(vectors, graph.edge_vec)


FRAMES = {
    "bulk": random_frame(40, 8.0, seed=3),
    "dense": random_frame(80, 8.0, seed=3, spacing=1.2),
    "images": random_frame(4, 3.4, seed=5),
    "one atom and its images": random_frame(1, 2.0),
    "cluster": (*random_frame(20, 7.0, seed=2)[:2], None),
    "lone atoms": (np.eye(3) * 50.0, np.array([0, 1, 1]), None),
    "far away": (random_frame(20, 7.0, seed=2)[0] + 4e9, random_frame(20, 7.0, seed=2)[1], None),
    "no atoms": (np.zeros((0, 3)), np.zeros(0, dtype=int), None),
}


@pytest.mark.parametrize("name", FRAMES)
def test_whole_lists_pass(name, library):
    assert Graph(*FRAMES[name]).check(library) == 0


def test_a_rank_with_ghosts(library):
    """Ghosts have no neighbours of their own."""
    coord, types, _ = FRAMES["cluster"]
    for owned in (0, 7, 20):
        assert Graph(coord, types, None, owned).check(library) == 0


def test_virtual_atoms_and_several_frames(library):
    coord, types, _ = FRAMES["cluster"]
    assert Graph(coord, np.where(np.arange(20) % 3, types, -1), None).check(library) == 0
    apart = Graph(np.vstack([coord, coord + 100.0]), np.append(types, types), None)
    apart.frames = 2
    assert apart.check(library) == 0


def bonded(first, second):
    return lambda j, i: ((i == first) & (j == second)) | ((i == second) & (j == first))


@pytest.mark.parametrize("name", ["bulk", "images", "cluster"])
def test_one_lost_pair_is_noticed(name, library, capfd):
    graph = Graph(*FRAMES[name])
    nearest = graph.vectors[graph.mask].norm(dim=1).argmin()
    pair = graph.index[:, nearest].tolist()
    assert graph.without(bonded(*pair)).check(library) != 0
    said = capfd.readouterr().err
    assert said.startswith(LACKS)
    assert "{} and {} of the rank".format(*sorted(pair)) in said
    assert all(
        words in said
        for words in ("special_bonds lj/coul 1 1 1", "neigh_modify exclude", "pair_style hybrid/overlay")
    )


def test_what_is_left_out_rightly(library):
    """Pairs that the model excludes itself, and an atom that the host has made invisible."""
    graph = Graph(*FRAMES["bulk"])
    kinds = graph.types
    graph.without(lambda j, i: (kinds[i] == 1) & (kinds[j] == 1))
    assert graph.check(library) != 0
    graph.allowed[1, 1] = False
    assert graph.check(library) == 0
    gone = Graph(*FRAMES["bulk"]).without(lambda j, i: (i == 5) | (j == 5))
    assert gone.check(library) != 0
    gone.has_energy[:] = False
    assert gone.check(library) == 0


def test_parts_without_a_common_neighbour(library, capfd):
    """In a full cell one part cannot be out of the other's reach; around a cluster or a slab it can."""
    for name, wrong in (("dense", True), ("cluster", False)):
        graph = Graph(*FRAMES[name])
        split = graph.without(lambda j, i, kinds=graph.types: kinds[i] != kinds[j])
        assert (split.check(library) != 0) == wrong
        assert (LACKS in capfd.readouterr().err) == wrong
    coord, types, cell = random_frame(40, 8.0, seed=3, triclinic=False)
    coord, types = np.vstack([coord, [[4, 4, 14], [4.9, 4, 14]]]), np.append(types, [0, 1])
    cell[2, 2] = 20.0
    assert Graph(coord, types, cell).check(library) == 0


WARNED = {
    "lone atoms": (None, "3 atoms into 3 groups.*3 of 3 atoms, such as atom 0"),
    "cluster": (lambda j, i: (i == 4) | (j == 4), "20 atoms into 2 groups.*1 of 20 atoms, such as atom 4"),
    "bulk": (None, None),
    "one atom and its images": (None, None),
    "no atoms": (None, None),
}


@pytest.mark.parametrize("name", WARNED)
def test_groups_without_edges_between_them_are_told_once(name, fresh_library, capfd):
    """Separate molecules, or ones whose pairs are all missing: without positions nothing tells which."""
    lost, words = WARNED[name]
    graph = Graph(*FRAMES[name])
    if lost:
        graph.without(lost)
    for first in (True, False):
        assert graph.check(fresh_library) == 0
        told = capfd.readouterr().err
        assert bool(told) == bool(words and first)
        assert not told or re.search(f"mace model: warning: .*{words}.*special_bonds lj/coul 1 1 1", told)


def test_of_a_rank_atoms_without_neighbours_are_told(fresh_library, capfd):
    """Groups say nothing there: of ghosts the rank has no edges."""
    coord, types, _ = FRAMES["cluster"]
    graph = Graph(coord, types, None, owned=12)
    assert graph.check(fresh_library) == 0
    assert not capfd.readouterr().err
    graph.without(lambda j, i: (i == 4) | (j == 4))
    graph.check(fresh_library)
    assert "1 of 12 atoms, such as atom 4" in capfd.readouterr().err


def test_nothing_is_told_of_atoms_without_energy_and_of_edges_from_python(fresh_library, capfd):
    graph = Graph(*FRAMES["lone atoms"])
    graph.has_energy[:] = False
    assert graph.check(fresh_library) == 0
    graph = Graph(*FRAMES["lone atoms"])
    graph.vectors[~graph.mask] = 1.0
    assert graph.check(fresh_library) == 0
    assert not capfd.readouterr().err


def test_when_the_list_is_looked_at(library):
    """First, when the number of owned atoms changes, and at every hundredth evaluation."""
    assert Graph(*FRAMES["bulk"]).check(library) == 0
    lost = Graph(*FRAMES["bulk"]).without(lambda j, i: (i < 10) & (j < 10))
    later = [lost.check(library, fresh=False) for _ in range(100)]
    assert not any(later[:99])
    assert later[99] != 0
    assert lost.check(library) != 0


def spoilt(**changes):
    graph = Graph(*FRAMES["bulk"])
    for name, (place, value) in changes.items():
        getattr(graph, name)[place] = value
    return graph


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"types": (3, 2)}, "atom type 2 is out of range; the model has 2 types: O, H."),
        ({"types": (3, -2)}, "atom type -2 is out of range"),
        ({"types": (0, 2**40)}, "atom type 1099511627776 is out of range"),
        ({"index": ((0, 5), 40)}, "an edge goes from atom 40 to atom 0, but there are 40 atoms"),
        ({"index": ((1, 5), -1)}, "to atom -1, but there are 40 atoms"),
        ({"vectors": (7, np.nan)}, "a coordinate is NaN or infinite."),
        ({"vectors": (7, np.inf)}, "a coordinate is NaN or infinite."),
        ({"vectors": (7, 0.0)}, "two atoms are at the same place (closer than 1e-6 Å)"),
    ],
)
def test_bad_values(changes, words, library, capfd):
    """At every evaluation, not only at the first."""
    assert Graph(*FRAMES["bulk"]).check(library) == 0
    assert spoilt(**changes).check(library, fresh=False) != 0
    said = capfd.readouterr().err
    assert said.startswith("mace model: ")
    assert words in said


@pytest.mark.parametrize("name", ["bulk", "images", "cluster"])
def test_atoms_at_the_same_place_without_their_pair(name, library, capfd):
    """As LAMMPS hands them over through the host: each sees everything but the other."""
    coord, types, cell = FRAMES[name]
    assert Graph(coord[:-1], types[:-1], cell).check(library) == 0
    coord = np.vstack([coord[:-1], coord[:1]])
    graph = Graph(coord, types, cell)
    last = len(coord) - 1
    zero = graph.vectors.norm(dim=1) < 1e-9
    keep = ~(zero & graph.mask)
    graph.index, graph.vectors, graph.mask = graph.index[:, keep], graph.vectors[keep], graph.mask[keep]
    graph.check(library)
    capfd.readouterr()
    assert graph.check(library, fresh=False) != 0
    assert (
        f"two atoms are at the same place (closer than 1e-6 Å), so the force between them is undefined: atoms 0 and {last},"
        in (capfd.readouterr().err)
    )


# --- quantities of frames ----------------------------------------------------------------------------------------

QUANTITIES = {
    "total_charge": {"type": "categorical", "num_classes": 9, "offset": 4, "emb_dim": 3},
    "temperature": {"type": "continuous", "emb_dim": 3, "default": 0.3},
}


def checked_values(library, rows, quantities=QUANTITIES):
    """Status, and what the program goes on with."""
    values = torch.tensor(rows, dtype=torch.float64)
    checked = torch.zeros_like(values)
    arguments = [values, *values.shape, *FrameValues(features(quantities)).rules(), checked]
    return library.mace_check_values(*map(as_c, arguments)), checked


@pytest.mark.parametrize("value", [-5.0, 5.0, 0.5, np.nan, np.inf, 1e300])
def test_a_charge_that_the_model_does_not_have(value, library, capfd):
    """The sentence is that of a .pth."""
    frames = [[4.0, 0.7], [value, 0.7]]
    assert checked_values(library, frames)[0] != 0
    said = capfd.readouterr().err
    with pytest.raises(ValueError, match="total_charge is") as refused:
        FrameValues(features(QUANTITIES))(torch.tensor(frames), 2, torch.device("cpu"))
    assert re.sub(r"is \S+ in", "is X in", said.strip()) == re.sub(
        r"is \S+ in", "is X in", str(refused.value)
    )
    assert checked_values(library, [[0.0, np.nan]])[0] != 0
    assert (
        "temperature is nan in frame 0 (column 1 of fparam, counted from 0), but must be a finite number."
        in (capfd.readouterr().err)
    )


def test_default_values_are_told_once(fresh_library, capfd):
    status, checked = checked_values(fresh_library, [[-4.0, 0.3], [0.0, 0.3]])
    assert (status, checked.tolist()) == (0, [[-4.0, 0.3], [0.0, 0.3]])
    without = {**QUANTITIES, "total_charge": {**QUANTITIES["total_charge"], "default": None}}
    assert checked_values(fresh_library, [[0.0, 0.3]], without)[0] == 0
    assert capfd.readouterr().err == ""
    for _ in range(2):
        assert checked_values(fresh_library, [[0.0, 0.3], [0.0, 0.3]])[0] == 0
    said = capfd.readouterr().err
    assert (
        said.count(
            "fparam was not given or has the default values, so frames have total_charge 0, temperature 0.3."
        )
        == 1
    )
