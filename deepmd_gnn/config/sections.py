"""The second spelling of a model section: ``descriptor`` and ``fitting_net``, which multi-task training can share.

No torch here: DeePMD-kit reads the schema in every ``dp`` process.
"""

import dataclasses
from typing import Any

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.networks import Config


def sections_of(network: type[Config]) -> dict[str, tuple[str, ...]]:
    """Options of each section of a network's model section."""
    own = network.__annotations__  # before those of a class that it comes from
    names = sorted((option.name for option in dataclasses.fields(network)), key=lambda name: name not in own)
    return {
        "descriptor": tuple(name for name in names if name not in network.fitting),
        "fitting_net": (*network.fitting, "seed"),
    }


SECTIONS = sections_of(MaceConfig)


def _types(section: str, network: type[Config]) -> tuple[str, ...]:
    """Types that a section may have; the host's default fitting is "ener"."""
    return (network.kind,) if section == "descriptor" else ("ener", network.kind)


def canonical_names(network: type[Config] = MaceConfig) -> dict[str, str]:
    """Every spelling of an option → its name."""
    names: dict[str, str] = {}
    for option in dataclasses.fields(network):
        names.update(dict.fromkeys((option.name, *option.metadata["alias"]), option.name))
    return names


def flatten(options: dict[str, Any], network: type[Config] = MaceConfig) -> dict[str, Any]:
    """Merge the sections ``descriptor`` and ``fitting_net`` of a model section into it.

    Parameters
    ----------
    options : dict[str, Any]
        A model section in either spelling.
    network : type
        Options of its network.

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
            _merge(flat, section, dict(content), network)
    return flat


def _merge(flat: dict[str, Any], section: str, content: dict[str, Any], network: type[Config]) -> None:
    names, types, known = canonical_names(network), _types(section, network), sections_of(network)[section]
    kind = content.pop("type", types[0])
    if kind not in types:
        raise ValueError(
            f"mace model: '{section}' has type {kind!r}, but must have {' or '.join(map(repr, types))}."
        )
    if not content.pop("trainable", True):
        frozen = network.parts if section == "descriptor" else ("readouts",)
        if flat.get("embeddings") or content.get("embeddings"):
            frozen += ("joint_embedding",) if section == "descriptor" else ()
        flat["freeze"] = [*(flat.get("freeze") or []), *frozen]
    for key, value in content.items():
        if key.startswith("_"):
            continue
        name = names.get(key)
        if name is None or name not in known:
            raise ValueError(f"mace model: '{key}' is no key of '{section}'. Its keys: {', '.join(known)}.")
        if name == "seed":  # one stream of random numbers: seeds of all places together
            flat["seed"] = _one_or_all(_seeds(flat.get("seed")) + _seeds(value))
            continue
        spelling = next((k for k in flat if names.get(k) == name), name)
        if spelling not in flat or is_default(name, flat[spelling], network):
            flat[spelling] = value
        elif not is_default(name, value, network) and value != flat[spelling]:
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


def is_default(name: str, value: Any, network: type[Config] = MaceConfig) -> bool:
    """Whether an option has the value it has when it is left out; False for what is no option of the network."""
    option = next((o for o in dataclasses.fields(network) if o.name == name), None)
    if option is None:
        return False
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
