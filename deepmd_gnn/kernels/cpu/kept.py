"""Files kept for the next freeze or training: whether they are still what was written, and the removal of broken ones."""

import contextlib
import hashlib
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from torch._inductor.codecache import get_lock_dir
from torch._inductor.runtime.cache_dir_utils import cache_dir

log = logging.getLogger("deepmd.deepmd_gnn")
# Places in the header of a 64-bit ELF file: where the table of sections begins, size and number of its entries.
_ELF, _TABLE_BEGIN, _TABLE_ENTRIES = b"\x7fELF", 0x28, 0x3A


def is_whole(path: Path) -> bool:
    """Tell whether a kept file is there and as it was written; one that is not is removed, which the log tells.

    Parameters
    ----------
    path : Path
        A file that :func:`written` has made.

    Returns
    -------
    bool
    """
    record = _record(path)
    try:
        if not path.exists():
            return False
        if record.exists() and record.read_text(encoding="ascii", errors="replace") == _description(path):
            return True
    except FileNotFoundError:  # another freeze has removed it meanwhile
        return False
    log.warning("mace model: the kept file %s is damaged or of an older version; it is made anew.", path)
    with contextlib.suppress(OSError):
        path.unlink()
    return False


def note(path: Path) -> None:
    """Note size and hash of a file, for :func:`is_whole`."""
    unfinished = _record(path).with_name(f"{_record(path).name}.{os.getpid()}")
    unfinished.write_text(_description(path), encoding="ascii")
    unfinished.replace(_record(path))


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Write a file that is to be kept under another name, note its size and hash, and give it its name.

    Parameters
    ----------
    path : Path
        The file; its folder is made.

    Yields
    ------
    Path
        Where to write.

    Raises
    ------
    OSError
        If the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield unfinished
        note(unfinished)
        _record(unfinished).replace(_record(path))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_broken() -> None:
    """Remove libraries and objects that were cut short from torch's cache.

    The compiler writes them under their names. What is left when it is interrupted or the disk is full is taken for
    finished ever after: it cannot be loaded, and tests of the processor fail without a word.
    """
    for path in Path(cache_dir()).glob("??/*"):
        if path.suffix not in (".so", ".o") or not _is_cut(path):
            continue
        # Held while somebody compiles it.
        lock = FileLock(Path(get_lock_dir()) / f"{path.name.split('.')[0]}.lock", timeout=0)
        with contextlib.suppress(Timeout, OSError), lock:
            log.warning("mace model: %s in torch's cache was cut short; it is removed and made anew.", path)
            path.unlink()


def _is_cut(path: Path) -> bool:
    """Whether a library is empty, or ends before the table of its sections, which linkers write last."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(64)
    except OSError:
        return False
    if not header.startswith(_ELF):
        return size == 0
    if len(header) < 64:
        return True
    (begin,) = struct.unpack_from("=Q", header, _TABLE_BEGIN)
    entry, count = struct.unpack_from("=HH", header, _TABLE_ENTRIES)
    return bool(begin + entry * count > size)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _description(path: Path) -> str:
    data = path.read_bytes()
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}\n"
