"""Checks of single options: each raises ValueError that names key, value and what is allowed."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from deepmd_gnn.config.embeddings import features

INTERACTIONS = tuple(
    f"RealAgnostic{kind}InteractionBlock"
    for kind in ("", "Residual", "AttResidual", "Density", "DensityResidual", "ResidualNonLinear")
)
# In the names of blocks whose messages do not vanish with the radial features: their biases and soft maxima stay.
UNBOUNDED = ("Att", "NonLinear")
READOUTS = ("NonLinearReadoutBlock", "NonLinearBiasReadoutBlock")
GATES = ("silu", "tanh", "abs", "elu", "relu", "sigmoid", "None")
RADIAL_TYPES = ("bessel", "gaussian")
DISTANCE_TRANSFORMS = ("None", "Agnesi", "Soft", "OldSoft")
PRECISIONS = {
    "float64": "float64",
    "double": "float64",
    "default": "float64",
    "float32": "float32",
    "single": "float32",
}
_IRREP = re.compile(r"(?:(\d+)x)?(\d+)([eo])")


def parse_irreps(text: str) -> list[tuple[int, int, str]]:
    """Split irreps such as ``"64x0e + 64x1o"`` into (multiplicity, l, parity).

    Parameters
    ----------
    text : str
        Irreps in e3nn's notation.

    Returns
    -------
    list[tuple[int, int, str]]
        One entry per term; parity is ``"e"`` or ``"o"``.

    Raises
    ------
    ValueError
        If a term is not of the form ``{multiplicity}x{l}{e|o}``.
    """
    terms = []
    for term in str(text).split("+"):
        match = _IRREP.fullmatch(term.strip().replace(" ", ""))
        if match is None:
            raise ValueError(f"'{term.strip()}' is not an irrep like 64x0e or 64x1o")
        terms.append((int(match[1] or 1), int(match[2]), match[3]))
    return terms


def spelled(irreps: str) -> str:
    """One spelling of irreps."""
    return " + ".join(f"{mul}x{ell}{parity}" for mul, ell, parity in parse_irreps(irreps))


def fail(key: str, value: Any, allowed: str, hint: str = "", model: str = "mace") -> NoReturn:
    """Raise the error for a bad value: names the key, the value and what is allowed."""
    raise ValueError(f"{model} model: '{key}' is {value!r}, but must be {allowed}.{hint}")


def is_unbounded(blocks: Iterable[Any]) -> bool:
    """Whether one of some interaction blocks, by name, is of :data:`UNBOUNDED`."""
    return any(word in str(block) for word in UNBOUNDED for block in blocks)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def integer(low: int, high: int | None = None) -> Callable[[str, Any], None]:
    """Make a check for whole numbers in a range."""
    allowed = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"

    def check(key: str, value: Any) -> None:
        if not _is_int(value) or value < low or (high is not None and value > high):
            fail(key, value, allowed)

    return check


def choice(*choices: str) -> Callable[[str, Any], None]:
    """Make a check for one of some words."""

    def check(key: str, value: Any) -> None:
        if value not in choices:
            fail(key, value, "one of " + ", ".join(choices))

    return check


def optional(check: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    """Make a check that lets None pass."""

    def check_unless_none(key: str, value: Any) -> None:
        if value is not None:
            check(key, value)

    return check_unless_none


def positive(key: str, value: Any) -> None:
    """A number above 0."""
    if not _is_number(value) or value <= 0:
        fail(key, value, "a number above 0")


def at_least(low: float) -> Callable[[str, Any], None]:
    """Make a check for numbers from a lowest one on."""

    def check(key: str, value: Any) -> None:
        if not _is_number(value) or value < low:
            fail(key, value, f"a number of at least {low:g}")

    return check


def positive_or_auto(key: str, value: Any) -> None:
    """A number above 0, ``"auto"`` or None."""
    if value is not None and value != "auto" and (not _is_number(value) or value <= 0):
        fail(key, value, 'a number above 0 or "auto" (from the training data)')


def boolean(key: str, value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        fail(key, value, "true or false")


def sel(key: str, value: Any) -> None:
    """A number of neighbours, or ``"auto"`` with or without a factor."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if _is_int(value) and value > 0:
        return
    if isinstance(value, str) and re.fullmatch(r"auto(:\d+(\.\d+)?)?", value):
        return
    fail(key, value, 'a number of neighbours above 0, "auto" or "auto:factor"')


def interaction(key: str, value: Any) -> None:
    """One of :data:`INTERACTIONS`, perhaps short."""
    if canonical_interaction(value) not in INTERACTIONS:
        fail(key, value, "one of " + ", ".join(INTERACTIONS))


def hidden_irreps(key: str, value: Any) -> None:
    """Irreps of features: scalars first, one multiplicity, each l and parity once."""
    try:
        terms = parse_irreps(value)
    except ValueError as error:
        fail(key, value, f'irreps like "128x0e + 128x1o" ({error})')
    if terms[0][1:] != (0, "e"):
        fail(key, value, 'irreps that begin with scalars, like "128x0e + 128x1o"')
    if len({mul for mul, _, _ in terms}) > 1 or terms[0][0] == 0:
        fail(key, value, "irreps with one multiplicity (the number of channels) for all l")
    if len({term[1:] for term in terms}) < len(terms):
        fail(key, value, "irreps that name each l and parity once")


def mlp_irreps(key: str, value: Any) -> None:
    """Scalars."""
    try:
        terms = parse_irreps(value)
    except ValueError as error:
        fail(key, value, f'scalars like "16x0e" ({error})')
    if len(terms) != 1 or terms[0][1:] != (0, "e") or terms[0][0] == 0:
        fail(key, value, 'scalars like "16x0e"')


def integers(key: str, value: Any) -> None:
    """A non-empty list of integers above 0."""
    if not isinstance(value, (list, tuple)) or not value or not all(_is_int(v) and v > 0 for v in value):
        fail(key, value, "a non-empty list of integers above 0")


def correlation(key: str, value: Any) -> None:
    """An integer, or one per layer."""
    if isinstance(value, (list, tuple)):
        integers(key, value)
    elif not _is_int(value) or value < 1:
        fail(key, value, "an integer of at least 1, or a list with one per layer")


def atomic_energies(key: str, value: Any) -> None:
    """``"auto"``, a file, or energies by element or in the order of the type map."""
    if value in (None, "auto") or (isinstance(value, str) and ("." in value or "/" in value)):
        return  # files are looked for when they are read
    values = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)) or not all(v is None or _is_number(v) for v in values):
        fail(
            key,
            value,
            '"auto" (least squares), a dict like {"H": -13.6}, a list in the order of type_map or a file, in eV',
        )


def embeddings(key: str, value: Any) -> None:
    """Quantities of a frame, see :mod:`~deepmd_gnn.config.embeddings`."""
    try:
        features(value)
    except ValueError as error:
        fail(key, value, str(error))


def names_of_parts(key: str, value: Any) -> None:
    """None, or names."""
    if value is not None and not (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        fail(key, value, 'a list of parts of the network, e.g. ["node_embedding", "interactions.0"]')


def seed(key: str, value: Any) -> None:
    """One or several integers of at least 0."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not all(_is_int(v) and v >= 0 for v in values):
        fail(key, value, "an integer of at least 0")


def canonical_interaction(name: Any) -> Any:
    """Complete a short block name: ``"RealAgnosticResidual"`` means ``"RealAgnosticResidualInteractionBlock"``."""
    if isinstance(name, str) and not name.endswith("InteractionBlock"):
        return name + "InteractionBlock"
    return name
