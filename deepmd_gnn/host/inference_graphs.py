"""What the host's Python inference hands over: types as they were given, and edges that are found here.

The host casts types to 32 bits, so that others become types of the model. Its own neighbour searches for exported models
(vesin, ASE, all pairs) end the process, never end or give numbers for input that has none; a ``.pt2`` and ``.pte`` get the
search that a ``.pth`` contains, with its messages.
"""

import functools
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from deepmd_gnn.graph.builders import refuse_coincident
from deepmd_gnn.graph.input_checks import check_cells, check_coordinates, check_types, out_of_range
from deepmd_gnn.host.classes import is_ours
from deepmd_gnn.host.evaluation import Evaluation
from deepmd_gnn.host.interface import HostInterface


def keeping_types(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let the host's inference refuse types of our models that are no whole numbers or do not fit into 32 bits.

    So are coordinates and cells that are complex, texts or objects.

    Exported models cannot refuse quantities of frames that there are not, nor say that they are missing; that is done here, too.

    Parameters
    ----------
    original : Callable
        ``deepmd.infer.deep_eval.DeepEval._standard_input``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def standard_input(self: Any, coords: Any, cells: Any, atom_types: Any, *others: Any) -> Any:
        given = np.asarray(atom_types)
        if (_not_whole(given) or _beyond_32_bits(given)) and is_evaluation_of_ours(self.deep_eval):
            refuse_types(atom_types, self.deep_eval.get_type_map())
        kinds = [_not_real(np.asarray(each)) for each in (coords, cells) if each is not None]
        if any(kinds) and is_evaluation_of_ours(self.deep_eval):
            refuse_kinds(coords, cells)
        found = original(self, coords, cells, atom_types, *others)
        model = getattr(self.deep_eval, "_dpmodel", None)
        if isinstance(model, Evaluation) and model.frame_values.number > 0:
            fparam, nframe = found[3], found[5]
            model.frame_values(
                None if fparam is None else torch.as_tensor(fparam), nframe, torch.device("cpu")
            )
        return found

    return standard_input


def refuse_types(atom_types: Any, type_map: list[str]) -> None:
    """Refuse types that are no whole numbers, or so large that the host's cast would change them.

    Parameters
    ----------
    atom_types : array_like
        As a user gives them.
    type_map : list[str]
        Elements of the model.

    Raises
    ------
    ValueError
        Names the type.
    """
    given = np.asarray(atom_types)
    part = _not_whole(given)
    if part is not None:
        raise ValueError(
            f"mace model: atom type {part} is no whole number. Give each atom's place in the type map ({', '.join(type_map)}), "
            "counted from 0, or -1 for an atom that does not count."
        )
    if _beyond_32_bits(given):
        # Whole numbers of any size, so that the message has the one that was given.
        least, greatest = int(given.min()), int(given.max())
        raise ValueError(out_of_range(least if least < -1 else greatest, type_map))


def refuse_kinds(coords: Any, cells: Any) -> None:
    """Refuse coordinates and cells that are no real numbers: a cast takes their real part, or what it makes of a text.

    Parameters
    ----------
    coords, cells : array_like
        As a user gives them; cells may be None.

    Raises
    ------
    ValueError
        Names what was given.
    """
    for name, given in (("coordinates", coords), ("cells", cells)):
        kind = None if given is None else _not_real(np.asarray(given))
        if kind is not None:
            raise ValueError(f"mace model: the {name} are of type {kind}, but must be real numbers, in Å.")


def _not_real(given: np.ndarray) -> str | None:
    """Type of an array, if it is none of real numbers."""
    return None if given.dtype.kind in "biuf" else str(given.dtype)


def _beyond_32_bits(types: np.ndarray) -> bool:
    cast = np.iinfo(np.int32)
    return types.size > 0 and bool(types.min() < cast.min or types.max() > cast.max)


def _not_whole(types: np.ndarray) -> str | None:
    """The first type that is no whole number, such as 0.5, NaN or a symbol; None if all are."""
    if types.dtype.kind in "biu":
        return None
    for given in types.ravel().tolist():
        whole = isinstance(given, Integral) or (isinstance(given, Real) and float(given).is_integer())
        if not whole:
            return repr(given)
    return None


def is_evaluation_of_ours(deep_eval: Any) -> bool:
    """Whether the host's inference has a model of ours: exported ones hold it, of the others the input is there."""
    if deep_eval is None:
        return False
    model = getattr(deep_eval, "_dpmodel", None)
    return isinstance(model, HostInterface) or is_ours(deep_eval.get_model_def_script())


def searching_here(original: Callable[..., Any]) -> Callable[..., Any]:
    """Let the host's inference of exported models ask here for the edges of our models.

    Parameters
    ----------
    original : Callable
        ``deepmd.pt_expt.infer.deep_eval.DeepEval._build_eval_graph``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def build_eval_graph(
        self: Any,
        coord_input: np.ndarray,
        atom_types: np.ndarray,
        box_input: np.ndarray | None,
        device: torch.device,
    ) -> Any:
        if not is_evaluation_of_ours(self):
            return original(self, coord_input, atom_types, box_input, device)
        coord = torch.as_tensor(np.asarray(coord_input), dtype=torch.float64, device=device)
        types = torch.as_tensor(np.asarray(atom_types), dtype=torch.int64, device=device)
        box = None
        if box_input is not None:
            box = torch.as_tensor(np.asarray(box_input), dtype=torch.float64, device=device)
        return neighbor_graph(self._dpmodel, coord, types, box)

    return build_eval_graph


def neighbor_graph(
    model: Evaluation, coord: torch.Tensor, types: torch.Tensor, box: torch.Tensor | None
) -> Any:
    """Search neighbours, in the host's form of a graph.

    Parameters
    ----------
    model : Evaluation
        Its cutoff and elements count.
    coord : torch.Tensor
        Å, float64, shape (nf, nloc, 3).
    types : torch.Tensor
        int64, shape (nf, nloc); −1 for virtual atoms.
    box : torch.Tensor, optional
        Cells, Å, float64, shape (nf, 9); None for free boundaries.

    Returns
    -------
    deepmd.dpmodel.utils.neighbor_graph.NeighborGraph
        All pairs within the cutoff, sorted by centre.

    Raises
    ------
    ValueError
        If types, coordinates or cells are invalid, or atoms coincide.
    """
    from deepmd.dpmodel.utils.neighbor_graph import (
        NeighborGraph,
        canonicalize_neighbor_graph,
        pad_and_guard_edges,
    )

    nf, nloc = types.shape
    check_types(types, model.type_map)
    check_coordinates(coord)
    if box is not None:
        box = box.reshape(nf, 3, 3)
        check_cells(box)
    center, neighbor, edge_vec = model.graphs.pairs(coord.reshape(nf, nloc, 3), types, box)
    index = torch.stack([neighbor, center])
    refuse_coincident(edge_vec, index)
    index, edge_vec, mask = pad_and_guard_edges(index, edge_vec, None, 2)
    n_node = torch.full((nf,), nloc, dtype=torch.int64, device=coord.device)
    graph = NeighborGraph(n_node=n_node, edge_index=index, edge_vec=edge_vec, edge_mask=mask)
    graph = canonicalize_neighbor_graph(graph, nf * nloc)
    # The length of guards tells the check in a .pt2 that these edges are all there are (input_check.hpp).
    graph.edge_vec[~graph.edge_mask] = 1.0
    return graph
