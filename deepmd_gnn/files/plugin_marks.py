"""Tell files of the other plugin with the name deepmd-gnn, 0.1 and 0.2, from ours, and say what to do with them. No torch here.

Both have ``"type": "mace"``. Theirs keep native MACE's module as ``model``; ours have a network of their own.
"""

import re
from pathlib import Path

from deepmd_gnn.files.archives import Archive, FileError

NAME = "deepmd-gnn 0.x"
"""What the other plugin is called in messages."""

# Names of weights in a checkpoint, which follow the head's.
_WEIGHTS = re.compile(rb"model\.[^.\x00-\x1f]{1,200}\.model\.")
# Home of the wrapped network's class in a TorchScript archive; of native MACE ours have the radial basis only.
_CODE = ("code/__torch__/mace/modules/models.py", "code/__torch__/nequip/nn/")


class PluginFileError(FileError):
    """An intact file of the other plugin where one of ours is needed; the message says how to convert it."""


def plugin_kind(archive: Archive) -> str | None:
    """Tell whether a file is of the other plugin.

    Parameters
    ----------
    archive : Archive
        The file.

    Returns
    -------
    str or None
        ``"pt"`` (checkpoint), ``"pth"`` (frozen), or None.
    """
    if archive.ending("code/__torch__/deepmd_gnn/mace.py") or archive.ending(
        "code/__torch__/deepmd_gnn/nequip.py"
    ):
        return "pth" if any(mark in name for mark in _CODE for name in archive.names) else None
    for name in archive.ending("/data.pkl"):
        if name.count("/") == 1 and not archive.ending("/constants.pkl"):
            text = archive.read(name)
            known = b"model_params" in text and (b"mace" in text or b"nequip" in text)
            return "pt" if known and _WEIGHTS.search(text) else None
    return None


def refuse_plugin(archive: Archive) -> None:
    """Refuse a file of the other plugin.

    Parameters
    ----------
    archive : Archive
        The file.

    Raises
    ------
    PluginFileError
        If it is one.
    """
    kind = plugin_kind(archive)
    if kind is not None:
        raise PluginFileError(advice(archive.path, kind))


def advice(path: Path, kind: str) -> str:
    """What to do with a file of the other plugin.

    Parameters
    ----------
    path : Path
        The file.
    kind : str
        From :func:`plugin_kind`.

    Returns
    -------
    str
        A sentence.
    """
    what = {"pt": "a checkpoint", "pth": "a frozen model"}[kind]
    return (
        f"{path}: is {what} of {NAME}, the other plugin of this name, and intact. Convert it first: "
        f"`deepmd-gnn convert {path.name} -o NEW.pt` (to train on), or `-o NEW.pth` (to run)."
    )
