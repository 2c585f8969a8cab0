"""Files of the other plugin with the name deepmd-gnn, 0.1 and 0.2, as plain data.

Such a model keeps the module of native MACE or of the package nequip: checkpoints hold its weights, frozen files the module with
its settings.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepmd_gnn.files.archives import FileError, opened, without_end_refused
from deepmd_gnn.files.native_file import NativeModule, NotConvertible
from deepmd_gnn.files.plugin_marks import NAME, plugin_kind
from deepmd_gnn.files.safe_pickle import Record, TorchFile


@dataclass(frozen=True)
class PluginModel:
    """One model of a file; a multi-task checkpoint holds several."""

    section: dict[str, Any]
    """The model section of the input; empty in a frozen file that was not trained (``mace-off convert``)."""
    module: NativeModule
    """Native MACE's module, or the package nequip's: of a checkpoint its weights only, of a frozen file also its settings."""
    type_map: list[str]
    """Names of the types, MM types among them."""
    sel: int | None
    """How many neighbours of an atom are kept, which a model that was not converted divides its messages by (NequIP: by its root)."""
    shifts: torch.Tensor | None = None
    """Of NequIP: what is added to its energies, eV, shape (ntypes,)."""


@dataclass(frozen=True)
class PluginFile:
    """Content of a file of the other plugin."""

    kind: str
    """``"pt"`` or ``"pth"``."""
    type: str
    """``"mace"``, ``"nequip"``, or what else a checkpoint names."""
    models: dict[str, PluginModel]
    """By head; ``"Default"`` where there are no heads. Empty for other types, and for several in one file."""


def read_plugin_file(path: str | Path) -> PluginFile | None:
    """Read a file of the other plugin; nothing in it is executed.

    Parameters
    ----------
    path : str or Path
        Any file.

    Returns
    -------
    PluginFile or None
        None if it is a file of another kind, or none of PyTorch.

    Raises
    ------
    NotConvertible
        If it is one, but not built as the plugin builds them.
    """
    path = Path(path)
    try:
        with opened(path) as archive:  # a large native file is not to be unpickled twice
            kind = plugin_kind(archive)
    except (FileError, FileNotFoundError):  # who reads it next says what is wrong with it
        return None
    if kind is None:
        return None
    file = TorchFile(path)
    with without_end_refused(path):
        return _frozen(file) if kind == "pth" else _checkpoint(path, file.content)


def _frozen(file: TorchFile) -> PluginFile:
    module = NativeModule(file.content)
    if "model" not in module.children:
        raise NotConvertible(f"{file.path} has no network of a model of {NAME}. Not converted.")
    kind = "mace" if module.qualname.startswith("__torch__.deepmd_gnn.mace.") else "nequip"
    section = json.loads(module.settings.get("model_def_script") or "{}")
    type_map = [str(name) for name in module.settings.get("type_map") or section.get("type_map") or []]
    module["model"].code = file.code
    model = PluginModel(section, module["model"], type_map, _sel(module.settings), module.tensors.get("e0"))
    return PluginFile("pth", kind, {"Default": model})


def _checkpoint(path: Path, content: Any) -> PluginFile:
    state = content.get("model", content)
    params = state["_extra_state"]["model_params"]
    sections = params.get("model_dict") or {"Default": params}
    kinds = {str(section.get("type")) for section in sections.values()}
    if kinds not in ({"mace"}, {"nequip"}):
        return PluginFile("pt", " and ".join(sorted(kinds)), {})
    models = {
        head: PluginModel(
            section,
            _module(path, _below(state, f"model.{head}.")),
            [str(n) for n in section["type_map"]],
            _sel(section),
            _below(state, f"model.{head}.").get("e0"),
        )
        for head, section in sections.items()
    }
    return PluginFile("pt", kinds.pop(), models)


def _sel(settings: dict[str, Any]) -> int | None:
    sel = settings.get("sel")
    sel = sel[0] if isinstance(sel, list) and len(sel) == 1 else sel
    return sel if isinstance(sel, int) and not isinstance(sel, bool) and sel > 0 else None


def _below(state: dict[Any, Any], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(prefix) and isinstance(value, torch.Tensor)
    }


def _module(path: Path, tensors: dict[str, torch.Tensor]) -> NativeModule:
    """A tree of modules from the names of their tensors; e3nn's own constants, which begin with ``_``, are left out."""
    root = _record()
    for name, tensor in tensors.items():
        *places, last = name.split(".")
        if places[:1] != ["model"] or any(place.startswith("_") for place in (*places, last)):
            continue
        record = root
        for place in places[1:]:
            record = record.state["_modules"].setdefault(place, _record())
        record.state["_parameters"][last] = tensor
    if not root.state["_modules"]:
        raise NotConvertible(f"{path} has no weights of a model of {NAME}. Not converted.")
    return NativeModule(root)


def _record() -> Record:
    record = Record()
    record.state = {"_modules": {}, "_parameters": {}}
    return record
