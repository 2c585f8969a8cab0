"""Numbers of parameters for ``dp show … size`` and ``DeepPot.get_model_size``."""

import functools
from collections.abc import Callable
from typing import Any

import torch

from deepmd_gnn.files.tensor_names import NETWORK, stored_name
from deepmd_gnn.host.classes import all_classes


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Count the parameters of a model by the host's words for its parts.

    Parameters
    ----------
    model : torch.nn.Module
        One of our models, scripted or not.

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


def counting(original: Callable[[Any], dict[str, int]]) -> Callable[[Any], dict[str, int]]:
    """Let the host's evaluator count the parameters of our models.

    Parameters
    ----------
    original : Callable
        ``deepmd.infer.deep_eval.DeepEval.get_model_size``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def get_model_size(self: Any) -> dict[str, int]:
        model = _our_model(self.deep_eval)
        return original(self) if model is None else parameter_counts(model)

    return get_model_size


def _our_model(backend: Any) -> torch.nn.Module | None:
    """Find the model of the host's backend for PyTorch, or the one rebuilt beside an exported file."""
    wrapper = getattr(backend, "dp", None)
    parts = getattr(wrapper, "model", None)
    model = parts["Default"] if isinstance(parts, torch.nn.ModuleDict) else getattr(backend, "_dpmodel", None)
    # Scripted modules keep the name of their class.
    name = getattr(model, "original_name", type(model).__name__)
    return model if name in {ours.__name__ for ours in all_classes().values()} else None
