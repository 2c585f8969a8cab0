"""Deviation of several models in Python: the host takes one array of types for all, whatever they mean to each."""

import functools
from collections.abc import Callable
from typing import Any

from deepmd_gnn.host.inference_graphs import is_evaluation_of_ours


def comparing_type_maps(original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse to compare models whose type numbers mean different elements, if one of them is ours.

    Parameters
    ----------
    original : Callable
        ``deepmd.infer.model_devi.calc_model_devi``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def calc_model_devi(coord: Any, box: Any, atype: Any, models: Any, *others: Any, **named: Any) -> Any:
        models = list(models)
        maps = [model.get_type_map() for model in models]
        differing = next((found for found in maps if found != maps[0]), None)
        if differing is not None and any(
            is_evaluation_of_ours(getattr(m, "deep_eval", None)) for m in models
        ):
            raise ValueError(
                f"mace model: the type maps of the models differ, {maps[0]} and {differing}, but they get the same type numbers. "
                "Load them with deepmd_gnn.committee, which maps them by name."
            )
        return original(coord, box, atype, models, *others, **named)

    return calc_model_devi
