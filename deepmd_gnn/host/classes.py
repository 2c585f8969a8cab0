"""The classes of our models by the type of their section; :mod:`~deepmd_gnn.host.registry` fills the table."""

from typing import Any

_classes: dict[str, type[Any]] = {}


def add(type_name: str, model_class: type[Any]) -> None:
    """Enter a class."""
    _classes[type_name] = model_class


def find(type_name: Any) -> type[Any] | None:
    """Class of a model by the type of its section; None for other models than ours."""
    return _classes.get(type_name) if isinstance(type_name, str) else None


def all_classes() -> dict[str, type[Any]]:
    """All classes by type."""
    return dict(_classes)


def model_of(data: dict[str, Any]) -> Any:
    """Rebuild one of our models from its serialised form."""
    model_class = find(data.get("type"))
    if model_class is None:
        raise ValueError(f"mace model: no model of type {data.get('type')!r} is registered.")
    return model_class.deserialize(data)


def is_ours(section: Any) -> bool:
    """Whether a model section, or a serialised model, is of one of our models."""
    return isinstance(section, dict) and find(section.get("type")) is not None
