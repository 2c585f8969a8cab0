"""Types of molecular-mechanics (MM) atoms in QM/MM models (DPRc). No torch here.

As in the existing plugin, a name of the type map that is an element behind an ``m`` (``mH``, ``mC``), ``HW`` or ``OW``
is an MM type. MM atoms do not see each other and have no energy of their own, so that the model corrects the energy of
the QM region and of its interaction with the MM atoms, and nothing else.
"""

_WATER = {"HW": "H", "OW": "O"}


def is_mm(name: str) -> bool:
    """Tell whether a name of the type map is an MM type."""
    return name in _WATER or (len(name) > 1 and name[0] == "m")


def element_of(name: str) -> str:
    """Chemical symbol of a type: ``H`` for ``H``, ``mH`` and ``HW``."""
    if name in _WATER:
        return _WATER[name]
    return name[1:] if is_mm(name) else name


def mm_pairs(type_map: list[str]) -> list[list[int]]:
    """Pairs of MM types, which do not see each other.

    Parameters
    ----------
    type_map : list[str]
        Names of the types.

    Returns
    -------
    list[list[int]]
        Indices, each pair once, a type with itself included.
    """
    mm = [index for index, name in enumerate(type_map) if is_mm(name)]
    return [[first, second] for place, first in enumerate(mm) for second in mm[place:]]
