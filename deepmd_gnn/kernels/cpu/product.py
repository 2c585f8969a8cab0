"""Products of float64 matrices in a ``.pt2`` for CPUs, see ``product.hpp``.

LAMMPS' library exports a slow reference ``dgemm_`` that torch's plain products are bound to; batches of two go to the library that
torch brings. To arrange such batches in the graph takes ten nodes for each product, half of all nodes of a network without
generated kernels, and with them half of the time of a freeze.
"""

import contextlib
from collections.abc import Iterator

from deepmd_gnn.graph.compilation import compiling
from deepmd_gnn.kernels.cpu.compiler import linked, linked_into_models, operator_archive
from deepmd_gnn.nn.products import product


@contextlib.contextmanager
def product_operator() -> Iterator[None]:
    """Link the operator into the ``.pt2`` that is frozen inside, whose graph then has a node for each product."""
    declaration = (
        "AOTITorchError aoti_torch_cpu_mace_product(AtenTensorHandle, AtenTensorHandle, AtenTensorHandle*)"
    )
    shims = {product._opoverload: [declaration]}
    with compiling(product_operator=True), linked_into_models(linked(operator_archive("product")), shims):
        yield
