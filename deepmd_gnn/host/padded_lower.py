"""DeePMD-kit's padded neighbour list for exported models.

Frozen files use the edge list (:mod:`~deepmd_gnn.host.edge_lower`), which needs no padding; this form is for programs that
trace the padded one themselves.
"""

from typing import Any

import torch

from deepmd_gnn.config.charges import refuse_export
from deepmd_gnn.graph.atom_graph import frames_of_senders, with_values
from deepmd_gnn.graph.builders import graph_of_slots
from deepmd_gnn.host.evaluation import Evaluation
from deepmd_gnn.host.results import results_of_frames


def evaluate_slots(
    model: Evaluation,
    do_atomic_virial: bool,
    coord: torch.Tensor,
    atype: torch.Tensor,
    nlist: torch.Tensor,
    mapping: torch.Tensor,
    fparam: torch.Tensor | None = None,
    *unused: Any,  # noqa: ARG001 - parameters of atoms, and charge and spin
) -> dict[str, torch.Tensor]:
    """Evaluate extended atoms, one edge for every slot of the list; can be traced.

    Parameters
    ----------
    model : Evaluation
        The model.
    do_atomic_virial : bool
        Whether to return the virial of each atom.
    coord : torch.Tensor
        Å, shape (nf, nall, 3), owned atoms first.
    atype, mapping : torch.Tensor
        Types and owners, shape (nf, nall).
    nlist : torch.Tensor
        Shape (nf, nloc, nnei), −1 where empty.
    fparam : torch.Tensor, optional
        Quantities of the frames, shape (nf, nquantity), if the energy depends on any; one that there is not gives NaN.

    Returns
    -------
    dict[str, torch.Tensor]
        Internal names, see :mod:`~deepmd_gnn.host.results`.
    """
    refuse_export(model.coulomb_cutoff > 0.0)
    nf, nall = atype.shape
    nloc = nlist.shape[1]
    position = coord.reshape(nf, nall, 3).to(torch.float64)
    allowed = model.graphs.allowed_pairs(atype.device)
    graph = graph_of_slots(position, atype, nlist, mapping, model.rcut, allowed)
    if model.frame_values.number > 0:
        values = model.frame_values.of_edges(fparam, nf, atype.device)
        graph = with_values(graph, values, frames_of_senders(graph, nf))
    result = results_of_frames(*model.evaluate(graph, atype[:, :nloc], nloc, nall, None))
    if not do_atomic_virial:
        del result["energy_derv_c"]
    return result
