"""Quantities of a whole frame that the energy depends on (charge, spin, temperature): the option ``embeddings``. No torch here."""

from collections.abc import Iterable
from typing import Any, NamedTuple

# Frames without a value have these, as in native MACE.
CHARGE = "total_charge"
DEFAULTS = {CHARGE: 0.0, "total_spin": 1.0, "elec_temp": 0.0}
# Keys of ASE's ``atoms.info`` besides the name itself, as of native MACE's calculator.
INFO_KEYS = {CHARGE: "charge", "total_spin": "spin"}
TYPES = ("categorical", "continuous")
_KEYS = (
    "name", "type", "per", "num_classes", "in_dim", "offset", "emb_dim", "use_bias", "default", "key",
)  # fmt: skip
_EXAMPLE = '{"total_charge": {"type": "categorical", "per": "graph", "num_classes": 21, "offset": 10, "emb_dim": 16}}'


class Feature(NamedTuple):
    """One quantity; its place among the features is its column in ``fparam``."""

    name: str
    type: str
    """``categorical`` or ``continuous``."""
    num_classes: int
    """Of a categorical quantity: values −offset … num_classes − 1 − offset."""
    offset: int
    emb_dim: int
    use_bias: bool
    default: float | None
    """Of a frame without value; None: every frame needs one."""
    key: str
    """In ``atoms.info``."""

    @property
    def allowed(self) -> str:
        """Which values there are, for messages."""
        if self.type == "continuous":
            return "a finite number"
        return f"a whole number from {-self.offset} to {self.num_classes - 1 - self.offset}"

    def accepts(self, value: float) -> bool:
        """Whether there is such a value."""
        if self.type == "continuous":
            return abs(value) < float("inf")
        return float(value).is_integer() and 0 <= value + self.offset < self.num_classes

    @property
    def stand_in(self) -> float:
        """A value where any will do: the default, else the first class or zero."""
        if self.default is not None:
            return self.default
        return 0.0 if self.type == "continuous" else float(-self.offset)

    def native(self) -> dict[str, Any]:
        """An entry of native MACE's ``embedding_specs``."""
        spec: dict[str, Any] = {"type": self.type, "per": "graph", "emb_dim": self.emb_dim}
        if self.key != self.name:
            spec["key"] = self.key
        if self.type == "categorical":
            return {**spec, "num_classes": self.num_classes, "offset": self.offset}
        return {**spec, "in_dim": 1, "use_bias": self.use_bias}


def _listed(value: Any) -> list[dict[str, Any]]:
    """Both spellings as a list, which keeps its order in every file."""
    if isinstance(value, dict) and all(isinstance(spec, dict) for spec in value.values()):
        return [{"name": name, **spec} for name, spec in value.items()]
    if isinstance(value, (list, tuple)) and all(isinstance(spec, dict) for spec in value):
        return [dict(spec) for spec in value]
    raise ValueError(f"a dict of quantities, e.g. {_EXAMPLE}")


def features(value: Any) -> list[Feature]:
    """Read the option.

    Parameters
    ----------
    value : dict or list, optional
        Quantities by name, as native MACE's ``embedding_specs``, or a list of the same with their names as ``name``.

    Returns
    -------
    list[Feature]
        In the order of the columns of ``fparam``; empty without the option.

    Raises
    ------
    ValueError
        Says what the option must be.
    """
    found = [] if value is None else [_feature(spec) for spec in _listed(value)]
    names = [feature.name for feature in found]
    if len(set(names)) < len(names):
        raise ValueError("a list that names each quantity once")
    return found


