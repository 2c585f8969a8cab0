"""The check of its input that a ``.pt2`` for CPUs contains, see ``input_check.hpp``."""

import contextlib
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import torch

from deepmd_gnn.graph.builders import graph_of_edges
from deepmd_gnn.graph.compilation import compilation, compiling
from deepmd_gnn.kernels.cpu.compiler import TORCH_HEADERS, Compiled, linked, linked_into_models

NAME = "deepmd_gnn_input_check"


@torch.library.custom_op("deepmd_gnn::mace_checked_input", mutates_args=())
def checked_input(
    types: torch.Tensor,
    owned: torch.Tensor,
    index: torch.Tensor,
    vectors: torch.Tensor,
    mask: torch.Tensor,
    names: torch.Tensor,
    allowed: torch.Tensor,
    has_energy: torch.Tensor,
    limits: torch.Tensor,
    ranks: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Make a graph of types and edges that can be used as indices; in a ``.pt2`` others end the evaluation with a sentence.

    Parameters
    ----------
    types : torch.Tensor
        Types of all atoms, −1 for virtual ones, int64, shape (N,).
    owned : torch.Tensor
        Owned atoms per frame, int64, shape (nf,); read if there are several ranks.
    index : torch.Tensor
        Neighbour and centre of each edge, int64, shape (2, E).
    vectors : torch.Tensor
        Neighbour minus centre, Å, float64, shape (E, 3).
    mask : torch.Tensor
        False for edges that do not count, shape (E,).
    names : torch.Tensor
        The model's elements as a message shows them, UTF-8, uint8, shape (·,).
    allowed : torch.Tensor
        Which types see each other, bool, shape (ntypes, ntypes).
    has_energy : torch.Tensor
        Which types have energy when alone, bool, shape (ntypes,).
    limits : torch.Tensor
        Cutoff and :func:`~deepmd_gnn.graph.builders.guard_distance`, Å, float64, shape (2,); data, so that models with another cutoff have
        the same program.
    ranks : int
        1, or 2 for any larger number.

    Returns
    -------
    types, index, vectors : torch.Tensor
        `sender_types` (N + 1,), `edge_index` (2, E + 1) and `edge_vec` (E + 1, 3) of :func:`~deepmd_gnn.graph.builders.graph_of_edges`.
    """
    # In Python this runs for the host's one look at a traced graph; there deepmd_gnn.host.inference_graphs checks.
    nowned = int(owned[0]) if ranks > 1 else types.shape[0]
    graph = graph_of_edges(types.clamp(min=0), nowned, index, vectors, mask, float(limits[0]), allowed)
    return graph.sender_types, graph.edge_index, graph.edge_vec


@checked_input.register_fake
def _(
    types: Any,
    owned: Any,
    index: Any,
    vectors: Any,
    mask: Any,
    names: Any,
    allowed: Any,
    has_energy: Any,
    limits: Any,
    ranks: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    edges = index.shape[1] + 1
    return types.new_empty([types.shape[0] + 1]), index.new_empty([2, edges]), vectors.new_empty([edges, 3])


@torch.library.custom_op("deepmd_gnn::mace_checked_values", mutates_args=())
def checked_values(values: torch.Tensor, rules: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Let quantities of frames pass that the model knows; in a ``.pt2`` others end the evaluation with a sentence.

    Parameters
    ----------
    values : torch.Tensor
        One row for each frame, contiguous, float64, shape (nf, nquantity).
    rules : torch.Tensor
        Of each quantity: 1 if it must be a whole number, the least and the greatest of these, the default (NaN: none),
        float64, shape (nquantity, 4).
    text : torch.Tensor
        Of each quantity its name and what it must be, each with a zero byte behind, UTF-8, uint8, shape (·,).

    Returns
    -------
    torch.Tensor
        A copy.
    """
    return values.clone()


@checked_values.register_fake
def _(values: Any, rules: Any, text: Any) -> torch.Tensor:
    return torch.empty_like(values)


def checks_input() -> bool:
    """Whether the ``.pt2`` that is being frozen contains the check."""
    return compilation().checks_input


def compiled_check() -> Compiled:
    """Sources of the check, for this machine's compiler."""
    text = files("deepmd_gnn.kernels.cpu")
    cover, check, values, handles, shim = (
        text.joinpath(f"{name}.hpp").read_text(encoding="utf-8")
        for name in ("list_cover", "input_check", "value_check", "tensor_handles", "input_check_shim")
    )
    return Compiled({"input_check": cover + check + values, "input_check_shim": handles + shim}, ())


@contextlib.contextmanager
def input_check() -> Iterator[None]:
    """Link the check into every ``.pt2`` that is frozen inside; it reads the CPU's memory."""
    compiled = compiled_check()
    objects = [compiled.object("input_check"), compiled.object("input_check_shim", TORCH_HEADERS)]
    tensors = ", ".join(["AtenTensorHandle"] * 9)
    declaration = (
        f"AOTITorchError aoti_torch_cpu_mace_checked_input({tensors}, int64_t, "
        "AtenTensorHandle*, AtenTensorHandle*, AtenTensorHandle*)"
    )
    of_values = (
        "AOTITorchError aoti_torch_cpu_mace_checked_values(AtenTensorHandle, AtenTensorHandle, "
        "AtenTensorHandle, AtenTensorHandle*)"
    )
    library = linked(compiled.archive(NAME, objects))
    with (
        compiling(checks_input=True),
        linked_into_models(
            library, {checked_input._opoverload: [declaration], checked_values._opoverload: [of_values]}
        ),
    ):
        yield
