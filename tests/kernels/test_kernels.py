"""Generated kernels and radial tables against the torch code that they replace: value and derivatives."""

import contextlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch._inductor.config as inductor_config
from architectures import NEQUIP, architectures
from helpers import assert_close, random_frame, tiny_model
from nequip_models import tiny_nequip
from tolerances import NATIVE
from torch._inductor.cpp_builder import cpp_compiler_search

from deepmd_gnn.graph.arrangement import in_chunks
from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.kernels import install as freezing
from deepmd_gnn.kernels import operators
from deepmd_gnn.kernels.cpu import densities, generated, kinds
from deepmd_gnn.kernels.cpu.compiler import Compiled, check_compiler, cpu_guard
from deepmd_gnn.kernels.cpu.contraction_code import contraction_code, monomial_tuples, polynomials
from deepmd_gnn.kernels.cpu.convolution_code import ConvolutionShape, Path, shape_of
from deepmd_gnn.kernels.cpu.generated_convolution import GeneratedConvolution
from deepmd_gnn.kernels.cpu.kinds_code import kinds_code
from deepmd_gnn.kernels.cpu.mixing import linear_matrices
from deepmd_gnn.kernels.cpu.targets import Machine
from deepmd_gnn.kernels.install import described
from deepmd_gnn.kernels.tables import radial as radial_tables
from deepmd_gnn.kernels.tables.lookup import Tables
from deepmd_gnn.kernels.tables.probe import difference
from deepmd_gnn.kernels.tables.radial import BEND, TOLERANCE, Grid, Weights, hermite, radial_table

OPTIONS = architectures("kernels")
MACHINES = {
    "this": None,
    "256 bits": Machine(32, 10, (), ()),
    "128 bits": Machine(16, 10, (), ()),
}