def _feature(spec: dict[str, Any]) -> Feature:
    name = spec.get("name")
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"given quantities with names of letters, digits and _, like total_charge; a name is {name!r}"
        )
    unknown = [key for key in spec if key not in _KEYS and not key.startswith("_")]
    if unknown:
        raise ValueError(f"without {', '.join(unknown)} in '{name}', whose keys are {', '.join(_KEYS[1:])}")
    _check_kind(spec, name)
    _check_sizes(spec, name)
    feature = Feature(
        name,
        spec["type"],
        spec.get("num_classes", 0),
        spec.get("offset", 0),
        spec["emb_dim"],
        spec.get("use_bias", True),
        _default(spec, name),
        spec.get("key") or name,
    )
    if feature.default is None or feature.accepts(feature.default):
        return feature
    if "default" in spec:
        raise ValueError(
            f"given with a 'default' in '{name}' that is {feature.allowed}, not {spec['default']!r}"
        )
    return feature._replace(default=None)


def _check_kind(spec: dict[str, Any], name: str) -> None:
    kind = spec.get("type")
    if kind not in TYPES:
        raise ValueError(f"given with 'type' {' or '.join(TYPES)} in '{name}', not {kind!r}")
    if spec.get("per", "graph") != "graph":
        raise ValueError(
            f"given with 'per' graph (one value for a frame) in '{name}', not {spec['per']!r}: quantities of "
            "atoms are not supported"
        )
    if spec.get("in_dim", 1) != 1 or (kind == "categorical" and "in_dim" in spec):
        raise ValueError(
            f"given with one number per quantity in '{name}' (in_dim 1, only of continuous ones); write a vector as several "
            "quantities"
        )
    if not isinstance(spec.get("use_bias", True), bool):
        raise ValueError(f"given with 'use_bias' true or false in '{name}', not {spec['use_bias']!r}")
    if not isinstance(spec.get("key", name), str):
        raise ValueError(f"given with a word as 'key' in '{name}', not {spec['key']!r}")


def _check_sizes(spec: dict[str, Any], name: str) -> None:
    needed = ("emb_dim", "num_classes") if spec["type"] == "categorical" else ("emb_dim",)
    for key, low in (("num_classes", 1), ("offset", 0), ("emb_dim", 1)):
        if key in spec and spec["type"] == "continuous" and key != "emb_dim":
            raise ValueError(f"without '{key}' in '{name}', which is continuous")
        number = spec.get(key)
        whole = isinstance(number, int) and not isinstance(number, bool) and number >= low
        if (key in needed or key in spec) and not whole:
            raise ValueError(f"given with '{key}' in '{name}', an integer of at least {low}, not {number!r}")


def _default(spec: dict[str, Any], name: str) -> float | None:
    value = spec.get("default", DEFAULTS.get(name))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"given with a number or null as 'default' in '{name}', not {value!r}")
    return float(value)


def plain(found: Iterable[Feature]) -> list[dict[str, Any]]:
    """One spelling of the option for equal models: a list of complete entries."""
    return [
        {
            "name": feature.name,
            **feature.native(),
            "default": feature.default,
            "key": feature.key,
        }
        for feature in found
    ]


def value_in(info: dict[str, Any], feature: Feature) -> float | None:
    """Look a quantity up in ``atoms.info`` of ASE; None if it is not there.

    Parameters
    ----------
    info : dict[str, Any]
        Of a structure.
    feature : Feature
        The quantity.

    Returns
    -------
    float or None

    Raises
    ------
    ValueError
        If two keys for it have different values, or the value is no number.
    """
    keys = dict.fromkeys([feature.key, feature.name, INFO_KEYS.get(feature.name, feature.name)])
    given = {key: info[key] for key in keys if info.get(key) is not None}
    try:
        values = {key: float(value) for key, value in given.items()}
    except (TypeError, ValueError):
        raise ValueError(
            f"mace model: {feature.name} in atoms.info must be {feature.allowed}, but is {given}."
        ) from None
    if len(set(values.values())) > 1:
        raise ValueError(
            f"mace model: atoms.info has several values of {feature.name}: {values}. Keep one of these keys."
        )
    return next(iter(values.values()), None)
