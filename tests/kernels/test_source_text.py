"""Generated source, read as Python or compiled by itself, against the formulas that it spells out."""

import ctypes
import subprocess

import numpy as np
import pytest
import torch

from deepmd_gnn.kernels.cpu.contraction_code import monomial_tuples, polynomials
from deepmd_gnn.kernels.cpu.mixing_code import mixing_code
from deepmd_gnn.kernels.cpu.targets import Machine
from deepmd_gnn.kernels.cpu.vectors import in_vectors
from deepmd_gnn.kernels.triton.contraction_code import contraction_code
from deepmd_gnn.kernels.triton.geometry_code import (
    edge_gradient_code,
    geometry_code,
    gradient_lines,
    harmonics,
    number_of_harmonics,
    row_width,
    value_lines,
)
from deepmd_gnn.mace_modules import o3, spherical_harmonics_up_to  # e3nn itself cannot be imported first


@pytest.mark.parametrize(("channels", "lanes"), [(8, 4), (10, 4), (3, 8), (1, 1)])
def test_channels_in_vectors(channels, lanes):
    values = torch.arange(6.0 * channels).view(2, 3, channels)
    found = in_vectors(values, lanes)
    count = -(-channels // lanes)
    assert found.shape == (count, 2, 3, lanes)
    assert found.is_contiguous()
    rows = np.concatenate(list(found.numpy()), axis=-1)
    np.testing.assert_array_equal(rows[..., :channels], values)
    assert not rows[..., channels:].any()


# --- C++ --------------------------------------------------------------------------------------------------------

SCALARS = """\
typedef double T; typedef double V; static const long LANES = 1;
static inline V zero() { return 0; }
static inline V load(const T* p) { return *p; }
static inline void store_part(T* p, V v, long left) { if (left > 0) *p = v; }
"""
CALL = """\
using namespace mace;
extern "C" long rows() { return ROWS; }
extern "C" long vectors() { return VECTORS; }
extern "C" void run(long count, const T* x, T* y, long nterm, const long* sources, const T* const* matrices, long inputs,
                    long width, long out, long panel, long left) {
  const T* in[ROWS]; T* to[ROWS]; Term terms[8];
  for (long r = 0; r < ROWS; ++r) { in[r] = x + r * width; to[r] = y + r * out; }
  for (long t = 0; t < nterm; ++t) terms[t] = Term{sources[t], matrices[t]};
  products(count, in, to, terms, nterm, inputs, panel, left);
}
"""


@pytest.mark.parametrize("registers", [21, 10])
def test_loops_of_linear_maps(registers, tmp_path):
    """With numbers in the place of vectors: some rows times some columns, summed over irreps of the input."""
    code = SCALARS + mixing_code(Machine(32, registers, (), ())) + CALL
    (tmp_path / "a.cpp").write_text(code)
    subprocess.run(["g++", "-shared", "-fPIC", "-o", "a.so", "a.cpp"], cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "a.so"))
    rows, most = library.rows(), library.vectors()
    random = np.random.default_rng(0)
    inputs, width = 3, 11
    x = random.normal(size=(rows, width))
    sources, matrices = np.array([0, 7]), random.normal(size=(2, most, inputs))
    pointers = (ctypes.c_void_p * 2)(*(matrix.ctypes.data for matrix in matrices))

    def pointer(array):
        return array.ctypes.data_as(ctypes.c_void_p)

    for count in range(1, most + 1):
        for left in (count, count - 1):
            y = np.full((rows, most), np.nan)
            library.run(
                *(ctypes.c_long(count), pointer(x), pointer(y), ctypes.c_long(2), pointer(sources), pointers),
                *map(ctypes.c_long, (inputs, width, most, inputs, left)),
            )
            expected = sum(x[:, s : s + inputs] @ m.T for s, m in zip(sources, matrices, strict=True))
            np.testing.assert_allclose(y[:, :left], expected[:, :left], rtol=1e-13)
            # What lies beyond the last channel is another row's.
            assert np.isnan(y[:, left:]).all()


# --- Triton -----------------------------------------------------------------------------------------------------


class Numbers(np.ndarray):
    """What a program of Triton calculates with."""

    def to(self, dtype):
        return self.astype(dtype)

    def __iadd__(self, other):
        return self + other  # never in place: two names may stand for one array


class Pointer:
    """A place in an array, or many."""

    def __init__(self, values, offset=0):
        self.values, self.offset = values, offset

    def __add__(self, offset):
        return Pointer(self.values, self.offset + offset)


class Language:
    """As ``triton.language``, on arrays; a program is its number."""

    constexpr = None
    int32, int64, float32, float64 = np.int32, np.int64, np.float32, np.float64

    def __init__(self, program):
        self.program = program

    def program_id(self, axis):
        return np.asarray(self.program).view(Numbers)

    def arange(self, begin, end):
        return np.arange(begin, end)

    def zeros(self, shape, dtype):
        return np.zeros(shape, dtype).view(Numbers)

    def cast(self, value, dtype):
        return dtype(value)

    def minimum(self, a, b):
        return np.minimum(a, b)

    def sqrt(self, value):
        return np.sqrt(value)

    def load(self, pointer, mask=True, other=0):
        flat, place = pointer.values.reshape(-1), np.asarray(pointer.offset)
        kept = np.broadcast_to(mask, place.shape)
        return np.where(kept, flat[np.where(kept, place, 0)], other).view(Numbers)

    def store(self, pointer, values, mask=True):
        place = np.asarray(pointer.offset)
        kept = np.broadcast_to(mask, place.shape)
        pointer.values.reshape(-1)[place[kept]] = np.broadcast_to(values, place.shape)[kept]


