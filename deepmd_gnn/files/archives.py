"""Zip archives of PyTorch, looked at before anything reads them: undamaged, harmless names, no larger than they seem."""

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START = b"PK\x03\x04"
# Torch stores tensors as they are and compresses program text, to a third or a tenth.
_GROWTH, _ALWAYS = 16, 2**26
_CHUNK = 2**20
_ENCRYPTED = 0x1


class FileError(ValueError):
    """A file that is damaged, hostile or of another kind; the message names it, what was found and what to do."""


@contextmanager
def without_end_refused(path: Path | str) -> Iterator[None]:
    """Go through the content of a file inside, and refuse one that contains itself.

    Raises
    ------
    FileError
        If there is no end to it.
    """
    try:
        yield
    except RecursionError as error:
        raise FileError(f"{path} contains itself; it is damaged.") from error


class Archive:
    """An archive whose members have been checked; see :func:`opened`.

    Parameters
    ----------
    path : Path
        Its name, for messages.
    archive : zipfile.ZipFile
        The open archive.
    size : int
        Bytes of the file.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile, size: int) -> None:
        self.path, self.size = path, size
        self.names = archive.namelist()
        """Names of the members."""
        self._archive = archive

    def read(self, name: str) -> bytes:
        """Read a member, never more than the archive says it has.

        Raises
        ------
        FileError
            If its checksum is another one than it was written with.
        """
        return b"".join(self._chunks(name))

    def ending(self, suffix: str) -> list[str]:
        """Names that end so."""
        return [name for name in self.names if name.endswith(suffix)]

    def verify(self) -> None:
        """Compare the checksum of every member.

        Raises
        ------
        FileError
            If one differs.
        """
        for name in self.names:
            for _ in self._chunks(name):
                pass

    def _chunks(self, name: str) -> Iterator[bytes]:
        # Chunks, because zipfile expands a compressed member before it cuts it to the announced size.
        try:
            with self._archive.open(name) as member:
                while chunk := member.read(_CHUNK):
                    yield chunk
        except (
            Exception
        ) as error:  # whatever zipfile raises: a damaged name alone ends in a UnicodeDecodeError
            raise FileError(
                f"{self.path}: is damaged: '{name}' inside it is not what was written ({error}). Copy the file again, or "
                "write it anew."
            ) from error


@contextmanager
def opened(path: Path, data: bytes | None = None, advice: str = "") -> Iterator[Archive]:
    """Open an archive of PyTorch, after a look at its names and sizes and a test of all its checksums.

    Parameters
    ----------
    path : Path
        The file.
    data : bytes, optional
        Its content, if it is not to be read from `path`.
    advice : str
        Which files are expected, for the message about other ones.

    Yields
    ------
    Archive

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FileError
        If it is no regular file, no such archive, damaged, or made to harm whoever opens it.
    """
    if data is None:
        check_regular(path)
    with path.open("rb") if data is None else io.BytesIO(data) as file:
        start = file.read(len(_START))
        size = file.seek(0, io.SEEK_END)
        try:
            archive = zipfile.ZipFile(file)
        except Exception as error:  # whatever zipfile raises on other files
            raise FileError(f"{path}: {_no_archive(start)} {advice}".rstrip()) from error
        # Torch takes a file that begins otherwise for a pickle, whatever archive follows.
        if start != _START:
            raise FileError(f"{path}: {_no_archive(b'')} {advice}".rstrip())
        with archive:
            _check_members(path, archive.infolist(), size)
            checked = Archive(path, archive, size)
            checked.verify()
            yield checked


def check_regular(path: Path) -> None:
    """Refuse what cannot be read like a file.

    Parameters
    ----------
    path : Path
        A file or a link to one.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    FileError
        If it is a folder, device, pipe or socket, or empty.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{path}: no such file.") from error
    if stat.S_ISDIR(status.st_mode):
        raise FileError(f"{path}: is a folder; give a model file.")
    if not stat.S_ISREG(status.st_mode):
        raise FileError(f"{path}: is a device, pipe or socket; give a model file.")
    if status.st_size == 0:
        raise FileError(f"{path}: is empty; write or copy it again.")


def _no_archive(start: bytes) -> str:
    if start == _START:
        return "is a truncated archive (its end is missing); copy it again."
    if start[:4] == b"vers":  # "version https://git-lfs.github.com/spec/v1"
        return "is not a PyTorch archive, perhaps what Git LFS leaves in the place of a file (`git lfs pull` fetches it)."
    if start[:1] == b"<":
        return "is not a PyTorch archive, perhaps a web page that was downloaded in its place."
    return "is not a PyTorch archive."


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    """Refuse what torch would read otherwise than zipfile does, or write elsewhere than into its own folder."""
    seen: set[str] = set()
    for member in members:
        name = member.orig_filename
        parts = name.split("/")
        if ".." in parts or name.startswith("/") or "\\" in name or "\0" in name or not name:
            raise FileError(f"{path}: is refused: its member {name!r} would be unpacked outside its folder.")
        # Torch does not distinguish capitals, and takes the first of two.
        if name.lower() in seen:
            raise FileError(f"{path}: is refused: it has two members named {name!r}.")
        seen.add(name.lower())
        if (
            member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            or member.flag_bits & _ENCRYPTED
        ):
            raise FileError(f"{path}: is refused: its member {name!r} is packed as torch packs nothing.")
    expanded = sum(member.file_size for member in members)
    if expanded > _ALWAYS + _GROWTH * size:
        raise FileError(
            f"{path}: is refused: its {size} bytes unpack to {expanded}, as no file of torch does (a 'zip bomb')."
        )
