"""The operator for products of matrices in a ``.pt2``: any number of rows, any strides, as torch multiplies."""

import pytest
import torch
import torch._inductor

from deepmd_gnn.graph.compilation import compilation
from deepmd_gnn.kernels.cpu.product import product_operator
from deepmd_gnn.nn.linear import _in_two
from deepmd_gnn.nn.products import product


class Products(torch.nn.Module):
    def forward(self, rows, columns):
        """A plain product, and one of transposed matrices, as its derivative has."""
        return product(rows, columns), product(columns.t(), rows.t())


def inputs(nrow):
    generator = torch.Generator().manual_seed(nrow)
    return tuple(
        torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((nrow, 5), (5, 3))
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiled_products(tmp_path):
    sizes = ({0: torch.export.Dim("rows", min=0)}, None)
    exported = torch.export.export(Products(), inputs(6), dynamic_shapes=sizes)
    with product_operator():
        torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "p.pt2"))
    compiled = torch._inductor.aoti_load_package(str(tmp_path / "p.pt2"))
    for nrow in (0, 1, 2, 3, 8, 101):
        for ours, expected in zip(compiled(*inputs(nrow)), Products()(*inputs(nrow)), strict=True):
            torch.testing.assert_close(ours, expected, rtol=0, atol=1e-13)


def test_graphs_of_a_freeze_have_the_operator():
    with torch._subclasses.FakeTensorMode():
        rows, columns = torch.empty(4, 5, dtype=torch.float64), torch.empty(5, 3, dtype=torch.float64)
        for found in (_in_two(rows, columns), _multiplied_in_a_freeze(rows, columns)):
            assert (found.shape, found.dtype) == ((4, 3), torch.float64)
    assert not compilation().product_operator


def _multiplied_in_a_freeze(rows, columns):
    calls = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(func)
            return func(*args, **(kwargs or {}))

    with product_operator(), Watched():
        found = _in_two(rows, columns)
    assert calls == [product._opoverload]
    return found
