"""E0 of a model: given, fitted to data, or adjusted to other data."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from deepmd_gnn.config.isolated_atoms import energies_of_types, read_atomic_energies
from deepmd_gnn.config.mm_types import is_mm
from deepmd_gnn.host.counts import compositions
from deepmd_gnn.host.evaluation import Evaluation
from deepmd_gnn.host.labels import NoEnergiesError, Sampled, checked, with_energies
from deepmd_gnn.stat_compat import fitted_energies

log = logging.getLogger("deepmd.deepmd_gnn")  # below the host's logger, so that `dp train` prints it


def given_bias(model: Evaluation) -> dict[str, list[Any]] | None:
    """Atomic energies the user gave, in the host's format; None entries are to be fitted. MM types have zero.

    Parameters
    ----------
    model : Evaluation
        The model.

    Returns
    -------
    dict[str, list] or None
        ``{"energy": [...]}``; None if nothing is given.

    Raises
    ------
    ValueError
        If the given energies do not fit the type map.
    """
    given = model.config.atomic_energies
    if given == "auto":
        given = (model.preset_out_bias or {}).get("energy") or [None] * len(model.type_map)
    elif isinstance(given, str):
        given = read_atomic_energies(given, model.type_map)
    if isinstance(given, dict):
        energies_by_name = energies_of_types(given, model.type_map)
        given = [energies_by_name.get(name) for name in model.type_map]
    if len(given) != len(model.type_map):
        raise ValueError(
            f"{model.type_name} model: atomic_energies has {len(given)} values, but type_map has {len(model.type_map)} elements."
        )
    energies = [None if value is None else float(np.asarray(value).reshape(-1)[0]) for value in given]
    for index, name in enumerate(model.type_map):
        if not is_mm(name):
            continue
        if energies[index]:
            raise ValueError(
                f"{model.type_name} model: the atomic energy of the MM type {name} is {energies[index]} eV, but must be 0: MM atoms "
                "have no energy of their own. Leave it out."
            )
        energies[index] = 0.0
    if all(value is None for value in energies):
        return None
    return {"energy": [None if value is None else np.array([value]) for value in energies]}


def given_types(model: Evaluation, given: dict[str, list[Any]] | None) -> list[str]:
    """Elements whose E0 the user gave, of what :func:`given_bias` returns."""
    pairs = zip(model.type_map, given["energy"], strict=True) if given else ()
    return [name for name, value in pairs if value is not None and not is_mm(name)]


def _warn_of_given(model: Evaluation, adjusts: bool) -> None:
    energies = model.config.atomic_energies
    is_file = isinstance(energies, str) and energies != "auto"  # may be gone: it was read before the training
    given = [energies] if is_file else given_types(model, given_bias(model))
    if given and adjusts:
        log.warning(
            "%s atomic energies of %s were given and are adjusted to data now, so that isolated atoms no longer have "
            "them. To keep them leave out change_bias_after_training.",
            model.title,
            given,
        )
    elif given:
        log.warning(
            "%s atomic energies of %s were given and stay; only the others are set. `dp change-bias -m change` adjusts "
            "all of them.",
            model.title,
            given,
        )


def _only_mm_bias(model: Evaluation) -> dict[str, list[Any]] | None:
    """Zero for MM types in the host's format, everything else to be fitted."""
    if not any(map(is_mm, model.type_map)):
        return None
    return {"energy": [np.zeros(1) if is_mm(name) else None for name in model.type_map]}


def _without_mm(model: Evaluation, bias: torch.Tensor) -> torch.Tensor:
    """The same energies, shape (1, ntypes, 1), with zero for MM types."""
    mm = torch.tensor([is_mm(name) for name in model.type_map], device=bias.device)
    return torch.where(mm.view(1, -1, 1), torch.zeros_like(bias), bias)


def set_given_bias(model: Evaluation) -> None:
    """Set E0 that the user gave in the model section; those of a file are read when statistics are computed."""
    if isinstance(model.config.atomic_energies, str) and model.config.atomic_energies != "auto":
        return  # a file, read when E0 are set; a trained model does not need it any more
    take_given(model, given_bias(model))


def take_given(model: Evaluation, given: dict[str, list[Any]] | None) -> None:
    """Set E0 that the user gave, of what :func:`given_bias` returns."""
    for index, value in enumerate(given["energy"] if given else []):
        if value is not None:
            model.out_bias[0, index, 0] = float(np.asarray(value).reshape(-1)[0])


def change_out_bias(
    model: Evaluation, merged: Callable[[], Sampled] | Sampled, bias_adjust_mode: str = "change-by-statistic"
) -> None:
    """Fit E0 to data.

    Parameters
    ----------
    model : Evaluation
        The model.
    merged : list or Callable
        Sampled frames, or a function that returns them.
    bias_adjust_mode : str
        ``"change-by-statistic"`` adds the least-squares fit of (label − prediction);
        ``"set-by-statistic"`` replaces E0 by the fit of the labels.

    Raises
    ------
    ValueError
        For another mode.
    """
    modes = {"change-by-statistic": model.predict_atomic_outputs_for_stat, "set-by-statistic": None}
    if bias_adjust_mode not in modes:
        raise ValueError(
            f"{model.type_name} model: bias_adjust_mode is {bias_adjust_mode!r}, but must be one of {list(modes)}."
        )
    predict = modes[bias_adjust_mode]
    _warn_of_given(model, adjusts=predict is not None)
    fitted = fit_energies(
        model,
        checked(merged if callable(merged) else lambda: merged),
        model_forward=predict,
        preset_bias=_only_mm_bias(model) if predict else given_bias(model),
    )
    if fitted is not None:
        model.out_bias.copy_(model.out_bias + fitted if predict else fitted)


def _tell_undetermined(model: Evaluation, sampled: Sampled, given: dict[str, list[Any]] | None) -> None:
    """Say so where the compositions of the data do not tell the E0 of their elements apart."""
    counts = compositions(sampled, len(model.type_map))
    fixed = given["energy"] if given else [None] * len(model.type_map)
    fitted = [k for k in np.flatnonzero(counts.any(axis=0)) if fixed[k] is None]
    if np.linalg.matrix_rank(counts[:, fitted]) < len(fitted):
        log.warning(
            "%s atomic energies of %s cannot be told apart: the data has %d composition(s) of them, for %d energies. Their sum "
            "is right for these data, and training is not harmed; for other compositions give atomic_energies, or add frames of "
            "isolated atoms.",
            model.title,
            ", ".join(model.type_map[k] for k in fitted),
            len(counts),
            len(fitted),
        )


def fit_energies(
    model: Evaluation, sampled_func: Callable[[], Sampled], **options: Any
) -> torch.Tensor | None:
    """The host's least squares: energies in eV, shape (1, ntypes, 1), zero for MM types; None without labels."""
    seen: list[Sampled] = []

    def sample() -> Sampled:
        """Called unless the stat file has the energies."""
        seen.append(with_energies(sampled_func)())
        return seen[-1]

    try:
        bias = fitted_energies(sample, len(model.type_map), **options)
    except NoEnergiesError:
        log.warning(
            "%s atomic energies: the data has no energies to fit them to; they stay as they are.", model.title
        )
        return None
    if seen and "model_forward" not in options:
        _tell_undetermined(model, seen[-1], options.get("preset_bias"))
    return _without_mm(model, bias.view(1, -1, 1).to(model.out_bias.device))
