"""How options are declared: as fields of a dataclass that know their types, check and documentation. No torch here."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from deepmd_gnn.config.checks import PRECISIONS


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


def renamed(error: ValueError, kind: str) -> ValueError:
    """The error of a check that all networks share, with the type of the model that it is about."""
    return ValueError(str(error).replace("mace model:", f"{kind} model:", 1))


def check_value(option: "dataclasses.Field[Any]", kind: str, value: Any) -> None:
    """Check the value of an option; the message names the type of the model, the key, the value and what is allowed."""
    try:
        option.metadata["check"](option.name, value)
    except ValueError as error:
        raise renamed(error, kind) from None


class Options:
    """What the options of all networks have in common; a subclass is a frozen dataclass of fields from :func:`option`."""

    kind: ClassVar[str]
    precision: str
    sel: Any

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            try:
                check_value(one, self.kind, getattr(self, one.name))
            except ValueError as error:
                raise ValueError(f"{error}{self.hint(one.name)}") from None
        self._set("precision", PRECISIONS[self.precision])
        for key in ("avg_num_neighbors", "atomic_energies", "scale"):
            if getattr(self, key) is None:
                self._set(key, "auto")
        if isinstance(self.sel, list):
            self._set("sel", self.sel[0])

    def hint(self, key: str) -> str:  # noqa: ARG002 - for subclasses
        """What to add to the message about an option."""
        return ""

    def comparable(self) -> dict[str, Any]:
        """Values of options, one spelling for equal models."""
        return dict(vars(self))

    def _set(self, key: str, value: Any) -> None:
        object.__setattr__(self, key, value)
