"""What a model file says about itself, read without building or running the model.

The kind is told by the content: a checkpoint (``.pt``), TorchScript (``.pth``), a compiled library (``.pt2``) or
an exported program (``.pte``); each is a zip archive.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepmd_gnn.files.archives import Archive, FileError, opened
from deepmd_gnn.files.plugin_marks import advice, plugin_kind
from deepmd_gnn.files.programs import check_program
from deepmd_gnn.files.tensor_names import model_name

if TYPE_CHECKING:
    import torch

KINDS = {
    "pt": "checkpoint (.pt)",
    "pth": "frozen model (.pth)",
    "pt2": "frozen model, compiled (.pt2)",
    "pte": "frozen model, exported (.pte)",
}
_READABLE = "deepmd-gnn reads checkpoints (.pt) and frozen models (.pth, .pt2, .pte) of DeePMD-kit"

# Types that torch's weights-only reader admits beside tensors; none of them does anything.
_PLAIN = ("torch.device", "collections.defaultdict", "collections.Counter", "__builtin__.set", "builtins.set")
_NUMBERS = ("float64", "float32", "int64", "int32", "bool", "uint8", "int8", "int16")


class ModelFileError(FileError):
    """A file that cannot be read as a model; the message names the file, what was found and what to do."""


@dataclass(frozen=True)
class StoredModel:
    """One model of a file; a multi-task checkpoint holds several."""

    head: str | None
    """Name of the branch, None in files with one model."""
    section: dict[str, Any]
    """The model section of the input, or what the model says about itself."""
    state: dict[str, np.ndarray]
    """Weights and buffers by name."""


@dataclass(frozen=True)
class StoredFile:
    """Content of a model file."""

    path: Path
    kind: str
    """Key of :data:`KINDS`."""
    models: list[StoredModel]
    metadata: dict[str, Any] = field(default_factory=dict)
    """Of compiled and exported files: what DeePMD-kit tells its C++ interface."""
    versions: dict[str, str] | None = None
    """Packages that wrote the file, None if not recorded."""
    training: dict[str, Any] = field(default_factory=dict)
    """Of checkpoints: ``step``, ``optimizer`` and ``ema_decay``."""
    with_comm: bool = False
    """Whether a compiled file holds the second library, for several ranks."""
    compiled_for: dict[str, str] = field(default_factory=dict)
    """Of compiled files: torch's record of device and processor."""
    source: dict[str, str] | None = None
    """Of converted models: ``file``, ``sha256`` and ``head`` of the native file."""
    kernels: dict[str, Any] | None = None
    """Of compiled files with generated kernels: features that the CPU must have, size and errors of the tables."""


def read_model_file(path: Path) -> StoredFile:
    """Read a model file of any kind.

    Parameters
    ----------
    path : Path
        The file; its kind is told by its content.

    Returns
    -------
    StoredFile

    Raises
    ------
    ModelFileError
        If the file is not there, truncated, of unknown kind or not written by DeePMD-kit.
    """
    with opened(path, advice=f"{_READABLE}.") as archive:
        other = plugin_kind(archive)
        if other is not None:
            raise ModelFileError(advice(path, other))
        kind = file_kind(archive)
        read = {"pt": _read_pt, "pth": _read_pth, "pt2": _read_exported, "pte": _read_exported}[kind]
        try:
            return read(path, archive)
        except ModelFileError:
            raise
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelFileError(
                f"{path}: looks like a {KINDS[kind]}, but cannot be read ({reason[0]}). "
                "The file is probably damaged; write or copy it again."
            ) from error


def file_kind(archive: Archive) -> str:
    """Tell the kind of a file by its content.

    Parameters
    ----------
    archive : Archive
        The file.

    Returns
    -------
    str
        Key of :data:`KINDS`.

    Raises
    ------
    ModelFileError
        If it is no file of PyTorch.
    """
    if any("data/aotinductor/" in name for name in archive.names):
        return "pt2"
    if archive.ending("models/model.json"):
        return "pte"
    if archive.ending("data.pkl"):
        return "pth" if archive.ending("/constants.pkl") else "pt"
    raise ModelFileError(f"{archive.path}: is a zip archive, but not a PyTorch one. {_READABLE}.")


