"""Make the Triton kernels of a network, or say why there are none."""

import logging
from typing import Any

import torch

from deepmd_gnn.kernels.cpu.generated import not_covered
from deepmd_gnn.kernels.triton.modules import TritonKernels
from deepmd_gnn.kernels.triton.splines import spline_tables
from deepmd_gnn.kernels.triton.support import OLDEST

log = logging.getLogger("deepmd.deepmd_gnn")


def triton_kernels(energy_model: Any) -> TritonKernels | str:
    """Tabulate the radial weights of a network and write its kernels.

    Parameters
    ----------
    energy_model : MaceEnergy
        The network.

    Returns
    -------
    TritonKernels or str
        The kernels, or why there are none.
    """
    reason = not_covered(energy_model) or _unsuited_device()
    if reason is not None:
        return reason
    tables = spline_tables(energy_model)
    for layer, table in enumerate(tables, start=1):
        if not table.fine(energy_model.dtype):
            return (
                f"with {table.nodes} distances the radial weights of layer {layer} still have a relative error of "
                f"{table.error:.1e}, their derivatives of {table.derivative_error:.1e}"
            )
        log.info(
            "mace model: layer %d, radial weights tabulated at %d distances, largest relative error %.1e, of their "
            "derivative %.1e",
            layer,
            table.nodes,
            table.error,
            table.derivative_error,
        )
    return TritonKernels(energy_model, tables)


def _unsuited_device() -> str | None:
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < OLDEST:
        return "the GPU is older than compute capability {}.{}".format(*OLDEST)
    return None
