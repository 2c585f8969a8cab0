"""The second spelling of a model section: ``descriptor`` and ``fitting_net``, which multi-task training can share.

No torch here: DeePMD-kit reads the schema in every ``dp`` process.
"""

import dataclasses
from typing import Any

from deepmd_gnn.config.mace import MaceConfig

# What turns node features into energies; everything else makes the features.
FITTING_OPTIONS = ("MLP_irreps", "gate", "readout_cls", "use_last_readout_only", "scale", "atomic_energies")
SECTIONS = {
    "descriptor": tuple(o.name for o in dataclasses.fields(MaceConfig) if o.name not in FITTING_OPTIONS),
    "fitting_net": (*FITTING_OPTIONS, "seed"),
}
# Names of each section for a model of this type; the host's default fitting is "ener".
_TYPES = {"descriptor": ("mace",), "fitting_net": ("ener", "mace")}
# Parts of the network that a section's "trainable": false freezes.
_FROZEN = {
    "descriptor": ["node_embedding", "interactions", "products"],
    "fitting_net": ["readouts"],
}


def canonical_names() -> dict[str, str]:
    """Every spelling of an option → its name."""
    names: dict[str, str] = {}
    for option in dataclasses.fields(MaceConfig):
        names.update(dict.fromkeys((option.name, *option.metadata["alias"]), option.name))
    return names


def flatten(options: dict[str, Any]) -> dict[str, Any]:
    """Merge the sections ``descriptor`` and ``fitting_net`` of a model section into it.

    Parameters
    ----------
    options : dict[str, Any]
        A model section in either spelling.

    Returns
    -------
    dict[str, Any]
        The same without these sections. Where the schema has filled in a default and another place sets a value,
        the value that is set wins.

    Raises
    ------
    ValueError
        If a section has another type or an option that belongs elsewhere, or two places contradict each other.
    """
    flat = {key: value for key, value in options.items() if key not in SECTIONS}
    for section in SECTIONS:
        content = options.get(section)
        if content:
            _merge(flat, section, dict(content))
    return flat


def _merge(flat: dict[str, Any], section: str, content: dict[str, Any]) -> None:
    names = canonical_names()
    kind = content.pop("type", _TYPES[section][0])
    if kind not in _TYPES[section]:
        raise ValueError(
            f"mace model: '{section}' has type {kind!r}, but must have {' or '.join(map(repr, _TYPES[section]))}."
        )
    if not content.pop("trainable", True):
        flat["freeze"] = [*(flat.get("freeze") or []), *_FROZEN[section]]
    for key, value in content.items():
        if key.startswith("_"):
            continue
        name = names.get(key)
        if name is None or name not in SECTIONS[section]:
            raise ValueError(
                f"mace model: '{key}' is no key of '{section}'. Its keys: {', '.join(SECTIONS[section])}."
            )
        if name == "seed":  # one stream of random numbers: seeds of all places together
            flat["seed"] = _one_or_all(_seeds(flat.get("seed")) + _seeds(value))
            continue
        spelling = next((k for k in flat if names.get(k) == name), name)
        if spelling not in flat or is_default(name, flat[spelling]):
            flat[spelling] = value
        elif not is_default(name, value) and value != flat[spelling]:
            raise ValueError(
                f"mace model: '{name}' is {flat[spelling]!r} in the model section and {value!r} in its '{section}'; "
                "keep one."
            )


def _seeds(value: Any) -> list[int]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _one_or_all(seeds: list[int]) -> int | list[int] | None:
    return (seeds if len(seeds) > 1 else seeds[0]) if seeds else None


def is_default(name: str, value: Any) -> bool:
    """Whether an option has the value it has when it is left out."""
    option = next(o for o in dataclasses.fields(MaceConfig) if o.name == name)
    if option.default_factory is not dataclasses.MISSING:
        return bool(value == option.default_factory())
    return bool(value == option.default)


def set_sel(section: dict[str, Any], sel: int) -> dict[str, Any]:
    """Write the number of neighbours found in the data where it overrides what was there.

    Parameters
    ----------
    section : dict[str, Any]
        A model section in either spelling.
    sel : int
        Neighbours.

    Returns
    -------
    dict[str, Any]
        A changed copy.
    """
    if not section.get("descriptor"):
        return {**section, "sel": sel}
    rest = {key: value for key, value in section.items() if key != "sel"}
    return {**rest, "descriptor": {**section["descriptor"], "sel": sel}}
