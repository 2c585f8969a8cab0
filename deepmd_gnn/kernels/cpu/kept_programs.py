"""Compiled programs that a freeze keeps for the next one: the code of a network does not depend on its weights.

AOTInductor 2.11 puts all weights into one piece of the library that it makes. A model whose graph equals, word by word, that of an
earlier one takes this library, with its own weights in their place: neither TorchInductor nor the compiler runs.
"""

import contextlib
import functools
import hashlib
import json
import logging
import platform
import tempfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch._inductor
import torch._inductor.config as inductor_config
from torch._inductor.codecache import AotCodeCompiler
from torch._inductor.graph import GraphLowering

import deepmd_gnn
from deepmd_gnn.kernels.cpu.cache import place_here
from deepmd_gnn.kernels.cpu.kept import is_whole, written
from deepmd_gnn.kernels.cpu.targets import target_machine

log = logging.getLogger("deepmd.deepmd_gnn")

# Of a constant in the library, ``torch._inductor.codecache.ALIGN_BYTES``.
_ALIGNMENT = 64
_PLACES = "constants.json"


class _Places(NamedTuple):
    """Where the constants of a program are in its library."""

    library: str
    """Name of the file."""
    offset: int
    """Of the first constant, bytes."""
    names: list[str]
    """The graph's name of each constant, in their order."""
    length: int
    """Of all constants, bytes."""


class Programs(NamedTuple):
    """Programs of the freeze that is under way."""

    taken: list[Path]
    """Kept files that were taken; if the result is wrong, they are the ones to remove."""
    kept: list[tuple[Path, dict[str, torch.Tensor]]]
    """Where each program that was asked for is kept, and its tensors by their names in the graph."""

    def take(self, *kept: Path) -> None:
        """Take note that kept files were taken, and tell the log."""
        log.info("mace model: the compiled program of an earlier freeze is taken")
        self.taken.extend(kept)


@contextlib.contextmanager
def programs_once(taken_before: list[Path] | None = None) -> Iterator[Programs]:
    """Keep the programs that AOTInductor compiles inside, and take those that an earlier freeze has kept.

    Parameters
    ----------
    taken_before : list[Path], optional
        List to which kept files that are taken are added.

    Yields
    ------
    Programs
    """
    programs = Programs([] if taken_before is None else taken_before, [])
    original, inlined = torch._inductor.aot_compile, GraphLowering.can_inline_constant

    folders = contextlib.ExitStack()

    @functools.wraps(original)
    def aot_compile(gm: Any, args: Any, kwargs: Any = None, *, options: Any = None) -> Any:
        put_numbers_together(gm)
        constants = dict(constants_of(gm))
        kept = place_here("programs", key_of(gm, args, options, constants))
        if kept is None:
            return original(gm, args, kwargs, options=options)
        programs.kept.append((kept, constants))
        if is_whole(kept):
            folder = folders.enter_context(tempfile.TemporaryDirectory(prefix="deepmd_gnn_program_"))
            taken = unpacked(kept, constants, Path(folder))
            if taken is not None:
                programs.take(kept)
                return taken
        with _order_of_constants() as order:
            made = original(gm, args, kwargs, options=options)
        # A full disk, or a cache that can only be read, costs the next freeze some time.
        with contextlib.suppress(OSError):
            _keep(kept, made, constants, order)
        return made

    torch._inductor.aot_compile = aot_compile
    # Short lists would become part of the code: numbers of one model in a program for all.
    GraphLowering.can_inline_constant = staticmethod(_never)  # type: ignore[method-assign,assignment]
    try:
        # The host packs the files inside.
        with folders:
            yield programs
    finally:
        torch._inductor.aot_compile = original
        GraphLowering.can_inline_constant = staticmethod(inlined)  # type: ignore[method-assign]


def _never(t: torch.Tensor) -> bool:  # noqa: ARG001
    return False