def grouped(graph):
    """The graph with its edges grouped by receiver, in a random order within each group."""
    shuffled = torch.randperm(graph.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    order = shuffled[torch.argsort(graph.edge_index[1][shuffled], stable=True)]
    counts = torch.bincount(graph.edge_index[1], minlength=len(graph.node_types))
    begin = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    vectors = graph.edge_vec.detach().requires_grad_(True)
    return AtomGraph(*graph[:3], vectors, graph.edge_atoms, "kernels", order=order, begin=begin)


def water_graph(model, nframe=2):
    """Periodic frames, so that some pairs are in the list twice, as one graph."""
    frames = [random_frame(seed=seed, ntypes=len(model.get_type_map())) for seed in range(nframe)]
    coord, atype, box = (torch.tensor(np.stack(part)) for part in zip(*frames, strict=True))
    graph = grouped(model.graphs.of_frames(coord, atype, box.reshape(nframe, 9)))
    return model.with_frame_values(graph, None, nframe)


def energy_and_gradient(model, graph):
    energy, features = model.energy_model(graph, None)
    (gradient,) = torch.autograd.grad(energy.sum(), graph.edge_vec)
    return energy.detach().numpy(), gradient.numpy(), features[0].detach().numpy()


@contextlib.contextmanager
def use_kernels(model):
    kernels = generated.Kernels(model.energy_model)
    with operators.use(kernels.library), kernels.installed(model.energy_model):
        yield


def use_tables(model):
    """As a freeze without kernels does."""
    return Tables(generated.radial_tables(model.energy_model)).installed(model.energy_model)


def assert_match(use, precision, slots=0, **options):
    model = tiny_model(precision=precision, **options)
    assert generated.not_covered(model.energy_model) is None
    graph = in_chunks(water_graph(model), slots) if slots else water_graph(model)
    # The same weights in float64: the torch code has its own rounding in float32.
    expected = energy_and_gradient(tiny_model(precision="float64", **options), graph)
    with use(model):
        found = energy_and_gradient(model, graph)
    for name, ours, reference in zip(("energy", "gradient", "features"), found, expected, strict=True):
        assert_close(ours, reference, NATIVE[precision], name)
    assert all(p.requires_grad for p in model.energy_model.node_embedding.parameters())


@pytest.mark.parametrize("use", [use_kernels, use_tables])
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("option", OPTIONS)
def test_equals_torch(option, precision, use, monkeypatch):
    monkeypatch.setattr(kinds, "pays", lambda *_: True)
    assert_match(use, precision, **OPTIONS[option])


def test_first_layer_by_channels(monkeypatch):
    monkeypatch.setattr(kinds, "pays", lambda *_: False)
    assert_match(use_kernels, "float64", max_L=1)


@pytest.mark.parametrize("use", [use_kernels, use_tables])
@pytest.mark.parametrize(
    ("name", "precision"), [("explicit irreps", "float64"), ("norm", "float32"), ("default", "float32")]
)
def test_nequip(name, precision, use):
    """Layers with gates, whose scalars come in several sets of channels, and without contraction."""
    options = NEQUIP[name].options
    model = tiny_nequip(precision=precision, **options)
    assert generated.not_covered(model.energy_model) is None
    graph = water_graph(model)
    expected = energy_and_gradient(tiny_nequip(**options), graph)
    with use(model):
        found = energy_and_gradient(model, graph)
    for what, ours, reference in zip(("energy", "gradient", "features"), found, expected, strict=True):
        assert_close(ours, reference, NATIVE[precision], what)


def first_sums(model, lanes, both=False):
    """The first layer as sums over kinds of senders, with the map that follows, or both of them, or None."""
    network = model.energy_model
    first = network.interactions[0]
    shape = shape_of(first.conv_tp)
    maps = [first.linear, first.skip_tp] if both else [first.linear]
    return kinds.kind_sums(network, radial_table(network, first, network.dtype), shape, maps, 0.5, lanes)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {"max_L": 1},
        {"distance_transform": "Agnesi", "interaction_first": "RealAgnosticDensity", "pair_repulsion": True},
        {"interaction_first": "RealAgnosticResidualNonLinear"},
    ],
    ids=["vectors", "density, a table for each pair", "non-linear"],
)
def test_first_layer_by_elements_of_the_neighbors(precision, options, monkeypatch):
    """Of four elements two are there, in another order; some atoms have neighbours of one only, one has none."""
    # A table for each pair: as many as the square of the number of elements, each to be searched for.
    options = {**options, "type_map": ["H", "C", "N", "O"], "atomic_energies": [0.0] * 4}
    model = tiny_model(precision=precision, **options)
    coord = np.random.default_rng(3).uniform(0.0, 4.0, (8, 3))
    coord[6:] += [[20.0, 0.0, 0.0], [40.0, 0.0, 0.0]]
    coord[5] = coord[6] + [1.5, 0.2, 0.0]
    atype = torch.tensor([[3, 1, 3, 3, 1, 1, 3, 1]])
    graph = grouped(model.graphs.of_frames(torch.tensor(coord).unsqueeze(0), atype, None))
    expected = energy_and_gradient(tiny_model(**options), graph)
    monkeypatch.setattr(kinds, "pays", lambda *_: True)
    convolution = generated.Kernels(model.energy_model).convolutions[0]
    assert isinstance(convolution, kinds.GeneratedKindConvolution)
    assert convolution.maps == (0 if "NonLinear" in options.get("interaction_first", "") else 2)
    with use_kernels(model):
        found = energy_and_gradient(model, graph)
    for what, ours, reference in zip(("energy", "gradient", "features"), found, expected, strict=True):
        assert_close(ours, reference, NATIVE[precision], what)


