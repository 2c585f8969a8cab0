"""Programs for the exportable backend: what is traced, with which kernels, under which names."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from deepmd_gnn.files.progress import enter_stage
from deepmd_gnn.kernels.cpu.memory import results
from deepmd_gnn.kernels.install import installed
from deepmd_gnn.nn.network import EnergyNetwork

# Inputs of the host's edge-list lower before the communication tensors.
_INPUTS = 13
_COMM = ("send_list", "send_proc", "recv_proc", "send_num", "recv_num", "communicator", "nlocal", "nghost")


class EdgeLower(Protocol):
    """Evaluates the host's edge list under its internal names."""

    def __call__(
        self,
        *inputs: torch.Tensor,
        fparam: torch.Tensor | None,
        do_atomic_virial: bool,
        comm_dict: dict[str, torch.Tensor] | None,
    ) -> dict[str, torch.Tensor]:
        """Evaluate the first ten inputs of the host's order, and its eleventh by name, see :func:`~deepmd_gnn.host.edge_lower.evaluate_edges`."""


def traced_edge_lower(
    lower: EdgeLower,
    network: EnergyNetwork,
    samples: tuple[torch.Tensor | None, ...],
    do_atomic_virial: bool,
    options: dict[str, Any],
) -> torch.nn.Module:
    """Trace the evaluation of an edge list, with the kernels of the freeze that is under way.

    Parameters
    ----------
    lower : EdgeLower
        What is traced.
    network : EnergyNetwork
        Its network, in which the kernels replace modules meanwhile.
    samples : tuple
        Sample inputs in the host's order: thirteen, and for several ranks eight communication tensors. The shapes are
        those of :func:`~deepmd_gnn.host.edge_lower.evaluate_edges`, of any number of atoms and edges.
    do_atomic_virial : bool
        Whether the program returns the virial of each atom.
    options : dict[str, Any]
        For ``make_fx``.

    Returns
    -------
    torch.nn.Module
        Takes the same inputs, returns the host's public names.
    """
    from deepmd.pt_expt.model.make_model import _translate_energy_keys

    def program(*inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        comm = dict(zip(_COMM, inputs[_INPUTS:], strict=True)) if len(inputs) > _INPUTS else None
        inner = lower(*inputs[:10], fparam=inputs[10], do_atomic_virial=do_atomic_virial, comm_dict=comm)
        named = _translate_energy_keys(
            inner, do_grad_r=True, do_grad_c=True, do_atomic_virial=do_atomic_virial, local=True
        )
        return results(named)

    ranks = "several ranks" if len(samples) > _INPUTS else "one rank"
    enter_stage(f"tracing for {ranks}")
    with installed(network):
        traced = traced_program(program, samples, options)
    enter_stage(f"exporting and compiling for {ranks}")
    return traced


def traced_program(
    program: Callable[..., dict[str, torch.Tensor]],
    samples: tuple[torch.Tensor | None, ...],
    options: dict[str, Any],
) -> torch.nn.Module:
    """Trace a function of tensors with the host's options for sizes.

    Parameters
    ----------
    program : Callable
        The function.
    samples : tuple
        Its arguments, of any shape.
    options : dict[str, Any]
        For ``make_fx``.

    Returns
    -------
    torch.nn.Module
        Takes the same arguments.
    """
    traced = make_fx(program, **options)(*samples)
    # What kernels replace is traced all the same; the host, torch.export and TorchInductor would each go through it once more.
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced
