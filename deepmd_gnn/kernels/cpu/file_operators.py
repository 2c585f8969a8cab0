"""Operators that every ``.pt2`` for CPUs has as C functions of its own: products of matrices, sums over groups, forces, repulsion.

Products of float64 matrices (``product.hpp``): LAMMPS' library exports a slow reference ``dgemm_`` that torch's plain products are bound
to; batches of two go to the library that torch brings. To arrange such batches in the graph takes ten nodes for each product.

Sums of what edges bring to atoms, and atoms to frames (``group_sum.hpp``): without atomic additions TorchInductor sums over padded lists,
some thirty nodes of the graph for each of them, and as many reads as the row with most members has for every row.

Forces and virials (``edge_forces.hpp``): one loop in place of three sums and a product for each edge.

Repulsion of close atoms (``repulsion.hpp``): of some tens of edges of an atom it is for two or three.
"""

import contextlib
from collections.abc import Iterator

from deepmd_gnn.graph.compilation import compiling
from deepmd_gnn.graph.edge_operators import sum_groups
from deepmd_gnn.kernels.cpu.compiler import linked, linked_into_models, operator_archive
from deepmd_gnn.kernels.cpu.edge_forces import edge_forces
from deepmd_gnn.kernels.cpu.repulsion import pair_repulsion, pair_repulsion_backward
from deepmd_gnn.nn.products import product

_T = "AtenTensorHandle"
_DECLARATIONS = {
    product: f"mace_product({_T}, {_T}, {_T}*)",
    sum_groups: f"sum_groups({_T}, {_T}, int64_t, {_T}*)",
    edge_forces: f"edge_forces({_T}, {_T}, {_T}, int64_t, {_T}*, {_T}*)",
    pair_repulsion: f"pair_repulsion({_T}, {_T}, {_T}, {_T}, {_T}, int64_t, {_T}*)",
    pair_repulsion_backward: f"pair_repulsion_backward({_T}, {_T}, {_T}, {_T}, {_T}, {_T}, {_T}*)",
}


@contextlib.contextmanager
def file_operators() -> Iterator[None]:
    """Link the operators into the ``.pt2`` that is frozen inside, whose graph then has them."""
    shims = {op._opoverload: [f"AOTITorchError aoti_torch_cpu_{text}"] for op, text in _DECLARATIONS.items()}
    # One source: most of the time goes into torch's header.
    archive = operator_archive("product", "group_sum", "edge_forces", "repulsion")
    with compiling(file_operators=True), linked_into_models(linked(archive), shims):
        yield
