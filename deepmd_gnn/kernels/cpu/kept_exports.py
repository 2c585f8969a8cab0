"""A traced graph whose program is kept need not be exported: what ``torch.export`` makes of it is known.

:mod:`~deepmd_gnn.kernels.cpu.kept_programs` compares graphs after they were exported, which means to trace them once more, a third of what
Python does in a freeze of a known shape. Here the graph is compared before, word by word as well, and a note leads to the program.
"""

import contextlib
import functools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._inductor
import torch.export

from deepmd_gnn.kernels.cpu.cache import place_here
from deepmd_gnn.kernels.cpu.kept import is_whole, written
from deepmd_gnn.kernels.cpu.kept_programs import (
    Programs,
    as_bytes,
    constants_of,
    key_of,
    names_of_constants,
    put_numbers_together,
    unpacked,
)


class _Note(NamedTuple):
    """What is kept of an export."""

    program: str
    """Name of the kept program, in the folder of these."""
    settings: str
    """With which it was compiled."""


class _Known(NamedTuple):
    """Stands for an exported program that nobody looks at, because what it would be compiled to is kept."""

    graph_module: torch.nn.Module
    """Empty; the host looks for assertions in it."""
    files: list[str]
    """Files of the program."""
    note: Path
    settings: str


class _Export(NamedTuple):
    """A program that was exported, for the note about it."""

    exported: Any
    note: Path
    constants: dict[str, torch.Tensor]


@contextlib.contextmanager
def exports_once(programs: Programs) -> Iterator[None]:
    """Take the kept programs of graphs that are exported inside, without exporting them.

    Parameters
    ----------
    programs : Programs
        From :func:`~deepmd_gnn.kernels.cpu.kept_programs.programs_once`.
    """
    export, compile_and_package = torch.export.export, torch._inductor.aoti_compile_and_package
    made: list[_Export] = []
    folders = contextlib.ExitStack()

    @functools.wraps(export)
    def export_once(mod: Any, args: Any, kwargs: Any = None, **options: Any) -> Any:
        found = None if kwargs else _compared(mod, args, options)
        if found is None:
            return export(mod, args, kwargs, **options)
        note, constants = found
        known = _known(note, constants, programs, folders)
        if known is not None:
            return known
        exported = export(mod, args, kwargs, **options)
        made.append(_Export(exported, note, constants))
        return exported

    @functools.wraps(compile_and_package)
    def package(exported: Any, *arguments: Any, **options: Any) -> Any:
        settings = _text(options.get("inductor_configs"))
        if isinstance(exported, _Known):
            return _packaged(exported, settings, options["package_path"])
        before = len(programs.kept)
        path = compile_and_package(exported, *arguments, **options)
        for each in made:
            if each.exported is exported and len(programs.kept) == before + 1:
                with contextlib.suppress(OSError):
                    _write_note(each, *programs.kept[-1], settings)
        return path

    torch.export.export, torch._inductor.aoti_compile_and_package = export_once, package  # type: ignore[assignment]
    try:
        # The host packs the files inside.
        with folders:
            yield
    finally:
        torch.export.export, torch._inductor.aoti_compile_and_package = export, compile_and_package


def _text(settings: dict[str, Any] | None) -> str:
    # Torch adds this one, to the dictionary of the host, which has it from the second program on.
    return repr(sorted({**(settings or {}), "aot_inductor.package": True}.items()))


def _compared(mod: Any, args: Any, options: dict[str, Any]) -> tuple[Path, dict[str, torch.Tensor]] | None:
    """Where a note about an export is or would be, and the tensors that its program reads; None if there cannot be one."""
    if not isinstance(mod, torch.fx.GraphModule) or any(True for _ in mod.children()):
        return None
    graph = torch.fx.Graph()
    graph.output(graph.graph_copy(mod.graph, {}))
    gm = torch.fx.GraphModule(mod, graph)
    put_numbers_together(gm)
    constants = dict(constants_of(gm))
    note = place_here("exports", key_of(gm, args, options, constants))
    return None if note is None else (note, constants)


def _known(
    note: Path, constants: dict[str, torch.Tensor], programs: Programs, folders: contextlib.ExitStack
) -> _Known | None:
    """The program to which a note leads, with these constants; None if there is none, or they do not fit."""
    if not is_whole(note):
        return None
    try:
        said = _Note(**json.loads(note.read_text(encoding="ascii")))
    except FileNotFoundError:  # another freeze has removed it meanwhile
        return None
    kept = note.parent.with_name("programs") / said.program
    if not is_whole(kept):
        return None
    folder = folders.enter_context(tempfile.TemporaryDirectory(prefix="deepmd_gnn_program_"))
    files = unpacked(kept, constants, Path(folder))
    if files is None:
        return None
    programs.take(note, kept)
    return _Known(torch.fx.GraphModule({}, torch.fx.Graph()), files, note, said.settings)


def _packaged(known: _Known, settings: str, path: Any) -> Any:
    """Pack a kept program as the host asks for, if it was compiled with the same settings."""
    if settings != known.settings:
        raise RuntimeError(f"it was compiled with the settings {known.settings}, not {settings}")
    from torch._inductor.package.package import package_aoti

    return package_aoti(path, [*known.files])


def _write_note(export: _Export, kept: Path, final: dict[str, torch.Tensor], settings: str) -> None:
    """Note which program an exported graph has, if the tensors of the program are those of the graph, by their names."""
    if not is_whole(kept):
        return
    for name in names_of_constants(kept):
        before, after = export.constants.get(name), final.get(name)
        if before is None or after is None or as_bytes(before) != as_bytes(after):
            return
    with written(export.note) as unfinished:
        unfinished.write_text(json.dumps(_Note(kept.name, settings)._asdict()), encoding="ascii")
