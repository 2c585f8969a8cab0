"""Write a file whole or not at all."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# torch's archive writer does not pass the system's reason on.
_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "unexpected pos", "iostream error")


@contextmanager
def whole_file(target: str | Path) -> Iterator[Path]:
    """Write beside the target and move the finished file there, so that the target is never half a file.

    If writing fails or is interrupted, what was there before stays.

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
        If the file cannot be written, as on a full disk.
    """
    target = Path(target)
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"mace model: cannot write {target}: the folder {target.parent} does not exist. Create it first."
        )
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
        unfinished.replace(target)
