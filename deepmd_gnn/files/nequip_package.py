"""Files of the package ``nequip`` 0.6 as plain data: a folder of a training, its weights, or a deployed model."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from deepmd_gnn.files.archives import Archive, FileError, check_regular, opened, without_end_refused
from deepmd_gnn.files.native_file import NativeModule, NotConvertible
from deepmd_gnn.files.safe_pickle import Record, TorchFile

NAME = "nequip 0.6"
"""What the package is called in messages."""
CONFIG, WEIGHTS = "config.yaml", "best_model.pth"
# A weight of every model of the package, which nothing else has.
_MARK = b"chemical_embedding.linear.weight"
_KNOWN_VERSION = re.compile(r"0\.6(\.|$)")
# Its list of training frames makes a configuration long.
_LONGEST_CONFIG = 2**26
_MOST_LEVELS = 4
_SCALARS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str"))
UNREADABLE = "(an object of Python)"
"""In the place of a value that is not plain; what reads the setting refuses it."""
_COLLECTIONS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


@dataclass(frozen=True)
class PackageFile:
    """Content of a file of the package."""

    path: Path
    """The file with the weights."""
    kind: str
    """``"weights"`` or ``"deployed"``."""
    config: dict[str, Any]
    """Its configuration: numbers, texts, lists and dictionaries; None in place of everything else."""
    state: dict[str, torch.Tensor]
    """Weights by their names in ``state_dict()``."""


def weights_of(source: str | Path) -> Path:
    """The file of weights of a training's folder; other paths as they are.

    Parameters
    ----------
    source : str or Path
        A folder or file.

    Returns
    -------
    Path
        Of a file, unless the folder has no configuration.

    Raises
    ------
    NotConvertible
        If the folder is of a training that has no weights yet.
    """
    path = Path(source)
    if not path.is_dir() or not (path / CONFIG).exists():
        return path
    if not (path / WEIGHTS).exists():
        raise NotConvertible(
            f"{path} has a {CONFIG}, but no {WEIGHTS}: train it with {NAME} first. Not converted."
        )
    return path / WEIGHTS


def read_package_file(source: str | Path) -> PackageFile | None:
    """Read a model of the package; nothing in it is executed.

    Parameters
    ----------
    source : str or Path
        The folder of a training (with ``config.yaml`` and ``best_model.pth``), a file of weights in such a folder, or what
        ``nequip-deploy build`` has written.

    Returns
    -------
    PackageFile or None
        None if it is something else.

    Raises
    ------
    NotConvertible
        If the configuration is missing or of another version.
    FileError
        If a file is damaged.
    """
    path = weights_of(source)
    try:
        with opened(path) as archive:
            kind = _kind(archive)
            texts = archive.ending("/extra/config")
            text = archive.read(texts[0]) if kind == "deployed" and texts else None
    except (FileError, FileNotFoundError):  # who reads it next says what is wrong with it
        return None
    if kind is None:
        return None
    file = TorchFile(path)
    with without_end_refused(path):
        state = dict(_tensors(path, file.content))
    config = plain_settings(path, _beside(path) if text is None else text)
    version = str(config.get("nequip_version"))
    if not _KNOWN_VERSION.match(version):
        raise NotConvertible(
            f"{path} was written by nequip {version}; files of nequip 0.6 are converted. Not converted."
        )
    return PackageFile(path, kind, config, state)


def _kind(archive: Archive) -> str | None:
    if archive.ending("/extra/nequip_version"):
        return "deployed"
    pickles = [name for name in archive.ending("/data.pkl") if name.count("/") == 1]
    if len(pickles) != 1 or archive.ending("/constants.pkl"):
        return None
    text = archive.read(pickles[0])
    return "weights" if _MARK in text and b"model_params" not in text else None


def _tensors(path: Path, content: Any) -> Any:
    if isinstance(content, Record):
        return NativeModule(content).named_tensors()
    if isinstance(content, dict) and any(str(name).endswith(_MARK.decode()) for name in content):
        return [(str(name), value) for name, value in content.items() if isinstance(value, torch.Tensor)]
    raise NotConvertible(
        f"{path} is no {WEIGHTS} of {NAME}, but something else with such weights. Not converted."
    )


def _beside(path: Path) -> bytes:
    config = path.parent / CONFIG
    try:
        check_regular(config)
    except FileNotFoundError as error:
        raise NotConvertible(
            f"{path} has weights of {NAME}, but no {CONFIG} is beside it, which says the options: give the folder of the training, or "
            "copy both files into one. Not converted."
        ) from error
    with config.open("rb") as file:
        return file.read(_LONGEST_CONFIG + 1)


def plain_settings(path: Path, text: bytes) -> dict[str, Any]:
    """Read the plain values of a configuration; objects of Python, which the package writes into it, become None.

    Parameters
    ----------
    path : Path
        The file it belongs to, for messages.
    text : bytes
        YAML.

    Returns
    -------
    dict[str, Any]
        By key.

    Raises
    ------
    NotConvertible
        If it is no YAML, or none with keys and values.
    """
    try:
        if len(text) > _LONGEST_CONFIG:
            raise ValueError("it is larger than any")
        node = yaml.compose(text.decode(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if not isinstance(node, yaml.MappingNode):
            raise ValueError("it has no keys")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NotConvertible(
            f"{path}: its configuration cannot be read as YAML ({' '.join(str(error).split())}). Not converted."
        ) from error
    return _plain(node, 0, {})


def _plain(node: Any, level: int, known: dict[int, Any]) -> Any:
    """Values of a node; those of one that is repeated are read once, because a few repetitions of repetitions are endlessly many."""
    if id(node) in known:
        return known[id(node)]
    value: Any = UNREADABLE
    if isinstance(node, yaml.ScalarNode):
        value = (
            yaml.constructor.SafeConstructor().construct_object(node) if node.tag in _SCALARS else UNREADABLE
        )
    elif node.tag in _COLLECTIONS and level < _MOST_LEVELS:
        if isinstance(node, yaml.SequenceNode):
            value = [_plain(part, level + 1, known) for part in node.value]
        else:
            value = {
                str(key.value): _plain(part, level + 1, known)
                for key, part in node.value
                if isinstance(key, yaml.ScalarNode)
            }
    known[id(node)] = value
    return value
