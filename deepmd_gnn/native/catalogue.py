"""Foundation models by name, ``mace-mp:medium-mpa-0``: mace-torch's own table, place and download, nothing of it unpickled.

mace-torch loads what it downloads, which runs code in the file; here its functions are asked only which address and which file
in its cache belong to a name.
"""

import contextlib
import io
import re
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from deepmd_gnn.files.archives import FileError
from deepmd_gnn.files.import_order import allow_e3nn_constants, import_mace
from deepmd_gnn.native.summary import summarise_native

allow_e3nn_constants()
import_mace()

from mace.calculators import foundations_models  # noqa: E402

_LONG_RANGE = "no: long-range electrostatics, which needs the reciprocal space of the whole cell"
_TEN = "H C N O F P S Cl Br I"
_TIMEOUT = 10  # seconds, for a size


@dataclass(frozen=True)
class Entry:
    """A model that mace-torch knows."""

    name: str
    """As users write it, e.g. ``mace-mp:small``."""
    url: str
    """Where it is."""
    file: Path
    """Where it is kept."""
    licence: str
    """As mace-torch tells it."""
    elements: str
    """Which, or how many."""
    converts: str
    """``yes``, or why not."""


class _FoundError(Exception):
    """Carries the address and the place of a file out of mace-torch's functions."""


def entries() -> list[Entry]:
    """All models that the installed mace-torch knows.

    Returns
    -------
    list[Entry]
    """
    known = foundations_models
    found = []
    for name in known.mace_mp_urls:
        family = "mace-mh" if name.startswith("mh-") else "mace-mp"
        url, file, said = _asked(known.download_mace_mp_checkpoint, name)
        licence = "see its release page" if family == "mace-mh" else "MIT"
        found.append(Entry(f"{family}:{name}", url, file, _licence(said, licence), "89", "yes"))
    for name in known.mace_off_urls:
        url, file, said = _asked(known.mace_off, name)
        found.append(Entry(f"mace-off:{name}", url, file, _licence(said), _TEN, "yes"))
    for name in _omol_names(known):
        url, file, said = _asked(known.mace_omol, name)
        found.append(Entry(f"mace-omol:{name}", url, file, _licence(said), "83", "yes"))
    for name in getattr(known, "polar_model_urls", {}):
        url, file, said = _asked(known.download_mace_polar_checkpoint, name)
        found.append(Entry(f"mace-polar:{name}", url, file, _licence(said), "83", _LONG_RANGE))
    return found


def find(name: str) -> Entry:
    """Look a name up.

    Parameters
    ----------
    name : str
        ``family:model``.

    Returns
    -------
    Entry

    Raises
    ------
    ValueError
        Lists the names if there is no such model.
    """
    by_name = {entry.name: entry for entry in entries()}
    by_name |= {name.replace("mace-mh:", "mace-mp:"): entry for name, entry in by_name.items()}
    if name not in by_name:
        family = name.split(":")[0] + ":"
        names = [known for known in by_name if known.startswith(family)] or list(by_name)
        raise ValueError(f"{name}: mace-torch knows no such model. It has: {', '.join(names)}.")
    return by_name[name]


def name_of_flag(value: str) -> str | None:
    """The name here of what native's ``--foundation_model`` takes besides files.

    Parameters
    ----------
    value : str
        Such as ``small``, ``medium-mpa-0``, ``small_off`` or ``mace_omol``.

    Returns
    -------
    str or None
        ``family:model``; None if it is none of native's names.
    """
    size, off, rest = value.partition("_off")
    wanted = f"mace-off:{size}" if off and not rest else value
    for entry in entries():  # those of mace-mp come first, as in native MACE
        family, _, model = entry.name.partition(":")
        if wanted in (entry.name, model) or (value == "mace_omol" and family == "mace-omol"):
            return entry.name
    return None


def fetch(name: str) -> Path:
    """The file of a model, downloaded into mace-torch's cache if it is not there.

    Parameters
    ----------
    name : str
        ``family:model``.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If there is no such model, it cannot be converted, or it cannot be downloaded.
    """
    entry = find(name)
    if entry.converts != "yes":
        raise ValueError(f"{name}: is not converted: {entry.converts.removeprefix('no: ')}.")
    if not entry.file.is_file():
        _download(entry)
    return entry.file


def cache_folder() -> Path:
    """Where mace-torch keeps what it downloads."""
    return Path(foundations_models.get_cache_dir())