def test_densities_without_an_exact_table_stay_networks(monkeypatch):
    """And with one nobody reads radial features any more."""
    options = {"interaction": "RealAgnosticDensityResidual", "interaction_first": "RealAgnosticDensity"}
    network = tiny_model(**options).energy_model
    kernels = generated.Kernels(network)
    assert kernels.densities.columns == {0: 0, 1: 1}
    assert not kernels.reads_radial(network)
    assert_match(use_kernels, "float64", **options)
    table = radial_tables.density_table(network, network.dtype)
    monkeypatch.setattr(densities, "density_table", lambda *_: table._replace(error=1.0))
    assert generated.Kernels(network).densities is None
    assert_match(use_kernels, "float64", **options)


def test_error_of_densities_is_that_of_each_layer():
    """A layer may multiply its density, however small, by a large number."""
    options = {"interaction": "RealAgnosticDensityResidual", "interaction_first": "RealAgnosticDensity"}
    network = tiny_model(**options).energy_model

    def error(*layers):
        functions = radial_tables.Densities(network)
        functions.layers = [functions.layers[layer] for layer in layers]
        return radial_tables._tabulated(functions, 1, 24, 0.2).error

    worst = max((0, 1), key=error)
    with torch.no_grad():
        for weight in network.interactions[worst].density_fn.parameters():
            weight.mul_(1e-3)
    assert error(worst) > 1.01 * error(1 - worst)
    assert error(0, 1) == pytest.approx(error(worst), rel=1e-6)


def test_networks_of_data_without_pairs_have_kernels():
    """The average number of neighbours is 0 then; a density does not read it."""
    options = {"interaction": "RealAgnosticDensityResidual", "interaction_first": "RealAgnosticDensity"}
    network = tiny_model(**options).energy_model
    network.avg_num_neighbors.fill_(0.0)
    assert generated.Kernels(network).averaging == []


def test_first_layer_without_edges(monkeypatch):
    """Nobody has neighbours: energies are those of lone atoms."""
    monkeypatch.setattr(kinds, "pays", lambda *_: True)
    model = tiny_model()
    coord = torch.tensor([[[0.0, 0.0, 0.0], [50.0, 0.0, 0.0]]], dtype=torch.float64)
    graph = grouped(model.graphs.of_frames(coord, torch.tensor([[0, 1]]), None))
    real = graph.edge_vec[graph.edge_index[0] != 0]
    assert len(real) == 0
    expected, _, _ = energy_and_gradient(model, graph)
    with use_kernels(model):
        found, _, _ = energy_and_gradient(model, graph)
    assert_close(found, expected, NATIVE["float64"], "energy")


def test_first_layer_that_knows_more_than_elements():
    """Charge and spin of the frame."""
    convolution = generated.Kernels(tiny_model(**OPTIONS["charged"]).energy_model).convolutions[0]
    assert isinstance(convolution, GeneratedConvolution)


def test_first_layer_where_it_does_not_pay(monkeypatch):
    model = tiny_model()
    assert first_sums(model, lanes=16) is not None
    assert first_sums(model, lanes=2) is None  # more vectors of functions than of channels
    monkeypatch.setattr(kinds, "LARGEST_MATRICES", 100)
    assert first_sums(model, lanes=16) is None


@pytest.mark.parametrize(
    ("elements", "neighbors", "expected"),
    [(2, 15, True), (4, 15, False), (4, 50, True), (10, 15, False), (10, 50, False), (6, 90, True)],
)
def test_first_layer_pays_where_it_was_faster(elements, neighbors, expected):
    """128 channels, harmonics up to l = 3, AVX-512, 64 functions: times were 0.75, 1.22, 0.83, 2.6 and 1.55 of the other way."""
    shape = ConvolutionShape(1, 16, 16, [Path(0, 0, {})] * 4)
    assert kinds.pays(shape, 128, 64, elements, neighbors, 16) is expected


