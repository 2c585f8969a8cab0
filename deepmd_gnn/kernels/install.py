"""Put generated kernels, or radial tables alone, into the ``.pt2`` that is being frozen."""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deepmd_gnn.graph.compilation import compilation, compiling
from deepmd_gnn.kernels import operators
from deepmd_gnn.kernels.cpu import mixing
from deepmd_gnn.kernels.cpu.compiler import linked, linked_into_models
from deepmd_gnn.kernels.cpu.generated import Kernels, not_covered, radial_tables
from deepmd_gnn.kernels.tables.lookup import Tables
from deepmd_gnn.kernels.tables.probe import difference
from deepmd_gnn.kernels.tables.radial import RadialTable
from deepmd_gnn.nn.energy import MaceEnergy
from deepmd_gnn.nn.nequip import NequipEnergy

if TYPE_CHECKING:
    from deepmd_gnn.kernels.triton.modules import TritonKernels

log = logging.getLogger("deepmd.deepmd_gnn")

# Declarations of the operators' C functions, see shim.hpp.
_T = "AtenTensorHandle"


def _tensors(number: int) -> str:
    return ", ".join([_T] * number)


DECLARATIONS = {
    operators.convolve: f"mace_convolve({_tensors(12)}, int64_t, int64_t, int64_t, int64_t, {_T}*)",
    operators.convolve_backward: (
        f"mace_convolve_backward({_tensors(11)}, int64_t, int64_t, int64_t, {_T}*, {_T}*)"
    ),
    operators.contract: f"mace_contract({_tensors(3)}, int64_t, int64_t, {_T}*)",
    operators.contract_backward: f"mace_contract_backward({_tensors(4)}, int64_t, {_T}*)",
    mixing.mix: f"mace_mix({_tensors(6)}, int64_t, int64_t, {_T}*)",
}


def described(
    model: Any, *, kernels: bool, device: str = "cpu"
) -> contextlib.AbstractContextManager[dict[str, Any] | None]:
    """Tabulate the radial weights of a model, and generate its kernels; graphs that are traced inside use them.

    Parameters
    ----------
    model : MaceModel
        The model to freeze, or a copy of it. If its architecture is not covered, the log says so and nothing changes.
    kernels : bool
        Whether with kernels, else with the tables only.
    device : str
        Type of the device that the file is compiled for.

    Returns
    -------
    context manager of dict[str, Any] or None
        Description for the file: the errors of the tables, and with kernels the CPU's features.
    """
    name = model.type_name
    if not isinstance(model.energy_model, (MaceEnergy, NequipEnergy)):
        log.info(
            "%s model: no generated kernels and tables: they are for MACE and NequIP, not for %s.",
            name,
            type(model.energy_model).__name__,
        )
        return contextlib.nullcontext()
    if kernels and device == "cuda" and isinstance(model.energy_model, NequipEnergy):
        log.warning("%s model: no generated kernels for GPUs, only radial tables.", name)
        kernels = False
    if kernels and device == "cuda":
        from deepmd_gnn.kernels.triton.build import triton_kernels  # not every build of torch brings Triton

        found = triton_kernels(model.energy_model)
        if not isinstance(found, str):
            return _with_gpu_kernels(found)
        log.warning("%s model: no generated kernels: %s. The .pt2 will be several times slower.", name, found)
        kernels = False
    tables = not_covered(model.energy_model) or radial_tables(model.energy_model)
    if not isinstance(tables, str):
        tables = _checked(model, tables)
    if isinstance(tables, str):
        without = "generated kernels" if kernels else "radial tables"
        log.warning("%s model: no %s: %s. The .pt2 will be several times slower.", name, without, tables)
        return contextlib.nullcontext()
    for layer, table in enumerate(tables, start=1):
        log.info(
            "%s model: layer %d, radial weights tabulated at %d distances, largest relative error %.1e, of their "
            "derivative %.1e",
            name,
            layer,
            table.values.shape[1],
            table.error,
            table.derivative_error,
        )
    return _with_kernels(Kernels(model.energy_model, tables)) if kernels else _in_use(Tables(tables))


def _checked(model: Any, tables: list[RadialTable]) -> list[RadialTable] | str:
    """The tables, or why they must not be used."""
    found = difference(model.eval(), Tables(tables))
    log.info(
        "%s model: with tables energies of probe atoms differ by up to %.1e eV, forces by %.1e eV/Å (the largest "
        "force or energy is %.2g)",
        model.type_name,
        *found,
    )
    if found.acceptable(model.energy_model.dtype):
        return tables
    return (
        f"with radial tables energies would be off by {found.energy:.1e} eV, forces by {found.force:.1e} eV/Å"
    )


@contextlib.contextmanager
def _in_use(replacement: "Kernels | TritonKernels | Tables") -> Iterator[dict[str, Any]]:
    with compiling(replacement=replacement):
        yield replacement.description()


@contextlib.contextmanager
def _with_kernels(kernels: Kernels) -> Iterator[dict[str, Any]]:
    shims = {op._opoverload: [f"AOTITorchError aoti_torch_cpu_{text}"] for op, text in DECLARATIONS.items()}
    # The host runs the traced graph once, to check it: in Python.
    with (
        operators.use(kernels.library),
        linked_into_models(linked(kernels.library.archive()), shims),
        _in_use(kernels) as description,
    ):
        yield description


@contextlib.contextmanager
def _with_gpu_kernels(kernels: "TritonKernels") -> Iterator[dict[str, Any]]:
    from deepmd_gnn.kernels.triton import linking

    capability = linking.capability()
    library = linking.library(kernels, capability)
    with linked_into_models(library, linking.shims()), _in_use(kernels) as description:
        yield {**description, "capability": capability}


def calls_kernels() -> bool:
    """Whether the network that is traced calls generated kernels."""
    replacement = compilation().replacement
    return replacement is not None and replacement.reads_lists


def installed(energy_model: Any) -> contextlib.AbstractContextManager[None]:
    """Let a network use the kernels or tables of the freeze that is under way, if it has any."""
    replacement = compilation().replacement
    return contextlib.nullcontext() if replacement is None else replacement.installed(energy_model)
