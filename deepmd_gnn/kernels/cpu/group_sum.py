"""Sums of what edges bring to atoms, and atoms to frames, in a ``.pt2`` for CPUs, see ``group_sum.hpp``.

Without atomic additions TorchInductor sums over padded lists: some thirty nodes of the graph to make each of them, and as many
reads as the row with most members has for every row.
"""

import contextlib
from collections.abc import Iterator

from deepmd_gnn.graph.compilation import compiling
from deepmd_gnn.graph.edge_operators import sum_groups
from deepmd_gnn.kernels.cpu.compiler import linked, linked_into_models, operator_archive


@contextlib.contextmanager
def sum_operator() -> Iterator[None]:
    """Link the operator into the ``.pt2`` that is frozen inside, whose graph then sums with it."""
    declaration = "AOTITorchError aoti_torch_cpu_sum_groups(AtenTensorHandle, AtenTensorHandle, int64_t, AtenTensorHandle*)"
    shims = {sum_groups._opoverload: [declaration]}
    with compiling(sum_operator=True), linked_into_models(linked(operator_archive("group_sum")), shims):
        yield
