"""Statistics helpers of DeePMD-kit 3.2, some of them private; for every network. Another version of the host changes this file."""

from collections.abc import Callable
from typing import Any

import torch
from deepmd.pt.utils.stat import (
    _restore_observed_type_from_file,
    _save_observed_type_to_file,
    collect_observed_types,
    compute_output_stats,
)
from deepmd.utils.path import DPPath

Sampled = list[dict[str, Any]]


def observed_elements(
    sampled_func: Callable[[], Sampled], path: DPPath | None, type_map: list[str]
) -> list[str]:
    """Elements of the training data, from the stat file if it has them; else they are written there.

    Parameters
    ----------
    sampled_func : Callable
        Returns sampled frames of each training system.
    path : DPPath, optional
        Folder or HDF5 group of this type map.
    type_map : list[str]
        Names of the types.

    Returns
    -------
    list[str]
        By atomic number, as the host sorts them.
    """
    observed = _restore_observed_type_from_file(path)
    if observed is None:
        observed = collect_observed_types(sampled_func(), type_map)
        _save_observed_type_to_file(path, observed)
    return list(observed)


def fitted_energies(sampled_func: Callable[[], Sampled], ntypes: int, **options: Any) -> torch.Tensor:
    """Least squares of the labels, or of what a model lacks, over the numbers of atoms of each type.

    Parameters
    ----------
    sampled_func : Callable
        Returns sampled frames with energies.
    ntypes : int
        Number of types.
    **options : Any
        ``stat_file_path``, ``preset_bias`` and ``model_forward`` of the host's ``compute_output_stats``.

    Returns
    -------
    torch.Tensor
        eV, shape (ntypes, 1).
    """
    bias, _ = compute_output_stats(sampled_func, ntypes, keys=["energy"], **options)
    return bias["energy"]  # type: ignore[no-any-return]
