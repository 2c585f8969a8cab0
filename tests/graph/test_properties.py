"""Properties that hold for whatever input hypothesis thinks of: cells, graphs, type maps, model sections."""

import json
import string

import numpy as np
import pytest
import torch
from deepmd.utils.argcheck import normalize  # noqa: F401 - registers the schema
from helpers import our_results, tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matscipy.neighbours import neighbour_list
from tolerances import NATIVE

from deepmd_gnn.config.checks import GATES, INTERACTIONS, RADIAL_TYPES, parse_irreps
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.mm_types import element_of, is_mm, mm_pairs
from deepmd_gnn.config.options import check_type_map, config_from_options, exclusion_tables
from deepmd_gnn.graph.builders import graph_from_list, make_graph
from deepmd_gnn.graph.neighbor_search import NeighborPairs

# The same examples in every run; the machine may be busy.
CAREFUL = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
FEW = settings(CAREFUL, max_examples=6)

seeds = st.integers(0, 2**31)
lengths = st.floats(1.5, 12.0)
angles = st.floats(-0.6, 0.6)


def outcome(function, *arguments):
    """The result and no message, or no result and the message of a ValueError."""
    try:
        return function(*arguments), None
    except ValueError as error:
        return None, str(error)


@st.composite
def frames(draw, ntypes=2, most=12):
    """Coordinates far inside and outside of a cell of any shape, or without one."""
    rng = np.random.default_rng(draw(seeds))
    natoms = draw(st.integers(1, most))
    cell = np.diag([draw(lengths) for _ in range(3)])
    cell[1, 0], cell[2, 0], cell[2, 1] = (draw(angles) * cell[k, k] for k in (0, 0, 1))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    cell = cell @ turn
    coord = rng.uniform(-2, 3, (natoms, 3)) @ cell
    return coord, rng.integers(0, ntypes, natoms), cell if draw(st.booleans()) else None


@CAREFUL
@given(frames(), st.floats(0.5, 7.0))
def test_neighbours_are_those_of_another_program(frame, cutoff):
    coord, types, cell = frame
    box = None if cell is None else torch.tensor(cell[None])
    center, neighbor, vector = NeighborPairs(cutoff)(
        torch.tensor(coord[None]), torch.tensor(types[None]), box
    )
    periodic = cell is not None
    big = np.eye(3) * (np.ptp(coord, axis=0).max() + 3 * cutoff)
    i, j, expected = neighbour_list(
        "ijD", positions=coord, cell=cell if periodic else big, pbc=[periodic] * 3, cutoff=cutoff
    )

    def ordered(first, second, vectors):
        # Pairs within rounding of the cutoff may be in one list only.
        keep = np.linalg.norm(vectors, axis=1) < cutoff - 1e-9
        rows = np.column_stack([first, second, np.round(vectors, 6)])[keep]
        return rows[np.lexsort(rows.T[::-1])]

    np.testing.assert_allclose(
        ordered(center.numpy(), neighbor.numpy(), vector.numpy()), ordered(i, j, expected), atol=2e-6
    )


@CAREFUL
@given(frames(most=8), st.integers(0, 5), seeds)
def test_a_padded_list_in_any_order_makes_the_same_graph(frame, padding, seed):
    """Width, order and skin of a host's list do not matter."""
    coord, types, _ = frame
    cutoff, n = 4.0, len(types)
    rng = np.random.default_rng(seed)
    rows = []
    for atom in range(n):
        others = [k for k in range(n) if k != atom]
        row = np.array(others + [-1] * padding + [-1] * (n - 1 - len(others)), dtype=np.int64)
        rows.append(rng.permutation(row))
    nlist = torch.tensor(np.array(rows).reshape(1, n, -1))
    position, kinds = torch.tensor(coord[None]), torch.tensor(types[None])
    mapping = torch.arange(n)[None]
    graph = graph_from_list(position, kinds, nlist, mapping, cutoff)
    center, neighbor, vector = NeighborPairs(cutoff)(position, kinds, None)
    edges = torch.stack([neighbor, center])
    expected = make_graph(kinds[0], kinds[0], neighbor, center, vector, edges, cutoff)

    def as_set(one):
        rows = torch.cat([one.edge_index.double(), one.edge_atoms.double(), one.edge_vec.T]).T
        return sorted(map(tuple, np.round(rows.numpy(), 9).tolist()))

    assert as_set(graph) == as_set(expected)
    assert torch.equal(graph.node_types, expected.node_types)


@pytest.fixture(scope="module")
def model():
    return tiny_model(num_channels=2, pair_repulsion=True)