def test_matrices_of_the_first_layer_are_those_of_the_network():
    """Functions times matrices are radial weights times features times the map."""
    model = tiny_model(max_ell=3)
    sums = first_sums(model, lanes=16)
    network, first = model.energy_model, model.energy_model.interactions[0]
    table = radial_table(network, first, network.dtype).values[0, :, :, 0]
    weights = table.view(len(table), 4, -1)  # one path for each degree
    matrices = linear_matrices(first.linear)[0]
    for degree, (begin, target, size) in enumerate(sums.paths):
        assert (begin, target, size) == (degree**2, degree**2, 2 * degree + 1)
        sent = weights[:, degree] * network.sent_by_types().view(2, 1, -1)
        expected = sent @ matrices[degree] * 0.5
        found = sums.functions[0, :, 0, 0] @ sums.matrices[0, :, degree]
        assert_close(found.detach().numpy(), expected.detach().numpy(), NATIVE["float64"])


def test_map_by_elements_of_the_receivers_is_included_where_it_is_small(monkeypatch):
    """The map that ends the first message has a matrix for each element of the receiver."""
    model = tiny_model()
    sums, alone = first_sums(model, 16, both=True), first_sums(model, 16)
    maps = linear_matrices(model.energy_model.interactions[0].skip_tp)
    for element in range(2):
        for degree in range(len(sums.paths)):
            expected = alone.matrices[0, :, degree] @ maps[element, degree]
            assert_close(
                sums.matrices[element, :, degree].detach().numpy(),
                expected.detach().numpy(),
                NATIVE["float64"],
            )
    assert (sums.maps, alone.maps) == (2, 1)
    monkeypatch.setattr(kinds, "LARGEST_OF_PAIRS", 100)
    assert first_sums(model, 16, both=True).maps == 1
    monkeypatch.setattr(kinds, "pays", lambda *_: True)
    assert_match(use_kernels, "float64", max_L=1)