def listed() -> list[dict[str, Any]]:
    """All models, with what is known of them without downloading: for files in the cache, what they say themselves.

    Returns
    -------
    list[dict[str, Any]]
        ``name``, ``licence``, ``elements``, ``size_mb`` (None: not known, as without a network), ``converts``, ``cached``, ``url``.
    """
    rows = []
    with ThreadPoolExecutor(8) as pool:
        for entry, size in zip(found := entries(), pool.map(_size, found), strict=True):
            row = {
                "name": entry.name, "licence": entry.licence, "elements": entry.elements, "size_mb": size,
                "converts": entry.converts, "cached": str(entry.file) if entry.file.is_file() else None, "url": entry.url,
            }  # fmt: skip
            rows.append({**row, **(_said(entry.file) if row["cached"] else {})})
    return rows


def _said(file: Path) -> dict[str, Any]:
    """What a file says of itself."""
    try:
        summary = summarise_native(file)
    except FileError as error:
        return {"converts": f"no: {error}"}
    if summary is None:
        return {"converts": "no: no model of MACE"}
    if not summary["convertible"]:
        return {"converts": f"no: {summary['reason']}"}
    names = summary["type_map"]
    return {"elements": " ".join(names) if len(names) <= 12 else str(len(names)), "converts": "yes"}


def _size(entry: Entry) -> float | None:
    """MB of the file, or of what the server would send."""
    if entry.file.is_file():
        return entry.file.stat().st_size / 1e6
    try:
        request = urllib.request.Request(_address(entry.url), method="HEAD")
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            return int(answer.headers["Content-Length"]) / 1e6
    except (OSError, TypeError, ValueError):
        return None


def _address(url: str) -> str:
    return getattr(foundations_models, "_normalize_github_download_url", str)(url)


def _download(entry: Entry) -> None:
    entry.file.parent.mkdir(parents=True, exist_ok=True)
    try:
        _, headers = foundations_models._urlretrieve_with_timeout(entry.url, str(entry.file))
    except OSError as error:
        raise ValueError(
            f"{entry.name}: cannot be downloaded ({error}). Without a network: fetch {entry.url} elsewhere, put it at "
            f"{entry.file}, and give the same command again."
        ) from error
    if "text/html" in str(headers):
        entry.file.unlink(missing_ok=True)
        raise ValueError(f"{entry.name}: {entry.url} sent a web page, not a model. Is a proxy in between?")


def _licence(said: str, otherwise: str = "see its release page") -> str:
    return "ASL (academic, not commercial)" if "Academic Software License" in said else otherwise


@contextlib.contextmanager
def _nothing_loaded(known: ModuleType) -> Iterator[Path]:
    """Let mace-torch's functions stop where they would download, into a folder that has nothing."""

    def found(url: str, filename: str, *_: Any, **__: Any) -> None:
        raise _FoundError(url, filename)

    nowhere = Path("/nonexistent") / "mace"
    before = {
        name: getattr(known, name)
        for name in ("_urlretrieve_with_timeout", "get_cache_dir", "os", "local_model_path")
    }
    # Of `os` they need a folder to be made, which is not.
    paths = ModuleType("os")
    paths.__dict__.update({**before["os"].__dict__, "makedirs": lambda *_, **__: None})
    replaced = {
        "_urlretrieve_with_timeout": found,
        "get_cache_dir": lambda: nowhere,
        "os": paths,
        "local_model_path": "",
    }
    try:
        for name, value in replaced.items():
            setattr(known, name, value)
        yield nowhere
    finally:
        for name, value in before.items():
            setattr(known, name, value)


def _asked(function: Any, name: str) -> tuple[str, Path, str]:
    """Address, place in the cache, and what mace-torch says, of a model."""
    said = io.StringIO()
    with _nothing_loaded(foundations_models) as nowhere, contextlib.redirect_stdout(said):
        try:
            function(name)
        except Exception as error:
            cause = error if isinstance(error, _FoundError) else error.__cause__
            if not isinstance(cause, _FoundError):
                raise
            url, file = cause.args
    return url, cache_folder() / Path(file).relative_to(nowhere), said.getvalue()


def _omol_names(known: ModuleType) -> list[str]:
    """Its table is inside a function, which names its keys to who asks for another one."""
    with _nothing_loaded(known):
        try:
            known.mace_omol("none of them")
        except Exception as error:
            options = re.search(r"options: (?:dict_keys\()?\[(.*?)\]", str(error.__cause__))
            return re.findall(r"'([^']+)'", options[1]) if options else []
    return []
