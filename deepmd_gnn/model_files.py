"""What a model file says about itself, read without building or running the model.

The kind is told by the content: a checkpoint (``.pt``), TorchScript (``.pth``), a compiled library (``.pt2``) or
an exported program (``.pte``); each is a zip archive.
"""

import json
import pickle
import sys
import zipfile
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepmd_gnn.checkpoint_names import model_name

KINDS = {
    "pt": "checkpoint (.pt)",
    "pth": "frozen model (.pth)",
    "pt2": "frozen model, compiled (.pt2)",
    "pte": "frozen model, exported (.pte)",
}
_READABLE = "deepmd-gnn reads checkpoints (.pt) and frozen models (.pth, .pt2, .pte) of DeePMD-kit"


class ModelFileError(ValueError):
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
    kind = _kind(path)
    read = {"pt": _read_pt, "pth": _read_pth, "pt2": _read_exported, "pte": _read_exported}[kind]
    try:
        return read(path)
    except ModelFileError:
        raise
    except (
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelFileError(
            f"{path}: looks like a {KINDS[kind]}, but cannot be read ({reason[0]}). "
            "The file is probably damaged; write or copy it again."
        ) from error


def _kind(path: Path) -> str:
    if not path.exists():
        raise ModelFileError(f"{path}: no such file.")
    if path.is_dir():
        raise ModelFileError(f"{path}: is a folder; give a model file. {_READABLE}.")
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise ModelFileError(f"{path}: is empty; write or copy it again.")
    if not zipfile.is_zipfile(path):
        if start.startswith(b"PK"):
            raise ModelFileError(f"{path}: is a truncated archive (its end is missing); copy it again.")
        raise ModelFileError(f"{path}: is not a PyTorch archive. {_READABLE}.")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("data/aotinductor/" in name for name in names):
        return "pt2"
    if any(name.endswith("models/model.json") for name in names):
        return "pte"
    if any(name.endswith("data.pkl") for name in names):
        return "pth" if any(name.endswith("/constants.pkl") for name in names) else "pt"
    raise ModelFileError(f"{path}: is a zip archive, but not a PyTorch one. {_READABLE}.")


def _read_pt(path: Path) -> StoredFile:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            f"{path}: holds Python objects, not only weights, so it was not written by `dp train`. "
            "A model saved by native MACE looks like this: convert it with `deepmd-gnn convert FILE -o OUT.pth`."
        ) from error
    state = content.get("model", content) if isinstance(content, dict) else {}
    extra = state.get("_extra_state") if isinstance(state, dict) else None
    if not isinstance(extra, dict) or "model_params" not in extra:
        raise ModelFileError(
            f"{path}: is a PyTorch file, but not a checkpoint of `dp train`: no model section. {_READABLE}."
        )
    params = extra["model_params"]
    heads = params.get("model_dict", {"Default": params})
    models = [
        StoredModel(name if "model_dict" in params else None, section, _tensors(state, f"model.{name}."))
        for name, section in heads.items()
    ]
    training = {
        "step": extra.get("train_infos", {}).get("step"),
        "optimizer": "optimizer" in content,
        "ema_decay": content.get("ema", {}).get("decay"),
    }
    info = models[0].section.get("info") if models else None
    versions = info.get("versions") if isinstance(info, dict) else None
    return StoredFile(path, "pt", models, {}, versions, training)


def _tensors(state: dict[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    return {
        model_name(name.removeprefix(prefix)): value.detach().numpy()
        for name, value in state.items()
        if name.startswith(prefix) and hasattr(value, "detach")
    }


def _read_pth(path: Path) -> StoredFile:
    import torch

    with redirect_stdout(
        sys.stderr
    ):  # packages report there what they did not find; stdout is for the answer
        import deepmd.pt  # noqa: F401 - its operators are in the file

    model: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    if not hasattr(model, "get_model_def_script"):
        raise ModelFileError(
            f"{path}: is a TorchScript file ({model.original_name}), but not a model frozen by `dp freeze`."
        )
    section = json.loads(model.get_model_def_script() or "{}")
    if not section and model.original_name == "MaceModel":  # converted from a file that did not record it
        section = {"type": "mace", "type_map": model.get_type_map(), "r_max": model.get_rcut()}
    versions = dict(model.versions) if hasattr(model, "versions") else None
    return StoredFile(path, "pth", [StoredModel(None, section, _tensors(model.state_dict()))], {}, versions)


def _read_exported(path: Path) -> StoredFile:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if not any(name.endswith("extra/metadata.json") for name in names):
            raise ModelFileError(
                f"{path}: is an exported PyTorch program, but not one of `dp --pt-expt freeze`: "
                "no description of the model inside."
            )
        metadata = _json(archive, "extra/metadata.json")
        section = dict(_json(archive, "extra/model.json").get("model", {}))
        device = _json(archive, ".wrapper_metadata.json")
    variables = section.pop("@variables", {})
    state = {
        model_name(name): np.asarray(entry["value"], dtype=entry["dtype"])
        for name, entry in variables.items()
        if isinstance(entry, dict) and "value" in entry
    }
    return StoredFile(
        path,
        "pt2" if device else "pte",
        [StoredModel(None, section, state)],
        metadata,
        section.pop("@versions", None),
        with_comm=any(name.endswith("extra/forward_lower_with_comm.pt2") for name in names),
        compiled_for=device,
        kernels=section.pop("@kernels", None),
    )


def _json(archive: zipfile.ZipFile, suffix: str) -> dict[str, Any]:
    """The first JSON member whose name ends so; empty if there is none."""
    for name in archive.namelist():
        if name.endswith(suffix):
            return dict(json.loads(archive.read(name)))
    return {}
