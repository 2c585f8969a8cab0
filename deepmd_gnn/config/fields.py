"""How options are declared: as fields of a dataclass that know their types, check and documentation. No torch here."""

import dataclasses
from collections.abc import Callable
from typing import Any


def option(
    default: Any, types: list[Any], check: Callable[[str, Any], None], doc: str, alias: tuple[str, ...] = ()
) -> Any:
    """Declare an option.

    Parameters
    ----------
    default : Any
        Value if it is left out.
    types : list
        Types for the schema; None stands for itself.
    check : Callable
        Raises ValueError for a bad value, see :mod:`~deepmd_gnn.config.checks`.
    doc : str
        For the schema and the documentation.
    alias : tuple[str, ...]
        Other names.

    Returns
    -------
    Any
        A field of a dataclass.
    """
    metadata = {"types": types, "check": check, "doc": doc, "alias": alias}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
