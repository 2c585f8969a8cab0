"""What exported and compiled programs ask for when they are loaded, looked at without loading them."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from deepmd_gnn.files.archives import Archive, FileError, opened

# Tables of an exported program's tensors.
_TABLES = ("_weights_config.json", "_constants_config.json")
# Pickles of tensors; torch reads one that holds anything else with its full unpickler.
_PICKLES = ("data/weights", "data/constants", "data/sample_inputs")


def check_program(archive: Archive) -> None:
    """Refuse a ``.pte`` or ``.pt2`` that makes torch unpickle objects, and look into the programs inside it.

    Parameters
    ----------
    archive : Archive
        The file; its names and checksums are checked already.

    Raises
    ------
    FileError
        If a tensor is stored as a pickle, or a pickle holds something else than tensors.
    """
    _check_members(archive)
    for name in archive.ending(".pt2"):  # unpacked by the host; itself it has no others
        with opened(Path(f"{archive.path}/{name}"), archive.read(name)) as inner:
            _check_members(inner)


def _check_members(archive: Archive) -> None:
    for name in archive.names:
        if name.endswith(_TABLES):
            try:
                _check_table(archive, name)
            except (RecursionError, ValueError, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, FileError):
                    raise
                raise FileError(
                    f"{archive.path}: is damaged: '{name}' inside it is no table of tensors ({type(error).__name__}: {error}). "
                    "Copy the file again, or write it anew."
                ) from error
        elif PurePosixPath(name).suffix == ".pt" and str(PurePosixPath(name).parent).endswith(_PICKLES):
            _check_pickle(archive, name)


def _check_table(archive: Archive, name: str) -> None:
    table: dict[str, Any] = json.loads(archive.read(name))
    for tensor, entry in dict(table["config"]).items():
        if entry.get("use_pickle") is not False or str(entry["path_name"]).startswith("custom_obj"):
            raise FileError(
                f"{archive.path}: is refused: it stores {tensor!r} as a pickle, which runs code when torch loads it."
            )


def _check_pickle(archive: Archive, name: str) -> None:
    from deepmd_gnn.files.safe_pickle import TorchFile, records_in

    data = archive.read(name)
    if not data:
        return
    for record in records_in(TorchFile(Path(f"{archive.path}/{name}"), data).content):
        raise FileError(
            f"{archive.path}: is refused: '{name}' inside it holds a {record.qualname[:80]!r}, which torch would run."
        )
