"""Labels of training data that are absent or no numbers: found before they become statistics or weights."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from deepmd.utils.path import DPPath

from deepmd_gnn.host.data_types import check_atom_types

log = logging.getLogger("deepmd.deepmd_gnn")
Sampled = list[dict[str, Any]]

# Geometry and the labels of an energy model: names of the host's files, and of what it makes of them.
_CHECKED = ("coord", "box", "energy", "force", "virial", "atom_ener")
_WHAT_TO_DO = "Correct the frame or take it out; labels that are not to be used need no file."


def check_files(data: Any) -> None:
    """Refuse data with values that are no finite numbers: all frames, read once.

    Parameters
    ----------
    data : DeepmdDataSystem, DpLoaderSet, LmdbDataSystem or LmdbDataset
        The host's data: systems of folders or HDF5 groups, or a database. What stands for a database while neighbours
        are counted has no files; the trainer's own is read before the first step, see :func:`check_trainer`.

    Raises
    ------
    ValueError
        Names the file and the frame.
    """
    for system in getattr(data, "data_systems", None) or getattr(data, "systems", []):
        files = getattr(system, "data_system", system)
        for folder in getattr(files, "dirs", []):
            if isinstance(folder, DPPath):
                check_atom_types(folder)
                _check_folder(folder, dict.fromkeys([*_CHECKED, *getattr(files, "data_dict", {})]))
    if hasattr(data, "_reader"):
        _check_database(data._reader)


def _check_folder(folder: DPPath, names: Iterable[str]) -> None:
    for name in names:
        file = folder / f"{name}.npy"
        if file.is_file():
            values = file.load_numpy()
            if values.dtype.kind not in "fiub":
                raise ValueError(f"mace model: {file} is of type {values.dtype}, but must hold real numbers.")
            frame = first_bad_frame(values)
            if frame is not None:
                raise ValueError(_message(name, frame, file))


def _check_database(reader: Any) -> None:
    for frame in range(len(reader)):
        values = reader[frame]
        for name in _CHECKED:
            if (
                values.get(name) is not None
                and found(values, name)
                and first_bad_frame(values[name][None]) is not None
            ):
                raise ValueError(_message(name, frame, reader.lmdb_path))


def _message(name: str, frame: int, file: Any) -> str:
    return f"mace model: {name} of frame {frame} (counted from 0) in {file} is not finite. {_WHAT_TO_DO}"


def check_trainer(trainer: Any) -> None:
    """:func:`check_files` for the training and the validation data of all tasks of a trainer of either backend.

    ``update_sel`` sees no validation data, and is not called with ``--skip-neighbor-stat``.
    """
    for name in ("training", "validation"):
        # The exportable trainer keeps the data, the other one their loaders.
        kept = getattr(trainer, f"{name}_data_by_task", None) or getattr(trainer, f"{name}_dataloader", None)
        for data in kept.values() if isinstance(kept, dict) else [kept]:
            check_files(getattr(data, "dataset", data))


def warn_of_ignored_cells(data: Any) -> None:
    """Say which systems have cells that one of the host's trainers does not look at and the other does."""
    for system in data.data_systems:
        folders = [folder for folder in getattr(system, "dirs", []) if isinstance(folder, DPPath)]
        if not system.pbc and any((folder / "box.npy").is_file() for folder in folders):
            log.warning(
                "MACE: %s has nopbc and box.npy: `dp --pt` trains without cell, `dp --pt-expt` with it. Remove one of the two.",
                folders[0],
            )


def cell_of_batch(coord: torch.Tensor, box: torch.Tensor | None) -> torch.Tensor | None:
    """Find out whether a batch has cells: `dp --pt-expt train` has zeros for data without, and coordinates with a gradient.

    Parameters
    ----------
    coord : torch.Tensor
        Å, shape (nf, nloc, 3).
    box : torch.Tensor, optional
        Cells, Å, shape (nf, 9).

    Returns
    -------
    torch.Tensor or None
        `box`; None for data without cells.
    """
    if box is not None and coord.requires_grad and not bool(box.any()):
        return None
    return box


def check_sampled(sampled: Sampled) -> None:
    """Refuse sampled frames with values that are no finite numbers.

    Parameters
    ----------
    sampled : list[dict[str, Any]]
        Frames of each system as the host samples them.

    Raises
    ------
    ValueError
        Names the quantity and the system; the order of sampled frames is not that of the files.
    """
    for place, system in enumerate(sampled):
        for name in _CHECKED:
            values = system.get(name)
            if values is None or not found(system, name):
                continue
            if first_bad_frame(values) is not None:
                raise ValueError(
                    f"mace model: {name} of a sampled frame in system {place} of the training data (counted from 0) is not "
                    f"finite; without --skip-neighbor-stat the frame is named. {_WHAT_TO_DO}"
                )


def first_bad_frame(values: Any) -> int | None:
    """First frame, along the first axis, with a value that is not finite; None if there is none."""
    array = values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)
    good = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    return None if good.all() else int(np.argmin(good))


def found(system: dict[str, Any], name: str) -> bool:
    """Whether sampled frames have a label; the host fills absent ones with zeros and says so beside them."""
    # Tensors of any device among them: the host puts these flags where the frames are.
    return name in system and bool(
        (torch.as_tensor(system.get(f"find_{name}", 1.0), device="cpu") > 0.5).all()
    )


class NoEnergiesError(ValueError):
    """No sampled system has energies."""


def checked(sampled_func: Callable[[], Sampled]) -> Callable[[], Sampled]:
    """The same samples, through :func:`check_sampled`; zeros that stand for absent cells are None."""

    def sample() -> Sampled:
        sampled = [
            {**system, "box": system.get("box") if found(system, "box") else None}
            for system in sampled_func()
        ]
        check_sampled(sampled)
        return sampled

    return sample


def with_energies(sampled_func: Callable[[], Sampled]) -> Callable[[], Sampled]:
    """Of the same samples the systems with energies, of frames or of atoms; raises :class:`NoEnergiesError` if none has."""

    def sample() -> Sampled:
        systems = [
            system for system in sampled_func() if found(system, "energy") or found(system, "atom_energy")
        ]
        if not systems:
            raise NoEnergiesError
        return systems

    return sample
