"""The operator for products of matrices in Python; the compiled one is in tests/kernels/test_product.py."""

import pytest
import torch

from deepmd_gnn.nn.products import product


@pytest.mark.parametrize(("nrow", "transposed"), [(0, False), (1, False), (7, True)])
def test_multiplies_as_torch_does(nrow, transposed):
    left, right = torch.randn(nrow, 5, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    if transposed:
        left, right = left.t().contiguous().t(), right.t().contiguous().t()
    found = product(left, right)
    assert found.is_contiguous()
    torch.testing.assert_close(found, left @ right, rtol=0, atol=1e-13)
    torch.library.opcheck(product, (left, right), test_utils=("test_schema", "test_faketensor"))
