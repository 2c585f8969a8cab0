"""Numbers that statistics of the training data are made of: neighbours, and squares of forces."""

from typing import Any

import numpy as np
import torch
from deepmd.utils.path import DPPath

from deepmd_gnn.graph.neighbor_search import NeighborPairs

# Atoms per neighbour search: bounds the memory for systems with many sampled frames.
_ATOMS_PER_SEARCH = 20000


def count_neighbors(
    sampled: list[dict[str, Any]], r_max: float, allowed: list[list[bool]] | None = None
) -> list[float]:
    """Count neighbours and the atoms that have any, as native MACE does.

    Parameters
    ----------
    sampled : list[dict[str, Any]]
        Frames of each system with ``coord`` (nf, nloc, 3), ``atype`` (nf, nloc) and ``box`` (nf, 9) or None.
    r_max : float
        Cutoff in Å; neighbours within it are all counted, whatever `sel`.
    allowed : list[list[bool]], optional
        Which types see each other; by default all.

    Returns
    -------
    list[float]
        Pairs of an atom and a neighbour, and atoms that have a neighbour.
    """
    search = NeighborPairs(r_max)
    edges, atoms = 0, 0
    for system in sampled:
        atype = torch.as_tensor(system["atype"], device="cpu").long()
        coord = torch.as_tensor(system["coord"], device="cpu").double().reshape(*atype.shape, 3)
        box = system.get("box")
        if box is not None:
            box = torch.as_tensor(box, device="cpu").double().reshape(-1, 3, 3)
        step = max(1, _ATOMS_PER_SEARCH // max(1, atype.shape[1]))
        for begin in range(0, atype.shape[0], step):
            part = slice(begin, begin + step)
            center, neighbor, _ = search(
                coord[part].detach(), atype[part], None if box is None else box[part]
            )
            if allowed is not None:
                types = atype[part].reshape(-1)
                center = center[torch.tensor(allowed, device="cpu")[types[center], types[neighbor]]]
            edges += center.numel()
            atoms += torch.unique(center).numel()
    return [float(edges), float(atoms)]


def average_num_neighbors(
    sampled: list[dict[str, Any]], r_max: float, allowed: list[list[bool]] | None = None
) -> float:
    """Mean number of neighbours of the atoms that have any; 1 if none has. See :func:`count_neighbors`."""
    edges, atoms = count_neighbors(sampled, r_max, allowed)
    return edges / atoms if atoms else 1.0


def count_forces(sampled: list[dict[str, Any]], counts: list[bool] | None = None) -> list[float]:
    """Sum the squares of the labelled force components.

    Parameters
    ----------
    sampled : list[dict[str, Any]]
        Frames of each system with ``atype``, and where labelled ``force`` (nf, nloc, 3) and ``find_force``.
    counts : list[bool], optional
        Which types count; by default all.

    Returns
    -------
    list[float]
        Sum of squares in (eV/Å)², and number of components; zeros without force labels.
    """
    total, count = 0.0, 0
    for system in sampled:
        # A number, or the host's tensor on the device that trains.
        labelled = torch.as_tensor(system.get("find_force", 1.0), device="cpu") > 0.5
        if "force" not in system or not bool(labelled.all()):
            continue
        atype = torch.as_tensor(system["atype"], device="cpu")
        force = torch.as_tensor(system["force"], device="cpu").double().reshape(*atype.shape, 3)
        real = force[atype >= 0]
        if counts is not None:
            real = real[torch.tensor(counts, device="cpu")[atype[atype >= 0]]]
        total += float(real.square().sum())
        count += real.numel()
    return [total, float(count)]


def compositions(sampled: list[dict[str, Any]], ntypes: int) -> np.ndarray:
    """Which numbers of atoms of each type the data has.

    Parameters
    ----------
    sampled : list[dict[str, Any]]
        Frames of each system with ``atype``, shape (nf, nloc), negative for no atom.
    ntypes : int
        Number of types.

    Returns
    -------
    numpy.ndarray
        Different rows, shape (ncompositions, ntypes).
    """
    rows = []
    for system in sampled:
        atype = torch.as_tensor(system["atype"], device="cpu").unsqueeze(-1)
        rows.append((atype == torch.arange(ntypes, device="cpu")).sum(dim=1).numpy())
    return np.unique(np.concatenate(rows), axis=0)


class CachedNumbers:
    """Numbers kept beside the host's statistics in the stat file.

    Parameters
    ----------
    path : DPPath, optional
        Folder or HDF5 group of this type map; None keeps nothing.
    tag : str
        What the numbers depend on besides the data; part of their names.
    """

    def __init__(self, path: DPPath | None, tag: str) -> None:
        self._path = path
        self._tag = tag

    def load(self, name: str) -> list[float] | None:
        """Read numbers, None if they are not there."""
        if self._path is None or not (self._path / f"mace_{name}_{self._tag}").is_file():
            return None
        return [float(x) for x in (self._path / f"mace_{name}_{self._tag}").load_numpy().ravel()]

    def save(self, name: str, values: list[float]) -> None:
        """Write numbers."""
        if self._path is None:
            return
        self._path.mkdir(exist_ok=True, parents=True)
        (self._path / f"mace_{name}_{self._tag}").save_numpy(np.array(values))