@FEW
@given(frames(most=6), seeds)
def test_energies_do_not_depend_on_the_description(model, frame, seed):
    """Another origin, other images of the atoms, another choice of cell vectors, another order."""
    coord, types, cell = frame
    vectors = np.linalg.norm(coord[:, None] - coord[None] + 10 * np.eye(len(types))[..., None], axis=2)
    if vectors.min(initial=10.0) < 0.3:  # forces beyond any scale
        return
    rng = np.random.default_rng(seed)
    here = our_results(model, coord, types, cell)
    moved = coord + rng.uniform(-5, 5, 3)
    other = cell
    if cell is not None:
        moved = moved + rng.integers(-2, 3, moved.shape) @ cell
        other = cell.copy()
        other[1] += rng.integers(-1, 2) * other[0]
    order = rng.permutation(len(types))
    there = our_results(model, moved[order], types[order], other)
    scale = max(1.0, np.abs(here["force"]).max(), np.abs(here["atom_energy"]).max())
    assert abs(there["energy"] - here["energy"])[0] <= 100 * NATIVE["float64"] * scale
    np.testing.assert_allclose(there["force"], here["force"][order], atol=100 * NATIVE["float64"] * scale)
    np.testing.assert_allclose(there["virial"], here["virial"], atol=1e3 * NATIVE["float64"] * scale)


SYMBOLS = ["H", "C", "N", "O", "Mg", "mH", "mC", "HW", "OW"]


@FEW
@given(
    st.lists(st.sampled_from(SYMBOLS), min_size=1, max_size=5, unique=True).filter(
        lambda names: not all(map(is_mm, names))
    ),
    seeds,
)
def test_a_type_map_in_another_order_is_the_same_model(names, seed):
    rng = np.random.default_rng(seed)
    energies = {name: -float(k + 1) for k, name in enumerate(names) if not is_mm(name)}
    model = tiny_model(type_map=names, num_channels=2, atomic_energies=energies)
    coord = np.array(list(np.ndindex(2, 2, 2))) * 1.7 + rng.uniform(-0.2, 0.2, (8, 3))
    kinds = rng.integers(0, len(names), 8)
    before = our_results(model, coord, kinds, None)
    shuffled = [names[k] for k in rng.permutation(len(names))]
    extended = [*shuffled, *rng.permutation([name for name in SYMBOLS if name not in names])[:2].tolist()]
    model.change_type_map(extended)
    after = our_results(model, coord, [extended.index(names[kind]) for kind in kinds], None)
    np.testing.assert_allclose(after["atom_energy"], before["atom_energy"], atol=1e-9)
    np.testing.assert_allclose(after["force"], before["force"], atol=1e-9)


@CAREFUL
@given(st.lists(st.one_of(st.sampled_from(SYMBOLS), st.text(string.ascii_letters, max_size=3)), max_size=6))
def test_type_maps_are_understood_or_refused(names):
    from ase.data import atomic_numbers

    numbers, message = outcome(check_type_map, names, atomic_numbers)
    if numbers is None:
        assert "type_map" in message
        return
    assert numbers == [atomic_numbers[element_of(name)] for name in names]
    allowed, _ = exclusion_tables(len(names), mm_pairs(names), [])
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            assert allowed[i][j] == (not (is_mm(first) and is_mm(second)))


valid_sections = st.fixed_dictionaries(
    {},
    optional={
        "r_max": st.floats(0.1, 20.0),
        "num_channels": st.integers(1, 256),
        "max_L": st.integers(0, 4),
        "max_ell": st.integers(1, 4),
        "num_radial_basis": st.integers(1, 20),
        "correlation": st.integers(1, 4),
        "interaction": st.sampled_from(INTERACTIONS),
        "gate": st.sampled_from(GATES),
        "radial_type": st.sampled_from(RADIAL_TYPES),
        "radial_MLP": st.lists(st.integers(1, 128), min_size=1, max_size=4),
        "precision": st.sampled_from(["float64", "float32", "double", "single"]),
        "avg_num_neighbors": st.one_of(st.none(), st.just("auto"), st.floats(0.1, 100)),
        "atomic_energies": st.one_of(
            st.just("auto"), st.dictionaries(st.sampled_from("HCO"), st.floats(-1e4, 0))
        ),
    },
)


@CAREFUL
@given(valid_sections)
def test_a_configuration_survives_a_file(section):
    config = config_from_options(section)
    again = config_from_options(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert config.channels == (section.get("num_channels") or 128)
    assert len(parse_irreps(str(config.hidden_irreps))) == section.get("max_L", 1) + 1


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda children: st.one_of(
        st.lists(children, max_size=3), st.dictionaries(st.text(max_size=4), children, max_size=2)
    ),
    max_leaves=4,
)
KEYS = sorted(MaceConfig.__dataclass_fields__)


@settings(CAREFUL, max_examples=150)
@given(
    st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(min_size=1, max_size=6)), anything, max_size=3)
)
def test_nonsense_is_refused_with_the_key(section):
    """Whatever stands in a model section: a configuration, or a message that names a key. Never another error."""
    config, message = outcome(config_from_options, section)
    if config is None:
        assert any(repr(key)[1:-1] in message or key in message for key in [*section, *KEYS])
        return
    assert config_from_options(config.to_dict()) == config
