"""Write a file whole or not at all, and nothing else than a file."""

import contextlib
import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepmd_gnn.graph.compilation import compiling

# torch's archive writer does not pass the system's reason on.
_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "unexpected pos", "iostream error")
# Of the host's commands that end with the name of the file they were told to write.
_FREEZE_LOGS = ("deepmd.pt.entrypoints.main", "deepmd.pt_expt.entrypoints.main")


@contextmanager
def whole_file(target: str | Path) -> Iterator[Path]:
    """Write beside the target and move the finished file there, so that the target is never half a file.

    If writing fails or is interrupted, what was there before stays. A file keeps its permissions, and a link stays a link:
    what it points to is written.

    Parameters
    ----------
    target : str or Path
        The file.

    Yields
    ------
    Path
        Where to write; of the same name, in a hidden folder beside the target.

    Raises
    ------
    FileNotFoundError
        If the folder of the target does not exist.
    OSError
        If the file cannot be written, as on a full disk, must not be written, or is no file.
    """
    named, target = target, Path(os.path.realpath(target))
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"mace model: cannot write {named}: the folder {target.parent} does not exist. Create it first."
        )
    before = _what_is_there(named, target)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        unfinished = Path(folder) / target.name
        try:
            yield unfinished
        except RuntimeError as error:
            if not any(words in str(error) for words in _TORCH_CANNOT_WRITE):
                raise
            raise OSError(
                f"cannot write {target} ({str(error).splitlines()[0]}). Is the disk full? What was there before is unchanged."
            ) from error
        if before is not None:
            # Only root may give files away; others keep what they write.
            with contextlib.suppress(PermissionError):
                os.chown(unfinished, before.st_uid, before.st_gid)
            unfinished.chmod(stat.S_IMODE(before.st_mode))
        unfinished.replace(target)


@contextmanager
def host_file(target: str | Path) -> Iterator[Path]:
    """Let the host write a frozen file whole or not at all, and say in its log where the file is in the end.

    A model that is scripted for it reads radial tables.

    Parameters
    ----------
    target : str or Path
        The file.

    Yields
    ------
    Path
        Where the host is to write, see :func:`whole_file`.
    """
    with whole_file(target) as unfinished, compiling(tabulates_scripted=True):

        def with_final_name(record: logging.LogRecord) -> bool:
            text = record.getMessage()
            record.msg, record.args = text.replace(str(unfinished), str(target)), None
            # "Requested lower_kind='nlist' is being OVERRIDDEN": nobody requested it, and our models have one kind only.
            return "OVERRIDDEN" not in text

        logs = [logging.getLogger(name) for name in _FREEZE_LOGS]
        for log in logs:
            log.addFilter(with_final_name)
        try:
            yield unfinished
        finally:
            for log in logs:
                log.removeFilter(with_final_name)


def refuse_existing(output: Path) -> None:
    """Refuse to write where something is.

    Parameters
    ----------
    output : Path
        Of a command that makes a new file.

    Raises
    ------
    ValueError
        If it is there.
    """
    if output.exists():
        raise ValueError(f"{output}: is there already. Give another name, or remove it first.")


def refuse_same(source: str | Path, output: str | Path) -> None:
    """Refuse to write over what is read.

    Parameters
    ----------
    source, output : str or Path
        Of a command; links count as what they point to.

    Raises
    ------
    ValueError
        If they are one file.
    """
    with contextlib.suppress(OSError):
        if Path(source).samefile(output):
            raise ValueError(f"The output '{output}' is the input '{source}' itself. Give another name.")


def _what_is_there(named: str | Path, target: Path) -> os.stat_result | None:
    try:
        before = target.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(before.st_mode):
        raise OSError(f"mace model: cannot write {named}: it is a folder, device or pipe, not a file.")
    # Root may write everything, but somebody took all permissions to write away.
    if not os.access(target, os.W_OK) or not before.st_mode & 0o222:
        raise PermissionError(f"mace model: cannot write {named}: it is write-protected.")
    return before
