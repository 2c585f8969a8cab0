"""Files of the other plugin with the name deepmd-gnn, 0.1 and 0.2: told from ours, and read as plain data.

Such a model keeps native MACE's module as ``model``, ours keeps ``energy_model``. Checkpoints hold its weights, frozen
files the module with its settings.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepmd_gnn.files.archives import FileError, opened
from deepmd_gnn.files.native_file import NativeModule, NotConvertible
from deepmd_gnn.files.safe_pickle import Record, TorchFile

NAME = "deepmd-gnn 0.x"
"""What the other plugin is called in messages."""

_MARKS = (b"model_params", b"deepmd_gnn")
_TYPES = ("mace", "nequip")


@dataclass(frozen=True)
class PluginModel:
    """One model of a file; a multi-task checkpoint holds several."""

    section: dict[str, Any]
    """The model section of the input; empty in a frozen file that was not trained (``mace-off convert``)."""
    module: NativeModule
    """Native MACE's module: of a checkpoint its weights only, of a frozen file also its settings."""
    type_map: list[str]
    """Names of the types, MM types among them."""


@dataclass(frozen=True)
class PluginFile:
    """Content of a file of the other plugin."""

    kind: str
    """``"pt"`` or ``"pth"``."""
    type: str
    """``"mace"`` or ``"nequip"``."""
    models: dict[str, PluginModel]
    """By head; ``"Default"`` where there are no heads. Empty for NequIP."""


def holds_plugin_weights(names: Iterable[str]) -> bool:
    """Whether names of the tensors of a model, without prefix, are those of the other plugin."""
    begin = {name.split(".", 1)[0] for name in names}
    return "model" in begin and not begin & {"energy_model", "descriptor", "fitting_net"}


def is_plugin_module(module: NativeModule) -> bool:
    """Whether the outermost module of a TorchScript file is a model of the other plugin."""
    home = module.qualname.removeprefix("__torch__.").split(".")[0]
    return home == "deepmd_gnn" and "model" in module.children and "energy_model" not in module.children


def advice(path: Path, kind: str) -> str:
    """What to do with a file of the other plugin, for users who want to use it as if it were ours."""
    what = {"pt": "checkpoint", "pth": "frozen model"}.get(kind, "file")
    return (
        f"{path}: is a {what} of {NAME}, the other plugin of this name. It is intact; convert it first: "
        f"`deepmd-gnn convert {path.name} -o NEW.pt` (to train on) or `-o NEW.pth` (to run)."
    )


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
        # A large native file is not to be read twice.
        with opened(path) as archive:
            names = [name for name in archive.names if name.count("/") == 1 and name.endswith("/data.pkl")]
            if not any(mark in archive.read(name) for name in names for mark in _MARKS):
                return None
        file = TorchFile(path)
    except FileError:  # who reads it next says what is wrong with it
        return None
    content = file.content
    if isinstance(content, Record):
        return _frozen(path, content, file.code)
    return _checkpoint(path, content) if isinstance(content, dict) else None


def _frozen(path: Path, content: Record, code: dict[str, str]) -> PluginFile | None:
    if not isinstance(content.state, dict):
        return None
    try:
        module = NativeModule(content)
    except RecursionError as error:
        raise FileError(f"{path} contains itself; it is damaged.") from error
    if not is_plugin_module(module):
        return None
    if "mace" not in module.qualname:
        return PluginFile("pth", "nequip", {})
    section = json.loads(module.settings.get("model_def_script") or "{}")
    type_map = [str(name) for name in module.settings.get("type_map") or section.get("type_map") or []]
    module["model"].code = code
    return PluginFile("pth", "mace", {"Default": PluginModel(section, module["model"], type_map)})


def _checkpoint(path: Path, content: dict[Any, Any]) -> PluginFile | None:
    state = content.get("model", content)
    extra = state.get("_extra_state") if isinstance(state, dict) else None
    params = extra.get("model_params") if isinstance(extra, dict) else None
    if not isinstance(params, dict):
        return None
    sections = params.get("model_dict") or {"Default": params}
    weights = {head: _below(state, f"model.{head}.") for head in sections}
    kinds = {str(section.get("type")) for section in sections.values()}
    if not kinds & set(_TYPES) or not any(holds_plugin_weights(tensors) for tensors in weights.values()):
        return None
    if kinds != {"mace"}:
        return PluginFile("pt", "nequip" if kinds == {"nequip"} else " and ".join(sorted(kinds)), {})
    return PluginFile(
        "pt",
        "mace",
        {
            head: PluginModel(section, _module(path, weights[head]), [str(n) for n in section["type_map"]])
            for head, section in sections.items()
        },
    )


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