def run(code, name, programs, *arguments, **constants):
    """Run a kernel of a generated text for every program, arrays in the place of pointers."""

    class Triton:
        @staticmethod
        def jit(function=None, **options):
            return function if function is not None else lambda inner: inner

    for program in range(programs):
        space = {"triton": Triton, "tl": Language(program)}
        exec(code, space)
        pointers = (Pointer(a) if isinstance(a, np.ndarray) else a for a in arguments)
        space[name](*pointers, **constants)


@pytest.mark.parametrize(("channels", "block"), [(4, 4), (5, 4)])
def test_contraction(channels, block):
    """Every coefficient times its monomial, and the gradient by autograd; channels that no block fills."""
    monomials = monomial_tuples(3, [[0, 1], [1]], [[1, 2], [2]])
    used = np.array([[1, 0, 0, 1, 0, 1], [0, 1, 1, 0, 1, 0]], dtype=bool)
    shape = polynomials(3, monomials, used)
    code = contraction_code(shape, channels, block, "float64")
    random = np.random.default_rng(0)
    nnode, nkind, nterm = 4, 2, len(shape.terms)
    x = random.normal(size=(nnode, 3, channels))
    coefficients, kind = random.normal(size=(nkind, nterm, channels)), np.array([1, 0, 0, 1])
    weight = random.normal(size=(nnode, 2, channels))
    message = torch.tensor(x, requires_grad=True)
    outputs = [torch.zeros(nnode, channels, dtype=torch.float64) for _ in range(2)]
    for number, (output, monomial) in enumerate(shape.terms):
        product = torch.tensor(coefficients[kind, number])
        for variable in monomials[monomial]:
            product = product * message[:, variable]
        outputs[output] = outputs[output] + product
    value = torch.stack(outputs, dim=1)
    (gradient,) = torch.autograd.grad((value * torch.tensor(weight)).sum(), message)
    found, slopes = np.zeros((nnode, 2, channels)), np.zeros((nnode, 3, channels))
    programs = nnode * -(-channels // block)
    run(code, "contract0", programs, x, coefficients, kind, found)
    run(code, "contract_backward0", programs, weight, x, coefficients, kind, slopes)
    np.testing.assert_allclose(found, value.detach(), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(slopes, gradient, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("max_ell", [1, 2, 3])
def test_harmonics_and_their_slopes(max_ell):
    """The statements, run as Python, give e3nn's spherical harmonics and their derivatives along a unit vector."""
    steps = [step.value.numpy() for step in spherical_harmonics_up_to(max_ell).steps]
    total = (max_ell + 1) ** 2
    assert number_of_harmonics(steps) == total
    direction = torch.tensor([0.48, -0.6, 0.64], dtype=torch.float64, requires_grad=True)
    values = o3.spherical_harmonics(range(max_ell + 1), direction, normalize=False, normalization="component")
    space = dict(zip(("y1", "y2", "y3"), (3.0**0.5 * direction.detach()).tolist(), strict=True))
    recursion = harmonics(steps)
    exec("\n".join(value_lines(recursion, total)), space)
    np.testing.assert_allclose([space[f"y{m}"] for m in range(1, total)], values[1:].detach(), atol=1e-14)
    lines, slopes = gradient_lines(recursion, total)
    exec("\n".join(lines), space)
    # Any polynomial with these values on the sphere will do: compare the part along it.
    unit = direction.detach().numpy()
    for m in range(total):
        (expected,) = torch.autograd.grad(values[m], direction, retain_graph=True, allow_unused=True)
        found = np.array([space.get(slope, slope) for slope in (slopes[m, axis] for axis in range(3))])
        difference = found - (np.zeros(3) if expected is None else expected.numpy())
        np.testing.assert_allclose(difference - difference @ unit * unit, 0.0, atol=1e-13)
    # Statements for the first ones only.
    assert value_lines(recursion, 4) == []
    assert row_width(steps) >= 12 + total - 1
    assert row_width(steps).bit_count() == 1


def test_edge_gradient():
    """f r̂ + (g − (g·r̂) r̂) / r of the sums of all parts, with the sign of vectors to the neighbour; nothing for edges behind the last."""
    random = np.random.default_rng(0)
    nedge, nnode, parts = 5, 3, 2
    vectors, order = random.normal(size=(nedge, 3)), np.array([3, 0, 4, 1, 2])
    begin, sums = np.array([0, 2, 2, 4]), random.normal(size=(parts, 4, nedge))
    out = np.zeros((nedge, 3))
    run(
        edge_gradient_code("float64"), "edge_gradient", 2, vectors, order, begin, sums, out, nedge, nnode,
        PARTS=parts, BLOCK=4,
    )  # fmt: skip
    expected = np.zeros((nedge, 3))
    for place in range(begin[-1]):
        edge = order[place]
        f, *g = sums[:, :, place].sum(axis=0)
        r = np.linalg.norm(vectors[edge])
        unit = -vectors[edge] / r
        expected[edge] = -(f * unit + (np.array(g) - unit @ g * unit) / r)
    np.testing.assert_allclose(out, expected, rtol=1e-13)
    assert not out[2].any()


def test_numbers_of_an_edge_are_in_one_row():
    """Programs differ in what they know of the model: the elements, the tables, and where they end."""
    code = geometry_code([], 4.0, 101, 0, "float32")
    assert f"r * {100 / 4.0!r}" in code
    assert "pair" not in code
    assert "pair * " not in geometry_code([], 4.0, 101, 3, "float64")
    compile(geometry_code([], 4.0, 101, 3, "float64"), "kernel", "exec")