def constants_of(gm: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that a graph reads, of any shape, by the name of the attribute."""
    for name in sorted({str(node.target) for node in gm.graph.find_nodes(op="get_attr")}):
        value: Any = functools.reduce(getattr, name.split("."), gm)
        if isinstance(value, torch.Tensor):
            yield name, value.detach()


def put_numbers_together(gm: Any) -> None:
    """Read single numbers from one list: alone, TorchInductor would write them into the code.

    The mean number of neighbours, the scale, and E0 of a single element differ with every set of data; with them in the code a program is
    for one of them.
    """
    # An exported graph still has those that nothing reads any more.
    read = {str(node.target) for node in gm.graph.find_nodes(op="get_attr") if node.users}
    numbers = {
        name: value
        for name, value in constants_of(gm)
        if name in read and value.numel() == 1 and value.is_floating_point()
    }
    for dtype in {value.dtype for value in numbers.values()}:
        names = [name for name, value in numbers.items() if value.dtype == dtype]
        # Two that differ: a list of equal numbers is folded.
        values = [*(numbers[name].view(()) for name in names), *torch.tensor([0.0, 1.0], dtype=dtype)]
        together = f"single_numbers_{dtype}".replace(".", "_")
        gm.register_buffer(together, torch.stack(values))
        for node in gm.graph.find_nodes(op="get_attr"):
            if node.target in names:
                with gm.graph.inserting_before(node):
                    place = (gm.graph.get_attr(together), 0, names.index(node.target))
                    number = gm.graph.call_function(torch.ops.aten.select.int, place)
                    shape = list(numbers[str(node.target)].shape)
                    if shape:
                        number = gm.graph.call_function(torch.ops.aten.view.default, (number, shape))
                number.meta = dict(node.meta)
                node.replace_all_uses_with(number)
                gm.graph.erase_node(node)
    gm.recompile()


def key_of(gm: Any, args: Any, options: Any, constants: dict[str, torch.Tensor]) -> str:
    """All that a program depends on, beside compiler and CPU: the graph, sizes, settings, and tensors (any shape) that become part of the code."""
    first: dict[tuple[int, Any], str] = {}
    described = []
    for name, value in constants.items():
        storage = value.untyped_storage()
        alike = first.setdefault((storage.data_ptr(), value.storage_offset()), name)
        layout = (
            f"{value.dtype} {tuple(value.shape)} {value.stride()} {value.storage_offset()} {storage.nbytes()}"
        )
        described.append(f"{name} {layout} {alike} {_in_code(value)}")
    examples = [
        f"{part.dtype} {tuple(part.shape)} {part.stride()}" if isinstance(part, torch.Tensor) else repr(part)
        for part in args
    ]
    folder = files(deepmd_gnn)
    sources = [
        folder.joinpath(*path).read_text(encoding="utf-8")
        for path in (
            ("files", "torch_fixes.py"),
            ("kernels", "cpu", "cache.py"),
            ("kernels", "cpu", "device_name.hpp"),
            ("kernels", "cpu", "light_headers.py"),
            ("kernels", "cpu", "kept_exports.py"),
            ("kernels", "cpu", "kept_programs.py"),
            ("kernels", "cpu", "targets.py"),
        )
    ]
    # AOTInductor notes there what it has found of the machine, from the second program of a process on.
    settings = sorted({**inductor_config.save_config_portable(), "aot_inductor.metadata": None}.items())
    text = [
        gm.print_readable(print_output=False, include_stride=True),
        _ranges(gm),
        *described,
        *examples,
        repr(sorted((options or {}).items())),
        repr(settings),
        repr(target_machine()),
        *sources,
        *(version(name) for name in ("torch", "deepmd-kit")),
        platform.python_version(),
        str(torch.get_num_threads()),
    ]
    return hashlib.sha256("\0".join(text).encode()).hexdigest()


def _in_code(value: torch.Tensor) -> str:
    """Value of a tensor that TorchInductor may write into the code: a single number, or the same one everywhere (it folds such)."""
    if value.numel() == 0:
        return ""
    number = value.flatten()[0]
    return repr(number.item()) if bool((value == number).all()) else ""


def _ranges(gm: Any) -> str:
    """Ranges and examples of the sizes that are known at run time only."""
    for node in gm.graph.nodes:
        value = node.meta.get("val")
        for size in value.shape if isinstance(value, torch.Tensor) else ():
            if isinstance(size, torch.SymInt):
                known = size.node.shape_env
                return f"{known.var_to_range} {known.backed_var_to_val}"
    return ""


@contextlib.contextmanager
def _order_of_constants() -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Note which tensors AOTInductor writes into its library, in their order, by the name of the attribute."""
    order: list[tuple[str, torch.Tensor]] = []
    original = AotCodeCompiler.compile

    def compile_code(graph: Any, *arguments: Any, **options: Any) -> Any:
        made = original(graph, *arguments, **options)
        order.extend(
            (graph.allocated_constant_name[name], graph.get_original_value_of_constant(name))
            for name in graph.constants
            if name not in graph.folded_constants
        )
        return made

    AotCodeCompiler.compile = compile_code  # type: ignore[method-assign,assignment]
    try:
        yield order
    finally:
        AotCodeCompiler.compile = original  # type: ignore[method-assign]


def as_bytes(value: torch.Tensor) -> bytes:
    """What AOTInductor writes of a tensor of any shape: all of its storage, and zeros to the next multiple of the alignment."""
    if value.numel() == 0:
        return b""
    storage = value.detach().cpu().untyped_storage()
    data = bytes(torch.tensor([], dtype=torch.uint8).set_(storage).numpy())
    return data.ljust(-(-len(data) // _ALIGNMENT) * _ALIGNMENT, b"\0")


def _keep(
    kept: Path, made: Any, constants: dict[str, torch.Tensor], order: list[tuple[str, torch.Tensor]]
) -> None:
    """Keep the files of a program, without its weights, if it is known where these are."""
    paths = [Path(part) for part in made if isinstance(part, str)]
    libraries = [path for path in paths if path.suffix == ".so"]
    if len(paths) != len(made) or len(libraries) != 1:
        return
    parts = [as_bytes(value) for _, value in order]
    if any(
        name not in constants or as_bytes(constants[name]) != part
        for (name, _), part in zip(order, parts, strict=True)
    ):
        return
    blob, library = b"".join(parts), libraries[0].read_bytes()
    if not blob or library.count(blob) != 1:
        return
    places = _Places(libraries[0].name, library.index(blob), [name for name, _ in order], len(blob))
    with (
        written(kept) as unfinished,
        zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        # Without the time, so that freezes beside each other write the same file.
        archive.writestr(zipfile.ZipInfo(_PLACES), json.dumps(places._asdict()))
        for path in paths:
            data = path.read_bytes()
            if path == libraries[0]:
                data = data.replace(blob, bytes(len(blob)))
            archive.writestr(zipfile.ZipInfo(path.name), data, zipfile.ZIP_DEFLATED, 1)


def names_of_constants(kept: Path) -> list[str]:
    """Names of the tensors that a kept program reads, in the graph that it was compiled from."""
    with zipfile.ZipFile(kept) as archive:
        return _Places(**json.loads(archive.read(_PLACES))).names


def unpacked(kept: Path, constants: dict[str, torch.Tensor], folder: Path) -> list[str] | None:
    """Unpack the files of a kept program, with other weights of any shape; None if they do not fit, or it is gone."""
    try:
        return _unpacked(kept, constants, folder)
    except FileNotFoundError:  # another freeze has removed it meanwhile
        return None


def _unpacked(kept: Path, constants: dict[str, torch.Tensor], folder: Path) -> list[str] | None:
    with zipfile.ZipFile(kept) as archive:
        places = _Places(**json.loads(archive.read(_PLACES)))
        if not constants.keys() >= set(places.names):
            return None
        blob = b"".join(as_bytes(constants[name]) for name in places.names)
        if len(blob) != places.length:
            return None
        paths = []
        for name in archive.namelist():
            if name == _PLACES:
                continue
            data = archive.read(name)
            if name == places.library:
                data = data[: places.offset] + blob + data[places.offset + len(blob) :]
            paths.append(folder / name)
            paths[-1].write_bytes(data)
    return [str(path) for path in paths]
