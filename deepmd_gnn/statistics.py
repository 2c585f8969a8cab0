"""Statistics of the training data that MACE needs: neighbours per atom and the size of the forces."""

from typing import Any

import numpy as np
import torch
from deepmd.utils.path import DPPath

from deepmd_gnn.neighbors import NeighborPairs

# Atoms per neighbour search: bounds the memory for systems with many sampled frames.
_ATOMS_PER_SEARCH = 20000


def average_num_neighbors(
    sampled: list[dict[str, Any]], r_max: float, allowed: list[list[bool]] | None = None
) -> float:
    """Mean number of neighbours of the atoms that have any, as native MACE counts them.

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
    float
        1 if no atom has a neighbour.
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
                center = center[torch.tensor(allowed)[types[center], types[neighbor]]]
            edges += center.numel()
            atoms += torch.unique(center).numel()
    return edges / atoms if atoms else 1.0


def rms_force(sampled: list[dict[str, Any]], counts: list[bool] | None = None) -> float | None:
    """Root mean square of the labelled force components in eV/Å.

    Parameters
    ----------
    sampled : list[dict[str, Any]]
        Frames of each system with ``atype``, and where labelled ``force`` (nf, nloc, 3) and ``find_force``.
    counts : list[bool], optional
        Which types count; by default all.

    Returns
    -------
    float or None
        None without force labels.
    """
    total, count = 0.0, 0
    for system in sampled:
        if "force" not in system or not bool(np.all(np.asarray(system.get("find_force", 1.0)) > 0.5)):
            continue
        atype = torch.as_tensor(system["atype"], device="cpu")
        force = torch.as_tensor(system["force"], device="cpu").double().reshape(*atype.shape, 3)
        real = force[atype >= 0]
        if counts is not None:
            real = real[torch.tensor(counts)[atype[atype >= 0]]]
        total += float(real.square().sum())
        count += real.numel()
    return (total / count) ** 0.5 if count else None


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

    def load(self, name: str) -> float | None:
        """Read a number, None if it is not there."""
        if self._path is None or not (self._path / f"mace_{name}_{self._tag}").is_file():
            return None
        return float((self._path / f"mace_{name}_{self._tag}").load_numpy().item())

    def save(self, name: str, value: float) -> None:
        """Write a number."""
        if self._path is None:
            return
        self._path.mkdir(exist_ok=True, parents=True)
        (self._path / f"mace_{name}_{self._tag}").save_numpy(np.array([value]))
