"""Operators of a ``.pt2`` for products of matrices and sums over groups: any number of rows, any strides, as torch computes them."""

import itertools

import pytest
import torch
import torch._inductor
from mace.modules.radial import ZBLBasis

from deepmd_gnn.graph.atom_graph import AtomGraph
from deepmd_gnn.graph.compilation import compilation
from deepmd_gnn.graph.edge_operators import sum_groups
from deepmd_gnn.kernels.cpu.edge_forces import OperatorDistribution, edge_forces
from deepmd_gnn.kernels.cpu.file_operators import file_operators
from deepmd_gnn.kernels.cpu.repulsion import OperatorRepulsion, pair_repulsion, pair_repulsion_backward
from deepmd_gnn.nn.linear import _in_two
from deepmd_gnn.nn.products import product
from deepmd_gnn.nn.repulsion import Repulsion

ROUNDING = {torch.float64: 1e-13, torch.float32: 1e-5}


class Operators(torch.nn.Module):
    def forward(self, rows, columns, groups, number):
        """A plain product, and one of transposed matrices, as its derivative has; sums of rows and of columns."""
        turned = torch.cat([rows.t(), rows.t()], dim=1)[:, : rows.shape[0]].t()
        sums = sum_groups(rows, groups, number.shape[0]), sum_groups(turned.float(), groups, number.shape[0])
        return product(rows, columns), product(columns.t(), rows.t()), *sums


def inputs(nrow):
    """Matrices, and groups of the rows' numbers: the first empty, one that has a row twice, the last row in none."""
    generator = torch.Generator().manual_seed(nrow)
    matrices = [
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((nrow, 5), (5, 3))
    ]
    members = torch.randperm(nrow, generator=generator)
    members = torch.cat([members[:1], members])[:nrow]
    begin = torch.tensor([0, 0, nrow // 2, max(nrow - 1, 0)])
    return *matrices, torch.cat([begin, members]), torch.zeros(3)


def groups_of(values, groups):
    """The sums one by one."""
    begin, members = groups[:4].tolist(), groups[4:]
    return torch.stack([values[members[i:k]].sum(dim=0) for i, k in itertools.pairwise(begin)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_operators(tmp_path):
    rows = torch.export.Dim("rows", min=0)
    sizes = ({0: rows}, None, {0: torch.export.Dim("members", min=0)}, {0: torch.export.Dim("groups", min=1)})
    exported = torch.export.export(Operators(), inputs(6), dynamic_shapes=sizes)
    with file_operators():
        torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "p.pt2"))
    compiled = torch._inductor.aoti_load_package(str(tmp_path / "p.pt2"))
    for nrow in (0, 1, 2, 3, 8, 101):
        left, right, groups, _ = inputs(nrow)
        sums = groups_of(left, groups), groups_of(left.float(), groups)
        results = left @ right, right.t() @ left.t(), *sums
        for found in (compiled(*inputs(nrow)), Operators()(*inputs(nrow))):
            for ours, expected in zip(found, results, strict=True):
                torch.testing.assert_close(ours, expected, rtol=0, atol=ROUNDING[expected.dtype])


class Forces(torch.nn.Module):
    def forward(self, gradient, vectors, rows, atoms):
        return edge_forces(gradient, vectors, rows, atoms.shape[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_forces(tmp_path):
    """Any number of edges, rows of the guard, atoms without edges; against the sums of the torch code."""
    edges = torch.export.Dim("edges", min=0)
    sizes = ({0: edges}, {0: edges}, {1: edges}, {0: torch.export.Dim("atoms", min=0)})
    exported = torch.export.export(Forces(), edges_of(5, 4), dynamic_shapes=sizes)
    with file_operators():
        torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "f.pt2"))
    compiled = torch._inductor.aoti_load_package(str(tmp_path / "f.pt2"))
    for nedge, natom in ((0, 0), (0, 3), (1, 1), (50, 7)):
        gradient, vectors, rows, atoms = edges_of(nedge, natom)
        graph = AtomGraph(rows, rows, rows, vectors, rows)
        expected = OperatorDistribution()(gradient.requires_grad_(True), graph, natom)
        gradient = gradient.detach()
        for found in (compiled(gradient, vectors, rows, atoms), Forces()(gradient, vectors, rows, atoms)):
            for ours, reference in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, reference.detach(), rtol=0, atol=ROUNDING[torch.float64])


class Close(torch.nn.Module):
    """The repulsion and its derivative, of given energies' weights."""

    def __init__(self):
        super().__init__()
        self.repulsion = OperatorRepulsion(Repulsion(ZBLBasis(p=6)), torch.tensor([1, 8, 29]))

    def forward(self, weights, vectors, index, kind):
        fixed = (vectors, index, kind, self.repulsion.pairs, self.repulsion.shape)
        return pair_repulsion(*fixed, weights.shape[0]), pair_repulsion_backward(weights, *fixed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_repulsion(tmp_path):
    """Near and far, before and behind the end of each pair's repulsion, a vector that is not a number; against the torch code and autograd."""
    edges, nodes = torch.export.Dim("edges", min=0), torch.export.Dim("nodes", min=1)
    sizes = ({0: nodes}, {0: edges}, {1: edges}, {0: torch.export.Dim("senders", min=1)})
    exported = torch.export.export(Close(), close_atoms(9), dynamic_shapes=sizes)
    with file_operators():
        torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "r.pt2"))
    compiled = torch._inductor.aoti_load_package(str(tmp_path / "r.pt2"))
    for nedge in (0, 1, 40):
        weights, vectors, index, kind = close_atoms(nedge)
        graph = AtomGraph(weights, kind, index, vectors.requires_grad_(True), index)
        lengths = torch.linalg.norm(vectors, dim=1, keepdim=True)
        numbers = torch.tensor([1, 8, 29])[kind].unsqueeze(1)
        energy = Repulsion(ZBLBasis(p=6))(lengths, numbers, graph).squeeze(1)
        (gradient,) = torch.autograd.grad(energy @ weights, vectors)
        assert nedge < 40 or 0.2 < float((gradient == 0).double().mean()) < 0.8
        for found in (
            compiled(weights, vectors.detach(), index, kind),
            Close()(weights, vectors.detach(), index, kind),
        ):
            for ours, expected in zip(found, (energy, gradient), strict=True):
                torch.testing.assert_close(ours, expected.detach(), rtol=1e-11, atol=1e-11)
    weights, vectors, index, kind = close_atoms(9)
    vectors[3, 1] = torch.nan
    for found in (compiled(weights, vectors, index, kind), Close()(weights, vectors, index, kind)):
        assert found[0].isnan().sum() == 1
        assert found[1].isnan().any(dim=1).nonzero().tolist() == [[3]]


