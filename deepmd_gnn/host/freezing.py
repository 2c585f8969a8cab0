"""What freezing to ``.pt2`` and ``.pte`` lacks in the host: progress, a file that is whole or absent, one kind of graph."""

import contextlib
import contextvars
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch._inductor.config as inductor_config
from torch._inductor.codegen.cpp import TilingSelect

from deepmd_gnn.files.whole_file import whole_file

log = logging.getLogger("deepmd.deepmd_gnn")
HEARTBEAT = 30.0  # seconds between signs of life
# TorchInductor 2.11 lets vectorised code for the rest of a loop read beyond the end of a tensor.
PLAIN_TAILS = {"cpp.enable_loop_tail_vec": False}
# TorchInductor's settings, and what is replaced in it, belong to the process: one thread at a time compiles.
_compiling = threading.RLock()


class Progress:
    """Stages of a freeze in the log, each with the seconds it took.

    Parameters
    ----------
    name : str
        What is being frozen.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.begin = time.monotonic()
        self.stage_begin = self.begin
        self.stage = ""
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, error: type | None, *rest: object) -> None:
        self._close()
        self._finished.set()
        self._thread.join()
        outcome = "done" if error is None else "stopped, nothing written"
        log.info("%s: %s after %.0f s", self.name, outcome, time.monotonic() - self.begin)

    def enter(self, stage: str) -> None:
        """Begin a stage, and end the one before."""
        self._close()
        self.stage, self.stage_begin = stage, time.monotonic()
        log.info("%s: %s ...", self.name, stage)

    def _close(self) -> None:
        if self.stage:
            log.info("%s: %s took %.0f s", self.name, self.stage, time.monotonic() - self.stage_begin)
        self.stage = ""

    def _beat(self) -> None:
        while not self._finished.wait(HEARTBEAT):
            if self.stage:
                log.info("%s: still %s, %.0f s", self.name, self.stage, time.monotonic() - self.stage_begin)


_current: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("freeze", default=None)


def enter_stage(stage: str) -> None:
    """Tell the freeze that is under way, if any, what comes next."""
    progress = _current.get()
    if progress is not None:
        progress.enter(stage)


@contextlib.contextmanager
def sound_vectorisation() -> Iterator[None]:
    """Keep TorchInductor 2.11 from writing beyond the end of tensors on the CPU.

    If it vectorises a loop around a sum, with another loop between the two, it stores whole vectors for the rest of the
    loop as well (``CppKernelProxy`` looks at the next inner loop only). Such sums are vectorised over their terms
    instead, which is its own default for the innermost loop. A second thread waits here until the first has left.
    """
    with _compiling:
        original = TilingSelect.select_tiling

        def select_tiling(self: Any, fn_list: Any, var_sizes_list: Any) -> tuple[list[int], list[int]]:
            factors, indices = original(self, fn_list, var_sizes_list)
            outer, terms = max(var_sizes_list, key=lambda sizes: len(sizes[1]))
            if indices and terms and indices[0] < len(outer) - 1:
                return factors[:1], [len(outer) + len(terms) - 1]
            return factors, indices

        TilingSelect.select_tiling = select_tiling  # type: ignore[method-assign]
        try:
            yield
        finally:
            TilingSelect.select_tiling = original  # type: ignore[method-assign]


EVALUATIONS = ("kernels", "tables", "networks")
_evaluation: contextvars.ContextVar[str] = contextvars.ContextVar("evaluation", default="kernels")


@contextlib.contextmanager
def evaluated_by(evaluation: str) -> Iterator[None]:
    """Choose how a ``.pt2`` that is frozen inside evaluates the network.

    Parameters
    ----------
    evaluation : str
        ``"kernels"``: generated C++ and radial tables, the default; ``"tables"``: the torch code through TorchInductor,
        with radial tables; ``"networks"``: the torch code alone.

    Raises
    ------
    ValueError
        If there is no such evaluation.
    """
    if evaluation not in EVALUATIONS:
        raise ValueError(
            f"mace model: evaluation is {evaluation!r}; it must be one of {', '.join(EVALUATIONS)}"
        )
    token = _evaluation.set(evaluation)
    try:
        yield
    finally:
        _evaluation.reset(token)


def _compiled_for() -> str:
    """Type of the device that the host compiles a ``.pt2`` for."""
    from deepmd.pt_expt.utils import env

    return str(env.DEVICE.type)


@contextlib.contextmanager
def _for_this_machine(suffix: str) -> Iterator[None]:
    """Refuse to begin without a compiler; link the C++ library, checks of CPU and input and a pool of memory into a ``.pt2``."""
    if suffix != ".pt2":
        yield
        return
    from deepmd_gnn.kernels.cpu.cache import compiled_once
    from deepmd_gnn.kernels.cpu.compiler import check_compiler, cpu_guard, linked_into_models, this_machine
    from deepmd_gnn.kernels.cpu.input_check import input_check
    from deepmd_gnn.kernels.cpu.kept import remove_broken
    from deepmd_gnn.kernels.cpu.memory import kept_memory
    from deepmd_gnn.kernels.cpu.standard_library import with_shared_library

    check_compiler()
    remove_broken()
    with with_shared_library():
        if _compiled_for() != "cpu":  # all of it is about the CPU and its memory
            yield
            return
        with linked_into_models(cpu_guard(this_machine())), kept_memory(), input_check(), compiled_once():
            yield


@contextlib.contextmanager
def _with_kernels(data: dict[str, Any], suffix: str) -> Iterator[dict[str, Any]]:
    """Make the kernels and tables of a serialised model, and note in it which ones."""
    plain = {key: value for key, value in data["model"].items() if key != "@kernels"}
    evaluation = _evaluation.get()
    if suffix != ".pt2" or evaluation == "networks":
        yield {**data, "model": plain}
        return
    from deepmd_gnn.kernels.install import described
    from deepmd_gnn.mace import MaceModel

    device = _compiled_for()
    if evaluation == "kernels" and device not in ("cpu", "cuda"):
        log.warning(
            "mace model: no generated kernels: they run on CPUs and NVIDIA GPUs, this .pt2 is compiled for %s. It reads "
            "radial tables in torch instead.",
            device,
        )
        evaluation = "tables"
    enter_stage(f"making {evaluation}")
    model: Any = MaceModel.deserialize(plain)
    # The host traces on the CPU, whatever it compiles for.
    with described(model.to("cpu"), kernels=evaluation == "kernels", device=device) as description:
        noted = plain if description is None else {**plain, "@kernels": description}
        yield {**data, "model": noted}


def improve(serialization: ModuleType) -> None:
    """Wrap the function with which the host writes exported models; other models than MACE pass through unchanged.

    The host has no hook for this: freeze, change-bias and convert-backend all import that function when they run.

    Parameters
    ----------
    serialization : ModuleType
        ``deepmd.pt_expt.utils.serialization``.
    """
    original: Callable[..., None] = serialization.deserialize_to_file
    if getattr(original, "writes_mace_models", False):
        return

    @functools.wraps(original)
    def deserialize_to_file(
        model_file: str,
        data: dict[str, Any],
        model_json_override: dict[str, Any] | None = None,
        do_atomic_virial: bool = False,
        lower_kind: str = "nlist",
    ) -> None:
        if data["model"].get("type") != "mace":
            original(model_file, data, model_json_override, do_atomic_virial, lower_kind)
            return

        from deepmd_gnn.host.storage import with_arrays

        data = {**data, "model": with_arrays(data["model"])}

        # Whatever was asked for: a padded list could truncate neighbours, and has no form for several ranks.
        def write(path: Path) -> None:
            with (
                sound_vectorisation(),
                inductor_config.patch(PLAIN_TAILS),
                _for_this_machine(path.suffix),
                _with_kernels(data, path.suffix) as content,
            ):
                enter_stage("building the model")
                original(str(path), content, model_json_override, True, "graph")
            if path.suffix == ".pt2":
                from deepmd_gnn.host.frozen_check import check_file

                enter_stage("opening the file in a process of its own")
                check_file(path, data["model"])

        _write_whole(Path(model_file), write)

    deserialize_to_file.writes_mace_models = True  # type: ignore[attr-defined]
    serialization.deserialize_to_file = deserialize_to_file  # type: ignore[attr-defined]


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Write the finished file or none, and tell the stages."""
    with whole_file(target) as unfinished, Progress(target.name) as progress:
        token = _current.set(progress)
        # The name becomes a folder in the archive. If it is "model", torch cannot open a file with a program for ranks.
        written = unfinished.with_name(f"mace{target.suffix}")
        try:
            write(written)
        finally:
            _current.reset(token)
        written.replace(unfinished)
