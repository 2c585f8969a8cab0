"""Quantities of a frame (charge, spin) that a model's energy depends on: which, and their values for a structure."""

from typing import Any

import numpy as np

from deepmd_gnn.config.embeddings import Feature, value_in
from deepmd_gnn.config.networks import CONFIGS
from deepmd_gnn.config.options import config_from_options


def quantities_of(section: Any) -> list[Feature]:
    """Quantities of a model section; none for models that are not of this package."""
    if not isinstance(section, dict) or section.get("type") not in CONFIGS:
        return []
    network: Any = CONFIGS[section["type"]]  # one of several types
    return list(getattr(config_from_options(section, network), "quantities", []))


def quantities_of_potential(potential: Any) -> list[Feature]:
    """Quantities that the energy of a model depends on.

    Parameters
    ----------
    potential : deepmd.infer.DeepPot
        With a model of any kind.

    Returns
    -------
    list[Feature]
        In the order of the columns of ``fparam``; empty for models that are not of this package.
    """
    dimension = getattr(potential, "get_dim_fparam", None)
    if dimension is None or dimension() == 0:
        return []
    model = getattr(potential.deep_eval, "_dpmodel", None)  # of exported files
    if model is not None:
        return list(getattr(getattr(model, "config", None), "quantities", []))
    return quantities_of(potential.deep_eval.get_model_def_script())


def frame_values(info: dict[str, Any], features: list[Feature]) -> np.ndarray | None:
    """Values of a structure.

    Parameters
    ----------
    info : dict[str, Any]
        ``atoms.info`` of ASE, or what a file says about a frame.
    features : list[Feature]
        The quantities.

    Returns
    -------
    numpy.ndarray or None
        ``fparam``, float64, shape (nquantity,); None if the structure says nothing about any of them.

    Raises
    ------
    ValueError
        If ``fparam`` and other keys say different things, a quantity without default is missing, or a value is none that
        it can have.
    """
    found = [value_in(info, feature) for feature in features]
    given = info.get("fparam")
    if all(value is None for value in found):
        return None if given is None else np.asarray(given, dtype=np.float64).reshape(-1)
    missing = [
        feature.name
        for feature, value in zip(features, found, strict=True)
        if value is None and feature.default is None
    ]
    if missing:
        raise ValueError(
            f"mace model: the energy also depends on {', '.join(missing)}, which atoms.info does not have and which has no "
            "default. Give all of them, or fparam."
        )
    values = [
        feature.default if value is None else value for feature, value in zip(features, found, strict=True)
    ]
    for feature, value in zip(features, values, strict=True):
        if value is not None and not feature.accepts(value):
            raise ValueError(
                f"mace model: {feature.name} in atoms.info is {value:g}, but must be {feature.allowed}."
            )
    result = np.array(values, dtype=np.float64)
    if given is not None and not np.array_equal(np.asarray(given, dtype=np.float64).reshape(-1), result):
        raise ValueError(
            f"mace model: atoms.info has fparam {np.asarray(given).tolist()} and, by other keys, {result.tolist()} for "
            f"{', '.join(feature.name for feature in features)}. Keep one."
        )
    return result
