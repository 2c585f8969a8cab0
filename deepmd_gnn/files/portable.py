"""DeePMD-kit's portable formats, ``.dp`` and ``.yaml``: what the host's reader gives is what its writers take. No torch here."""

from typing import Any

import numpy as np


def with_arrays(data: dict[str, Any]) -> dict[str, Any]:
    """Plain data whose variables are arrays; HDF5 (``.dp``) gives those without axes back as numbers.

    The host writes neither YAML nor JSON of numpy's numbers.

    Parameters
    ----------
    data : dict[str, Any]
        A serialised model, or a whole file.

    Returns
    -------
    dict[str, Any]
        Shares everything else with `data`.
    """
    if "@variables" not in data:
        return data
    variables = {name: np.asarray(value) for name, value in data["@variables"].items()}
    return {**data, "@variables": variables}


def whole_file_with_arrays(data: dict[str, Any]) -> dict[str, Any]:
    """The content of a portable file, with arrays for numbers if it holds a model of ours.

    Parameters
    ----------
    data : dict[str, Any]
        From the host's reader.

    Returns
    -------
    dict[str, Any]
        Shares everything else with `data`.
    """
    if not is_ours(data):
        return data
    return {**with_arrays(data), "model": with_arrays(data["model"])}


def is_ours(data: dict[str, Any]) -> bool:
    """Whether the content of a file is of a model of this package."""
    from deepmd_gnn.config.networks import CONFIGS

    model = data.get("model")
    return isinstance(model, dict) and model.get("type") in CONFIGS
