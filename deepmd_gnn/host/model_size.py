"""Numbers of parameters for ``dp show … size`` and ``DeepPot.get_model_size``."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from deepmd_gnn.files.tensor_names import NETWORK, stored_name


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Count the parameters of a MACE model by the host's words for its parts.

    Parameters
    ----------
    model : torch.nn.Module
        A :class:`~deepmd_gnn.mace.MaceModel`, scripted or not.

    Returns
    -------
    dict[str, int]
        ``descriptor``, ``fitting-net`` and ``total``.
    """
    counts = {"descriptor": 0, "fitting-net": 0}
    for name, parameter in model.named_parameters():
        part = "fitting-net" if stored_name(name).startswith("fitting_net.") else "descriptor"
        counts[part] += parameter.numel() if name.startswith(NETWORK) else 0
    return {**counts, "total": sum(counts.values())}


def count_mace_models(evaluator: type) -> None:
    """Let the host's evaluator count the parameters of MACE models; others pass through unchanged.

    The host goes by the names of parameters, and in a TorchScript file nothing of this package runs that could rename
    them. For exported files it does not count at all.

    Parameters
    ----------
    evaluator : type
        ``deepmd.infer.deep_eval.DeepEval``.
    """
    original: Callable[[Any], dict[str, int]] = evaluator.get_model_size  # type: ignore[attr-defined]
    if getattr(original, "counts_mace_models", False):
        return

    @functools.wraps(original)
    def get_model_size(self: Any) -> dict[str, int]:
        model = _mace_model(self.deep_eval)
        return original(self) if model is None else parameter_counts(model)

    get_model_size.counts_mace_models = True  # type: ignore[attr-defined]
    evaluator.get_model_size = get_model_size  # type: ignore[attr-defined]


def _mace_model(backend: Any) -> torch.nn.Module | None:
    """Find the model of the host's backend for PyTorch, or the one rebuilt beside an exported file."""
    wrapper = getattr(backend, "dp", None)
    parts = getattr(wrapper, "model", None)
    model = parts["Default"] if isinstance(parts, torch.nn.ModuleDict) else getattr(backend, "_dpmodel", None)
    # Scripted modules keep the name of their class.
    is_mace = getattr(model, "original_name", type(model).__name__) == "MaceModel"
    return model if is_mace else None
