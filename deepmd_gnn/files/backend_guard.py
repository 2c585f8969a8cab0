"""Model files that DeePMD-kit opens in Python: looked at before it does. A frozen ``.pth`` is written whole or not at all.

Portable files (``.dp``) are read so that they can be written again. The host has no hooks for this. Its backends are asked for what opens files, by these properties; nothing here imports torch.
"""

import functools
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepmd_gnn.files.archives import FileError, opened
from deepmd_gnn.files.plugin_marks import refuse_plugin
from deepmd_gnn.files.portable import is_ours, whole_file_with_arrays
from deepmd_gnn.files.whole_file import host_file, whole_file
from deepmd_gnn.graph.compilation import compiling

log = logging.getLogger("deepmd.deepmd_gnn")
_SUFFIXES = (".pt", ".pth", ".pt2", ".pte")
# Arguments of `dp` that name files to read.
_INPUTS = ("restart", "init_model", "finetune", "init_frz_model", "checkpoint_folder", "INPUT", "input")


def check_file(path: str | Path) -> None:
    """Refuse a file with a MACE model that is damaged or would harm who loads it; other files are the host's.

    Parameters
    ----------
    path : str or Path
        What the host was asked to load.

    Raises
    ------
    FileError
        If a checksum differs, the archive is made to write elsewhere, to fill the memory or to unpickle objects, or it is
        of the other plugin of this name.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES or not holds_mace(path):
        return
    from deepmd_gnn.files.programs import check_program

    try:
        with opened(path) as archive:
            refuse_plugin(archive)
            check_program(archive)
    except FileError as error:
        raise type(error)(f"mace model: {error}") from error


def check_archive(path: str | Path) -> None:
    """Refuse a model file that is no archive at all: empty, cut short, a web page, what Git LFS leaves.

    DeePMD-kit speaks of ``KeyError: 101`` or ``EOFError`` then.

    Parameters
    ----------
    path : str or Path
        What the host was asked to evaluate; whose model it should be cannot be told.

    Raises
    ------
    FileError
        Says what the file seems to be.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES or not path.is_file() or zipfile.is_zipfile(path):
        return
    with path.open("rb") as file:
        if file.read(1) == b"\x80":  # a pickle, as torch wrote them before 1.6
            return
    with opened(path):
        pass


def holds_mace(path: Path) -> bool:
    """Tell, from the names and the description inside, whether an archive seems to hold a MACE model.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    bool
        False as well if it is no archive.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            described = [n for n in names if n.endswith("extra/model.json")] or [
                n for n in names if n.endswith("/data.pkl") and n.count("/") == 1
            ]
            return any("/deepmd_gnn/" in name for name in names) or any(
                b"mace" in archive.read(name) for name in described
            )
    except Exception:  # damaged, wherever it came from
        return True


def guard(backend: type, *, freezes_in_place: bool) -> None:
    """Wrap what a backend of the host opens files with.

    Parameters
    ----------
    backend : type
        A subclass of ``deepmd.backend.backend.Backend``.
    freezes_in_place : bool
        Whether its command ``freeze`` writes directly to the file's name.
    """
    if getattr(backend, "checks_mace_files", False):
        return
    command = functools.partial(_command, freezes_in_place)
    wraps: dict[str, Callable[[Any], Any]] = {
        "deep_eval": _evaluation,
        "serialize_hook": _reader,
        "entry_point_hook": command,
    }
    if freezes_in_place:
        wraps["deserialize_hook"] = _writer
    for name, wrap in wraps.items():
        original: Any = vars(backend)[name].fget
        setattr(backend, name, property(_wrapped(original, wrap)))
    backend.checks_mace_files = True  # type: ignore[attr-defined]


def mend_portable(backend: type) -> None:
    """For models of ours: let the host's reader of portable files give variables that its writers take, and write files whole.

    Parameters
    ----------
    backend : type
        The subclass of ``deepmd.backend.backend.Backend`` that reads ``.dp``.
    """
    original: Any = vars(backend)["serialize_hook"].fget
    if not hasattr(original, "__wrapped__"):
        backend.serialize_hook = property(_wrapped(original, _with_arrays))  # type: ignore[attr-defined]
        writer: Any = vars(backend)["deserialize_hook"].fget
        backend.deserialize_hook = property(_wrapped(writer, _writer))  # type: ignore[attr-defined]


def _with_arrays(read: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
    @functools.wraps(read)
    def mended(model_file: str) -> dict[str, Any]:
        return whole_file_with_arrays(read(model_file))

    return mended


def _wrapped(original: Callable[[Any], Any], wrap: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def get(self: Any) -> Any:
        return wrap(original(self))

    return get


def _evaluation(evaluation: Any) -> Any:
    """The class that evaluates files, which checks them first."""
    begin = evaluation.__init__
    if not getattr(begin, "checks_mace_files", False):

        @functools.wraps(begin)
        def __init__(self: Any, model_file: str, *args: Any, **kwargs: Any) -> None:
            check_archive(model_file)
            check_file(model_file)
            begin(self, model_file, *args, **kwargs)

        __init__.checks_mace_files = True  # type: ignore[attr-defined]
        evaluation.__init__ = __init__
    return evaluation


def _reader(read: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(read)
    def checked(model_file: str) -> Any:
        check_file(model_file)
        return read(model_file)

    return checked


def _writer(write: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(write)
    def whole(model_file: str, data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        if not is_ours(data):
            write(model_file, data, *args, **kwargs)
            return
        with whole_file(model_file) as unfinished, compiling(tabulates_scripted=True):
            write(str(unfinished), data, *args, **kwargs)

    return whole


def _command(freezes_in_place: bool, run: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(run)
    def command(args: Any) -> None:
        for path in filter(None, (_named_file(getattr(args, name, None)) for name in _INPUTS)):
            check_file(path)
        if args.command == "change-bias":
            _change_bias(args, run)
            return
        model = _named_file(getattr(args, "checkpoint_folder", None))
        if args.command != "freeze" or not freezes_in_place or model is None:
            run(args)
            return
        # The host unpickles a checkpoint of any model, objects included, to tell whether it is of one certain kind.
        if model.suffix == ".pt":
            from deepmd_gnn.files.model_files import read_model_file

            read_model_file(model)
        if not holds_mace(model):
            run(args)
            return
        with host_file(Path(args.output).with_suffix(".pth")) as unfinished:
            args.output = str(unfinished)
            run(args)

    return command


def _change_bias(args: Any, run: Callable[[Any], None]) -> None:
    """Write what ``dp change-bias`` makes of a model of ours whole or not at all; it may be the input itself."""
    model = _named_file(args.INPUT)
    if model is None or not holds_mace(model):
        run(args)
        return
    output = Path(args.output or f"{args.INPUT.removesuffix(model.suffix)}_updated{model.suffix}")
    if output.suffix != model.suffix:
        raise ValueError(
            f"mace model: change-bias writes the kind of file that it reads, but the output {output} does not end in {model.suffix}."
        )
    with whole_file(output) as unfinished, compiling(tabulates_scripted=True):
        args.output = str(unfinished)
        run(args)
    log.info("mace model: it is called %s now.", output)


def _named_file(argument: Any) -> Path | None:
    """A file that an argument names, or the last checkpoint of a folder."""
    if not isinstance(argument, str):
        return None
    path = Path(argument)
    if path.is_dir() and (path / "checkpoint").is_file():
        path = path / (path / "checkpoint").read_text(encoding="utf-8").strip()
    return path if path.is_file() else None
