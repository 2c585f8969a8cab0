"""Options of MACE as a descriptor in DeePMD-kit's own models: those of the model that make node features. No torch here."""

import dataclasses
from typing import Any

from deepmd_gnn.config import checks
from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.config.mm_types import is_mm
from deepmd_gnn.config.sections import canonical_names, is_default, sections_of

KIND = "mace descriptor"
# The host's list has no more columns, so that there is room for more neighbours than the training data has.
DEFAULT_SEL = "auto:2"
SEL_DOC = (
    'Most neighbours within r_max that an atom may have: a number, "auto:factor" times what the training data has, or "auto" (1.1). '
    "An atom with more is an error, never cut off."
)
# Of MaceConfig, but not here: what to do instead.
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        MaceConfig.fitting,
        'it reads energies off the features, which DeePMD-kit\'s fitting_net does here; it is a key of "type": "mace"',
    ),
    "scale": 'energies are scaled by DeePMD-kit\'s fitting_net here; it is a key of "type": "mace"',
    "atomic_energies": 'write "preset_out_bias": {"energy": [...]} into the model section, or use "type": "mace"',
    "pair_repulsion": 'it is an energy, not a feature; use "type": "mace", or DeePMD-kit\'s use_srtab',
    "embeddings": 'DeePMD-kit does not hand fparam to a descriptor; use "type": "mace", or numb_fparam of the fitting_net',
    **dict.fromkeys(
        ("use_total_charge_embedding", "embed_activation"),
        'DeePMD-kit does not hand fparam to a descriptor; use "type": "mace", or numb_fparam of the fitting_net',
    ),
    "enable_cueq": 'it trains "type": "mace" only; leave it out',
}
KEYS = tuple(name for name in sections_of(MaceConfig)["descriptor"] if name not in REFUSED)
# Of the host: it hands these to every descriptor.
_HOST_KEYS = ("type", "ntypes", "type_map", "trainable", "exclude_types")


def descriptor_config(options: dict[str, Any]) -> MaceConfig:
    """Make the configuration of a ``descriptor`` section.

    Parameters
    ----------
    options : dict[str, Any]
        The section, or the host's arguments of a descriptor.

    Returns
    -------
    MaceConfig
        What belongs to energies has its defaults.

    Raises
    ------
    ValueError
        If a key is unknown, refused or given in two spellings, or a value is out of range.
    """
    names = canonical_names(MaceConfig)
    given: dict[str, Any] = {"sel": DEFAULT_SEL}
    spellings: dict[str, str] = {}
    for key, value in options.items():
        if key in _HOST_KEYS or key.startswith("_"):
            continue
        name = names.get(key)
        if name in REFUSED:
            if not is_default(name, value):
                refuse(key, name)
            continue
        if name is None:
            raise ValueError(f"{KIND}: unknown key '{key}'. Known keys: {', '.join(KEYS)}.")
        if name in spellings:
            raise ValueError(f"{KIND}: '{key}' and '{spellings[name]}' are the same; keep one.")
        spellings[name] = key
        given[name] = value
    try:
        return MaceConfig(**given)
    except ValueError as error:
        raise ValueError(str(error).replace("mace model:", f"{KIND}:", 1)) from None


def refuse(key: str, name: str) -> None:
    """Raise the error for a key that a descriptor does not have; `name` is its name in :data:`REFUSED`."""
    raise ValueError(f"{KIND}: '{key}' is no key of a descriptor: {REFUSED[name]}.")


def check_elements(type_map: list[str]) -> None:
    """Refuse MM types, which need a lone atom without energy.

    Parameters
    ----------
    type_map : list[str]
        Of the model.

    Raises
    ------
    ValueError
        If there are any.
    """
    found = [name for name in type_map if is_mm(name)]
    if found:
        raise ValueError(
            f"{KIND}: type_map has the MM types {', '.join(found)}, but a fitting_net gives atoms without neighbours an "
            'energy. Use "type": "mace" for range corrections.'
        )


def place_of_vectors(config: MaceConfig) -> list[int]:
    """Where the features have vectors; scalars (0e) are the first component of every layer.

    Parameters
    ----------
    config : MaceConfig
        Architecture.

    Returns
    -------
    list[int]
        First component of the vectors (1o; 1e with ``use_so3``) of each layer, −1 where it has none.
    """
    parity = "e" if config.use_so3 else "o"
    place, begin = -1, 0
    for _, ell, sign in checks.parse_irreps(str(config.hidden_irreps)):
        if (ell, sign) == (1, parity):
            place = begin
        begin += 2 * ell + 1
    places = [place] * config.num_interactions
    # A single layer has scalars only in native MACE, whatever is to be kept.
    if config.num_interactions == 1 or not config.keep_last_layer_irreps:
        places[-1] = -1
    return places


def plain_options(config: MaceConfig) -> dict[str, Any]:
    """Keys that rebuild the configuration of a descriptor, plain values only."""
    return {key: value for key, value in config.to_dict().items() if key in KEYS}


def architecture(config: MaceConfig) -> dict[str, Any]:
    """What two descriptors that share their weights must have in common."""
    free = ("sel", "seed", "freeze", "avg_num_neighbors")
    return {key: value for key, value in config.comparable().items() if key in KEYS and key not in free}


def fields() -> list["dataclasses.Field[Any]"]:
    """Options of the section, in the order of the model's, with their own defaults."""
    return [option for option in dataclasses.fields(MaceConfig) if option.name in KEYS]
