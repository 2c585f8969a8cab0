"""Models for TorchSim, which moves many systems at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers

from deepmd_gnn.tools.evaluation import load_potential

try:
    from torch_sim.models.interface import ModelInterface

    MISSING: ImportError | None = None
except ImportError as error:  # the class can be documented without TorchSim
    ModelInterface, MISSING = torch.nn.Module, error


class TorchSimModel(ModelInterface):
    """A model file as TorchSim's ``ModelInterface``.

    Systems are evaluated together, filled up with atoms of type −1 where their sizes differ. The model runs where DeePMD-kit
    runs it (``DEVICE=cpu`` or the GPU).

    Parameters
    ----------
    path : str or Path
        Checkpoint or frozen model.
    head : str, optional
        Branch of a multi-task checkpoint.
    dtype : torch.dtype
        Of the simulation; the precision of the network is that of the file.
    compute_forces, compute_stress : bool
        Whether they are among the results.

    Raises
    ------
    ImportError
        If TorchSim is not installed.
    ValueError
        If energies depend on quantities of a frame, such as its charge: they would be the defaults for every system.
    """

    def __init__(
        self,
        path: str | Path,
        head: str | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        compute_forces: bool = True,
        compute_stress: bool = True,
    ) -> None:
        if MISSING is not None:
            raise ImportError(
                f"TorchSim cannot be imported ({MISSING}). Install it: pip install torch-sim-atomistic"
            ) from MISSING
        super().__init__()
        self._potential = load_potential(Path(path), head)
        if self._potential.get_dim_fparam() > 0:
            raise ValueError(
                f"{path}: its energies depend on quantities of a frame (fparam), such as the charge, which TorchSimModel does not "
                "pass on. Use it through ASE, or convert the model without them."
            )
        from deepmd.pt.utils.env import DEVICE

        self._device, self._dtype = DEVICE, dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self._memory_scales_with = "n_atoms_x_density"
        self._type_of = np.full(max(atomic_numbers.values()) + 1, -1)
        for place, name in enumerate(self._potential.get_type_map()):
            if name in atomic_numbers:
                self._type_of[atomic_numbers[name]] = place

    def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
        """Energies, forces and stresses of all systems.

        Parameters
        ----------
        state : torch_sim.SimState
            Positions in Å, shape (natoms, 3), of all systems; periodic in all directions or in none.

        Returns
        -------
        dict[str, torch.Tensor]
            ``energy`` in eV, shape (nsystems,); ``forces`` in eV/Å, shape (natoms, 3); ``stress`` in eV/Å³, positive under
            tension, shape (nsystems, 3, 3), zero without periodicity.
        """
        periodic = _periodic(state.pbc)
        coord = state.positions.detach().cpu().numpy().astype(float)
        cells = state.row_vector_cell.detach().cpu().numpy().astype(float)
        types = self._types(state.atomic_numbers.detach().cpu().numpy())
        counts = np.bincount(state.system_idx.cpu().numpy(), minlength=len(cells))
        starts = np.concatenate([[0], np.cumsum(counts)])
        energy, forces, stress = np.zeros(len(cells)), np.zeros_like(coord), np.zeros_like(cells)
        for members in _of_similar_size(counts):
            atoms = [slice(starts[k], starts[k + 1]) for k in members]
            frames = np.zeros((len(members), max(counts[members]), 3))
            kinds = np.full(frames.shape[:2], -1)
            for frame, kind, part in zip(frames, kinds, atoms, strict=True):
                frame[: part.stop - part.start], kind[: part.stop - part.start] = coord[part], types[part]
            box = cells[members].reshape(-1, 9) if periodic else None
            energies, gradients, virials = self._potential.eval(frames, box, kinds, mixed_type=True)[:3]
            energy[members] = energies[:, 0]
            for values, part in zip(gradients, atoms, strict=True):
                forces[part] = values[: part.stop - part.start]
            if periodic:
                volumes = np.abs(np.linalg.det(cells[members]))
                stress[members] = -virials.reshape(-1, 3, 3) / volumes[:, None, None]
        found = {"energy": energy}
        if self._compute_forces:
            found["forces"] = forces
        if self._compute_stress:
            found["stress"] = (stress + stress.transpose(0, 2, 1)) / 2
        device = state.positions.device
        return {
            name: torch.as_tensor(value, dtype=self._dtype, device=device) for name, value in found.items()
        }

    def _types(self, numbers: np.ndarray) -> np.ndarray:
        """Types of atoms by their atomic numbers, shape (natoms,)."""
        types = self._type_of[numbers]
        if (types < 0).any():
            unknown = sorted({int(number) for number in numbers[types < 0]})
            raise ValueError(
                f"the systems have atoms of the atomic numbers {', '.join(map(str, unknown))}, but the model knows only "
                f"{', '.join(self._potential.get_type_map())}."
            )
        return types


def _periodic(pbc: Any) -> bool:
    """Whether systems are periodic, of a flag for all directions or one for each."""
    flags = torch.as_tensor(pbc).reshape(-1).tolist()
    if any(flags) and not all(flags):
        raise ValueError(
            f"pbc is {flags}, but DeePMD-kit knows periodic systems and free ones. Make all directions periodic, with a gap "
            "of at least the cutoff in those that are free."
        )
    return all(flags)


def _of_similar_size(counts: np.ndarray) -> list[list[int]]:
    """Systems that are evaluated together: none is filled up to more than twice its size.

    Parameters
    ----------
    counts : numpy.ndarray
        Atoms of each system, shape (nsystems,).
    """
    groups: list[list[int]] = []
    for k in np.argsort(counts, kind="stable").tolist():
        if groups and counts[k] <= 2 * counts[groups[-1][0]]:
            groups[-1].append(k)
        else:
            groups.append([k])
    return groups