def close_atoms(nedge):
    """Weights of nodes, vectors from 0.3 to 4 Å, ends and types; more senders than nodes."""
    generator = torch.Generator().manual_seed(nedge)
    directions = torch.nn.functional.normalize(
        torch.randn(nedge, 3, generator=generator, dtype=torch.float64), dim=1
    )
    lengths = 0.3 + 3.7 * torch.rand(nedge, 1, generator=generator, dtype=torch.float64) ** 2
    index = torch.stack([torch.randint(0, n, (nedge,), generator=generator) for n in (7, 5)])
    weights = torch.randn(5, generator=generator, dtype=torch.float64)
    return weights, directions * lengths, index, torch.tensor([0, 1, 2, 2, 1, 0, 1])


def edges_of(nedge, natom):
    """Gradients and vectors of edges between any rows, the guard's included."""
    generator = torch.Generator().manual_seed(nedge)
    numbers = torch.randn(2, nedge, 3, generator=generator, dtype=torch.float64)
    return *numbers, torch.randint(0, natom + 1, (2, nedge), generator=generator), torch.zeros(natom)


def test_graphs_of_a_freeze_have_the_operator():
    with torch._subclasses.FakeTensorMode():
        rows, columns = torch.empty(4, 5, dtype=torch.float64), torch.empty(5, 3, dtype=torch.float64)
        for found in (_in_two(rows, columns), _multiplied_in_a_freeze(rows, columns)):
            assert (found.shape, found.dtype) == ((4, 3), torch.float64)
    assert not compilation().file_operators


def _multiplied_in_a_freeze(rows, columns):
    calls = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    with file_operators(), Watched():
        found = _in_two(rows, columns)
    assert calls == [product._opoverload]
    return found