def test_code_for_few_registers():
    """As many sums at once as there are registers, each harmonic once."""
    for registers in (5, 16):
        code = kinds_code("Convolution0", 16, [], registers)
        assert code.count("for (auto* e = begin") == -(-16 // registers) + 1
        assert all(code.count(f"a{m} += f * e->y[{m}];") == 1 for m in range(16))


@pytest.mark.parametrize(("slots", "chunks"), [(10**6, 1), (40, 8)])
@pytest.mark.parametrize("option", ["as S", "density first, zbl, agnesi, three elements"])
def test_tables_in_chunks(option, slots, chunks):
    """All edges in one chunk, as compiled graphs have them, and in several."""
    model = tiny_model(**OPTIONS[option])
    assert len(in_chunks(water_graph(model), slots).chunk_nodes) >= chunks
    assert_match(use_tables, "float64", slots, **OPTIONS[option])


@pytest.mark.parametrize("machine", ["256 bits", "128 bits"])
@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_other_vectors(monkeypatch, machine, precision):
    monkeypatch.setattr(generated, "target_machine", lambda: MACHINES[machine])
    assert_match(use_kernels, precision, num_channels=10, max_ell=3)


def test_unsuitable_cpu(monkeypatch, capfd):
    # No CPU has these two: the oldest vectors of AMD and of a later Intel.
    monkeypatch.setattr(generated, "target_machine", lambda: Machine(16, 10, (), ("fma4", "avx512er")))
    model = tiny_model()
    kernels = generated.Kernels(model.energy_model)
    with (
        operators.use(kernels.library),
        kernels.installed(model.energy_model),
        pytest.raises(RuntimeError, match="not the CPU"),
    ):
        model.energy_model(water_graph(model), None)
    assert "frozen for CPUs with fma4, avx512er" in capfd.readouterr().err


@pytest.mark.parametrize(("feature", "suitable"), [("sse2", True), ("fma4", False)])
def test_loading_on_an_unsuitable_cpu(feature, suitable, tmp_path):
    """The library that is linked into every ``.pt2`` ends the process with a message before other code runs."""
    guard = cpu_guard(Machine(16, 10, (), (feature,)))
    source = (
        '#include <cstdio>\nstatic struct Early { Early() { std::puts("ran"); std::fflush(stdout); } } early;'
    )
    compiled = Compiled({"user": source}, ())
    user = compiled.object("user")
    library = tmp_path / "user.so"
    command = f"{shlex.join(compiled.command)} -shared -o '{library}' '{user}' -l{guard}"
    subprocess.run(command, shell=True, check=True)
    code = f"import ctypes; ctypes.CDLL({str(library)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode == 0) == suitable
    assert ("ran" in done.stdout) == suitable
    assert ("frozen for CPUs with fma4, which this one lacks" in done.stderr) != suitable


def test_no_compiler():
    check_compiler()
    cpp_compiler_search.cache_clear()
    with (
        inductor_config.patch({"cpp.cxx": ("/nowhere/g++",)}),
        pytest.raises(RuntimeError, match="no C\\+\\+ compiler"),
    ):
        check_compiler()
    cpp_compiler_search.cache_clear()


def test_attentive_blocks_are_not_covered():
    model = tiny_model(interaction="RealAgnosticAttResidual")
    assert "attentive" in generated.not_covered(model.energy_model)


def test_tables_of_too_many_elements(monkeypatch):
    model = tiny_model(distance_transform="Agnesi")
    monkeypatch.setattr(generated, "LARGEST_TABLES", generated.tables_size(model.energy_model) - 1)
    assert "pairs of 2 elements" in generated.not_covered(model.energy_model)


def test_radial_weights_that_a_table_cannot_hold(monkeypatch, caplog):
    """The log says why there are no kernels, and the freeze goes on without."""
    monkeypatch.setattr(radial_tables, "MOST", 128)
    model = tiny_model(radial_type="gaussian", num_radial_basis=60, precision="float32")
    with described(model, kernels=True) as description:
        assert description is None
    assert "with 128 distances the radial weights of layer 1 still have" in caplog.text


@pytest.mark.parametrize(
    ("option", "precision"), [(option, "float64") for option in OPTIONS] + [("default", "float32")]
)
def test_energies_and_forces_of_probe_atoms(option, precision):
    model = tiny_model(**OPTIONS[option], precision=precision)
    found = difference(model, Tables(generated.radial_tables(model.energy_model)))
    assert found.acceptable(model.energy_model.dtype)
    assert 0 < found.force < found.largest


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_tables_that_change_the_forces_are_not_used(precision, monkeypatch, caplog):
    made = generated.radial_tables

    def slightly_off(energy_model):
        tables = made(energy_model)
        tables[1].values.mul_(1 + (0.1 if precision == "float32" else 1e-5))
        return tables

    monkeypatch.setattr(freezing, "radial_tables", slightly_off)
    with described(tiny_model(precision=precision), kernels=True) as description:
        assert description is None
    assert "with radial tables energies would be off by" in caplog.text


@pytest.mark.parametrize("use", [use_kernels, use_tables])
def test_atoms_that_are_not_a_number(use):
    model = tiny_model()
    graph = water_graph(model, 1)
    vectors = graph.edge_vec.detach().clone()
    vectors[5] = torch.nan
    broken = graph._replace(edge_vec=vectors.requires_grad_(True))
    with use(model):
        energy, gradient, _ = energy_and_gradient(model, broken)
    receiver = int(graph.edge_index[1, 5])
    assert np.isnan(energy[receiver])
    assert np.isnan(gradient[5]).all()


@pytest.mark.parametrize("use", [use_kernels, use_tables])
@pytest.mark.parametrize("options", [{}, {"interaction": "RealAgnosticResidualNonLinear"}])
def test_edges_beyond_the_cutoff_change_nothing(use, options):
    model = tiny_model(**options)
    graph = water_graph(model, 1)
    vectors = graph.edge_vec.detach().clone()
    vectors[7] *= 4.000001 / vectors[7].norm()
    moved = graph._replace(edge_vec=vectors.requires_grad_(True))
    expected = energy_and_gradient(model, moved)
    with use(model):
        found = energy_and_gradient(model, moved)
    assert_close(found[0], expected[0], NATIVE["float64"], "energy")
    assert (found[1][7] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_table_states_its_error(dtype):
    model = tiny_model(max_ell=1).energy_model
    table = radial_table(model, model.interactions[1], dtype)
    assert 0 < table.error <= TOLERANCE[dtype][0]
    assert 0 < table.derivative_error <= TOLERANCE[dtype][1]
    assert (table.values[:, -1].abs() < 1e-11).all()  # nothing at the cutoff


@pytest.mark.parametrize(
    "option",
    [
        "default",
        "density first, zbl, agnesi, three elements",
        "soft gaussian",
        "as MH-1, no repulsion",
        "non-linear",
    ],
)
def test_table_up_to_the_cutoff(option):
    """The last bin, where the third derivative of the envelope jumps."""
    model = tiny_model(**OPTIONS[option]).energy_model
    layer = model.interactions[-1]
    table = generated.radial_table(model, layer, torch.float64)  # of other tests, see conftest.py
    grid, spacing = Grid(model.r_max, table.bend), 1.0 / (table.values.shape[1] - 1)
    exact, place = Weights(model, layer), torch.tensor([1.0 - 0.6 * spacing], dtype=torch.float64)
    value, slope = exact.slope(grid.distance(place), 0)
    found, found_slope = hermite(table.values[0, [-2]], table.values[0, [-1]], 0.4)
    largest, steepest = (float(x.abs().max()) for x in exact.slope(torch.linspace(1, 4, 50).double(), 0))
    assert float((found - value).abs().max()) <= TOLERANCE[torch.float64][0] * largest
    found_slope = found_slope / (spacing * grid.slope(place))
    assert float((found_slope - slope).abs().max()) <= TOLERANCE[torch.float64][1] * steepest


def test_distances_of_nodes():
    """Both ends, the derivatives by differences; equidistant without a bend."""
    places = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    for grid in (Grid(5.0, 0.0), Grid(5.0, BEND / 5.0)):
        ends = grid.distance(torch.tensor([0.0, 1.0], dtype=torch.float64))
        assert ends.tolist() == pytest.approx([0.0, 5.0])
        before, after = places - 1e-5, places + 1e-5
        torch.testing.assert_close(
            (grid.distance(after) - grid.distance(before)) / 2e-5, grid.slope(places), rtol=1e-9, atol=0
        )
        torch.testing.assert_close(
            (grid.slope(after) - grid.slope(before)) / 2e-5, grid.curvature(places), rtol=1e-8, atol=1e-8
        )
    assert (Grid(5.0, 0.0).distance(places) == 5.0 * places).all()


def test_as_many_nodes_are_more_exact_where_they_are_denser_at_small_distances():
    options = {"r_max": 6.0, "max_ell": 1, "num_radial_basis": 8, "distance_transform": "Agnesi"}
    model = tiny_model(**options).energy_model
    weights = Weights(model, model.interactions[1])
    bent, equidistant = (radial_tables._tabulated(weights, 1, 96, bend / 6.0) for bend in (BEND, 0.0))
    assert bent.error < 0.3 * equidistant.error
    assert bent.derivative_error < 0.3 * equidistant.derivative_error


def test_polynomial_code_has_every_monomial_once():
    monomials = monomial_tuples(3, [[0, 1], [1]], [[1, 2], [2]])
    assert monomials == [(0,), (1,), (2,), (0, 1), (1, 2), (1, 2, 2)]
    used = np.array([[True, False, False, True, False, True]])
    shape = polynomials(3, monomials, used)
    assert sorted(shape.terms) == [(0, 0), (0, 3), (0, 5)]
    assert contraction_code("P", shape).count("load(c + ") == 2 * 3
