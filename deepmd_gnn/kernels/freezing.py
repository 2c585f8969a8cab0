"""Put generated kernels into the ``.pt2`` that is being frozen."""

import contextlib
import contextvars
import logging
from collections.abc import Iterator
from typing import Any

from deepmd_gnn.kernels import operators
from deepmd_gnn.kernels.compiler import linked, linked_into_models
from deepmd_gnn.kernels.generated import Kernels, not_covered, radial_tables

log = logging.getLogger("deepmd.deepmd_gnn")
_kernels: contextvars.ContextVar[Kernels | None] = contextvars.ContextVar("kernels", default=None)

# Declarations of the operators' C functions, see shim.hpp.
_T, _INPUTS = "AtenTensorHandle", ", AtenTensorHandle" * 7
DECLARATIONS = {
    operators.convolve: f"mace_convolve({_T}{', AtenTensorHandle' * 6}, int64_t, int64_t, double, {_T}*)",
    operators.convolve_backward: (
        f"mace_convolve_backward({_T}{_INPUTS}, int64_t, int64_t, double, {_T}*, {_T}*)"
    ),
    operators.contract: f"mace_contract({_T}, {_T}, {_T}, int64_t, int64_t, {_T}*)",
    operators.contract_backward: f"mace_contract_backward({_T}, {_T}, {_T}, {_T}, int64_t, {_T}*)",
}


@contextlib.contextmanager
def kernels_for(model: Any) -> Iterator[dict[str, Any] | None]:
    """Generate and compile the kernels of a model; exported graphs that are traced inside call them.

    Parameters
    ----------
    model : MaceModel
        The model to freeze, or a copy of it. If its architecture is not covered, the log says so and nothing changes.

    Yields
    ------
    dict[str, Any] or None
        Description for the file: the CPU's features and the errors of the tables.
    """
    tables = not_covered(model.energy_model) or radial_tables(model.energy_model)
    if isinstance(tables, str):
        log.warning("mace model: no generated kernels: %s. The .pt2 will be several times slower.", tables)
        yield None
        return
    kernels = Kernels(model.energy_model, tables)
    for layer, (error, slope, nodes) in enumerate(kernels.errors, start=1):
        log.info(
            "mace model: layer %d, radial weights tabulated at %d distances, largest relative error %.1e, of their "
            "derivative %.1e",
            layer,
            nodes,
            error,
            slope,
        )
    shims = {op._opoverload: [f"AOTITorchError aoti_torch_cpu_{text}"] for op, text in DECLARATIONS.items()}
    token = _kernels.set(kernels)
    try:
        # The host runs the traced graph once, to check it: in Python.
        with (
            operators.use(kernels.library),
            linked_into_models(linked(kernels.library.archive()), shims),
        ):
            yield kernels.description()
    finally:
        _kernels.reset(token)


def calls_kernels() -> bool:
    """Whether the network that is traced calls generated kernels."""
    return _kernels.get() is not None


def installed(energy_model: Any) -> contextlib.AbstractContextManager[None]:
    """Let a network call the kernels of the freeze that is under way, if it has any."""
    kernels = _kernels.get()
    return contextlib.nullcontext() if kernels is None else kernels.installed(energy_model)
