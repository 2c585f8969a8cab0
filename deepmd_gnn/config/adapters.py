"""``adapters``, or ``lora``: matrices of low rank for fine-tuning. No torch here."""

from typing import Any, NamedTuple

from deepmd_gnn.config import checks

_KEYS = ("rank", "alpha", "parts")
# Everything that has linear maps without elements.
PARTS = ("interactions", "products", "readouts")


class Lora(NamedTuple):
    """What is trained instead of the weights themselves."""

    rank: int
    alpha: float
    """The change of a weight is this over the rank times the product of the two narrow matrices."""
    parts: tuple[str, ...]
    """Beginnings of the names of parameters, whole words between dots."""


def lora(value: Any) -> Lora | None:
    """Read the option.

    Parameters
    ----------
    value : dict, optional
        ``rank`` (default 4), ``alpha`` (default: the rank) and ``parts`` (default: all).

    Returns
    -------
    Lora or None
        None without the option.

    Raises
    ------
    ValueError
        Says what the option must be.
    """
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError('a dict, e.g. {"rank": 4, "alpha": 4, "parts": ["interactions", "readouts"]}')
    unknown = [key for key in value if key not in _KEYS and not key.startswith("_")]
    if unknown:
        raise ValueError(f"without {', '.join(map(repr, unknown))}; its keys are {', '.join(_KEYS)}")
    rank = value.get("rank", 4)
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"given with a 'rank' that is an integer of at least 1, not {rank!r}")
    alpha = value.get("alpha", rank)
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not 0 < alpha < float("inf"):
        raise ValueError(f"given with an 'alpha' that is a positive number, not {alpha!r}")
    parts = value.get("parts", list(PARTS))
    if not isinstance(parts, (list, tuple)) or not parts or not all(isinstance(p, str) for p in parts):
        raise ValueError(f"given with 'parts' that are names, e.g. {list(PARTS)}, not {parts!r}")
    return Lora(rank, float(alpha), tuple(parts))


def check(key: str, value: Any) -> None:
    """None, or a dict that :func:`lora` reads."""
    try:
        lora(value)
    except ValueError as error:
        checks.fail(key, value, str(error))