def _read_pt(path: Path, archive: Archive) -> StoredFile:  # noqa: ARG001
    from deepmd_gnn.files.safe_pickle import TorchFile, records_in

    content = TorchFile(path).content
    if any(record.qualname not in _PLAIN for record in records_in(content)):
        raise ModelFileError(
            f"{path}: holds Python objects, not only weights, so it was not written by `dp train`. "
            "A model saved by native MACE looks like this: convert it with `deepmd-gnn convert FILE -o OUT.pth`."
        )
    state = content.get("model", content) if isinstance(content, dict) else {}
    extra = state.get("_extra_state") if isinstance(state, dict) else None
    if not isinstance(extra, dict) or "model_params" not in extra:
        raise ModelFileError(
            f"{path}: is a PyTorch file, but not a checkpoint of `dp train`: no model section. {_READABLE}."
        )
    params = extra["model_params"]
    heads = params.get("model_dict", {"Default": params})
    models = [
        StoredModel(
            name if "model_dict" in params else None, section, _arrays(state.items(), f"model.{name}.")
        )
        for name, section in heads.items()
    ]
    training = {
        "step": extra.get("train_infos", {}).get("step"),
        "optimizer": content.get("optimizer") is not None,
        "ema_decay": content.get("ema", {}).get("decay"),
    }
    info = models[0].section.get("info") if models else None
    versions = info.get("versions") if isinstance(info, dict) else None
    return StoredFile(path, "pt", models, {}, versions, training, source=_source(info))


def _arrays(tensors: "Iterable[tuple[str, torch.Tensor]]", prefix: str = "") -> dict[str, np.ndarray]:
    return {
        model_name(name.removeprefix(prefix)): value.numpy()
        for name, value in tensors
        if name.startswith(prefix) and hasattr(value, "numpy")
    }


def _read_pth(path: Path, archive: Archive) -> StoredFile:  # noqa: ARG001
    """Read what the program keeps; loading it would already run parts of it."""
    from deepmd_gnn.files.native_file import NativeModule
    from deepmd_gnn.files.safe_pickle import Record, TorchFile

    content = TorchFile(path).content
    module = NativeModule(content) if isinstance(content, Record) else None
    if module is None or "model_def_script" not in module.settings:
        name = getattr(content, "name", type(content).__name__)
        raise ModelFileError(
            f"{path}: is a TorchScript file ({name}), but not a model frozen by `dp freeze`."
        )
    settings = module.settings
    section = json.loads(settings["model_def_script"] or "{}")
    if not section and module.name == "MaceModel":  # converted from a file that did not record it
        section = {"type": "mace", "type_map": settings["type_map"], "r_max": settings["rcut"]}
    versions = settings.get("versions")
    stored = StoredModel(None, section, _arrays(module.named_tensors()))
    return StoredFile(path, "pth", [stored], {}, versions, source=_source(section.get("info")))


def _read_exported(path: Path, archive: Archive) -> StoredFile:
    check_program(archive)
    if not archive.ending("extra/metadata.json"):
        raise ModelFileError(
            f"{path}: is an exported PyTorch program, but not one of `dp --pt-expt freeze`: "
            "no description of the model inside."
        )
    metadata = _json(archive, "extra/metadata.json")
    section = _json(archive, "extra/model.json").get("model", {})
    types = section.get("type_map", []) if isinstance(section, dict) else None
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        raise ValueError("its description is of no model")
    section = dict(section)
    device = _json(archive, ".wrapper_metadata.json")
    variables = section.pop("@variables", {})
    state = {
        model_name(name): np.asarray(entry["value"], dtype=_dtype(entry["dtype"]))
        for name, entry in (variables if isinstance(variables, dict) else {}).items()
        if isinstance(entry, dict) and "value" in entry
    }
    return StoredFile(
        path,
        "pt2" if device else "pte",
        [StoredModel(None, section, state)],
        metadata,
        section.pop("@versions", None),
        # The C++ interface goes by the description.
        with_comm=bool(
            archive.ending("extra/forward_lower_with_comm.pt2") and metadata.get("has_comm_artifact")
        ),
        compiled_for=device,
        source=_source(_json(archive, "extra/model_def_script.json").get("info")),
        kernels=section.pop("@kernels", None),
    )


def _source(info: Any) -> dict[str, str] | None:
    """What a conversion noted, as far as it is text."""
    source = info.get("source") if isinstance(info, dict) else None
    if not isinstance(source, dict):
        return None
    return {key: str(source.get(key)) for key in ("file", "sha256", "head")}


def _dtype(name: str) -> str:
    """A type of numbers; of others a single value can have any size."""
    if name not in _NUMBERS:
        raise ValueError(f"values of type {name!r}")
    return name


def _json(archive: Archive, suffix: str) -> dict[str, Any]:
    """The first JSON member whose name ends so, an object; empty if there is none."""
    names = archive.ending(suffix)
    content = json.loads(archive.read(names[0])) if names else {}
    if not isinstance(content, dict):
        raise ValueError(f"{suffix} is a {type(content).__name__}, no object")
    return content
