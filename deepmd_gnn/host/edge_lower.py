"""DeePMD-kit's edge list: evaluated by exported files and by the exportable backend's trainer."""

import torch
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from deepmd_gnn.config.charges import refuse_export
from deepmd_gnn.graph.arrangement import for_compiled_training, for_training_kernels, in_chunks
from deepmd_gnn.graph.atom_graph import AtomGraph, is_exported, with_values
from deepmd_gnn.graph.builders import graph_of_edges, guard_distance, with_lists
from deepmd_gnn.graph.edge_sums import edge_groups, rows_between, sum_over_edges
from deepmd_gnn.graph.padding import in_slots
from deepmd_gnn.host.evaluation import Evaluation
from deepmd_gnn.host.results import internal_results
from deepmd_gnn.kernels.cpu.input_check import checked_input, checks_input
from deepmd_gnn.kernels.install import calls_kernels

Lists = tuple[torch.Tensor, ...]


def evaluate_edges(
    model: Evaluation,
    atype: torch.Tensor,
    n_node: torch.Tensor,
    n_local: torch.Tensor,
    edges: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    lists: Lists | None,
    do_atomic_virial: bool,
    comm_dict: dict[str, torch.Tensor] | None,
    has_energy: list[bool] | None = None,
    fparam: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Evaluate the host's edge list; DeePMD-kit's internal names on one flat axis of atoms.

    Parameters
    ----------
    model : Evaluation
        The model.
    atype : torch.Tensor
        Types of the atoms of all frames, on a rank the owned ones first, shape (N,).
    n_node, n_local : torch.Tensor
        Atoms and owned atoms per frame, shape (nf,).
    edges : tuple of torch.Tensor
        Neighbour and centre, shape (2, E); neighbour minus centre, Å, shape (E, 3); False for the host's guard edges, (E,).
    lists : tuple of torch.Tensor, optional
        Edges grouped by centre and where each centre's begin, and the same by neighbour.
    do_atomic_virial : bool
        Also return the virial of each atom.
    comm_dict : dict[str, torch.Tensor], optional
        Communication tensors of a rank.
    has_energy : list[bool], optional
        Which types have energy when alone; needed where the program that is being made checks its input.
    fparam : torch.Tensor, optional
        Quantities of the frames, shape (nf, nquantity), if the energy depends on any; one that there is not gives NaN.

    Returns
    -------
    dict[str, torch.Tensor]
        ``energy`` (N, 1), ``energy_redu`` (nf, 1), ``energy_derv_r`` (N, 1, 3), ``energy_derv_c_redu``
        (nf, 1, 9) and with `do_atomic_virial` ``energy_derv_c`` (N, 1, 9).
    """
    refuse_export(model.coulomb_cutoff > 0.0)
    total = atype.shape[0]
    # On a rank the ghosts follow the owned atoms; only these are nodes, and only their number is data.
    nowned = total
    if comm_dict is not None:
        nowned = n_local[0].item()  # type: ignore[assignment]
        torch._check(nowned >= 0)
        torch._check(nowned <= total)
    graph = _graph(model, atype, nowned, n_local, edges, comm_dict is not None, has_energy)
    graph = _arranged(graph, nowned, lists, model)
    if model.frame_values.number > 0:
        values = model.frame_values.of_edges(fparam, n_node.shape[0], atype.device)
        graph = with_values(graph, values, _frames_of_atoms(total, n_node))
    energy, force, atom_virial = model.evaluate(
        graph, rows_between(atype, 0, nowned).unsqueeze(0), nowned, total, comm_dict
    )
    atom_energy = energy[0]
    if comm_dict is not None:
        atom_energy = torch.cat([atom_energy, energy.new_zeros(total - nowned, 1)])
    if not model.training and not checks_input():
        unknown = (atype < -1) | (atype >= len(model.type_map))
        atom_energy = torch.where(unknown.unsqueeze(1), torch.nan, atom_energy)
    totals = _frame_sums([atom_energy, atom_virial[0]], n_node, graph)
    result = internal_results(atom_energy, force[0], atom_virial[0], *totals)
    if not do_atomic_virial:
        del result["energy_derv_c"]
    return result


def _graph(
    model: Evaluation,
    atype: torch.Tensor,
    nowned: int,
    n_local: torch.Tensor,
    edges: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    exchanged: bool,
    has_energy: list[bool] | None,
) -> AtomGraph:
    """Make the graph, of types and edges that can be used as indices."""
    index, vectors, mask = edges
    ntypes = len(model.type_map)
    if not checks_input() or has_energy is None:
        # The operator runs on CPUs. Elsewhere nothing can be refused: what is wrong stays within the tables, and
        # atoms of unknown types get no number.
        kinds, index = atype.clamp(0, ntypes - 1), index.clamp(0, atype.shape[0] - 1)
        seen = model.graphs.allowed_pairs(atype.device)
        return graph_of_edges(kinds, nowned, index, vectors, mask, model.rcut, seen)
    names = torch.tensor(list(", ".join(model.type_map).encode()), dtype=torch.uint8)
    allowed = torch.tensor(model.graphs.pair_allowed, dtype=torch.bool)
    lone = torch.tensor(has_energy, dtype=torch.bool)
    limits = torch.tensor([model.rcut, guard_distance(model.rcut)], dtype=torch.float64)
    ranks = 2 if exchanged else 1
    found = checked_input(atype, n_local, index, vectors.detach(), mask, names, allowed, lone, limits, ranks)
    kinds, index, vectors = found
    return AtomGraph(rows_between(kinds, 0, nowned + 1), kinds, index, vectors, index)


def _arranged(graph: AtomGraph, nowned: int, lists: Lists | None, model: Evaluation) -> AtomGraph:
    """Choose the mode: of a file that is exported, of a training step, or none in particular."""
    if model.training and model.trains_with_kernels(graph.edge_vec.device):
        return for_training_kernels(graph, get_proxy_mode() is not None)
    if model.training:
        # The number of chunks depends on the data: nothing for a graph that is being traced.
        arrange = in_chunks if get_proxy_mode() is None else for_compiled_training
        return arrange(graph, model.graphs.slots)
    if lists is None:
        return graph
    if calls_kernels():
        return with_lists(graph, lists, nowned, in_rectangles=False)
    return in_slots(with_lists(graph, lists, nowned, in_rectangles=True))


def _frames_of_atoms(total: int, n_node: torch.Tensor) -> torch.Tensor:
    """Frame of each atom, int64, shape (N,)."""
    atom = torch.arange(total, device=n_node.device)
    return (atom.unsqueeze(1) >= torch.cumsum(n_node, dim=0)).sum(dim=1)


def _frame_sums(values: list[torch.Tensor], n_node: torch.Tensor, graph: AtomGraph) -> list[torch.Tensor]:
    """Sum the atoms of every frame, shapes (N, ·) → (nf, ·)."""
    total = values[0].shape[0]
    atom = torch.arange(total, device=n_node.device)
    end = torch.cumsum(n_node, dim=0)
    frame = _frames_of_atoms(total, n_node)
    atoms = edge_groups(atom, torch.cat([torch.zeros_like(end[:1]), end])) if is_exported(graph) else None
    if atoms is not None and not checks_input():
        # What is masked is read all the same, by torch's own evaluation of a program not beyond the last row: frames
        # without atoms need one.
        values = [torch.cat([rows, rows.new_zeros(1, rows.shape[1])]) for rows in values]
    return [sum_over_edges(rows, frame, n_node.shape[0], atoms, graph) for rows in values]
