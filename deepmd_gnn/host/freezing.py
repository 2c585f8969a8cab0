"""What freezing to ``.pt2`` and ``.pte`` lacks in the host: progress, a file that is whole or absent, one kind of graph."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deepmd_gnn.config.charges import refuse_export
from deepmd_gnn.deepmd_ops import refuse_started_mpi
from deepmd_gnn.files.portable import with_arrays
from deepmd_gnn.files.progress import Progress, enter_stage
from deepmd_gnn.files.torch_fixes import (
    PLAIN_HEADERS,
    PLAIN_TAILS,
    PLAIN_TRACING,
    plain_nodes,
    rare_garbage_collection,
    room_for_trials,
    sound_vectorisation,
)
from deepmd_gnn.files.whole_file import whole_file
from deepmd_gnn.graph.compilation import compilation, compiling
from deepmd_gnn.host.classes import is_ours, model_of
from deepmd_gnn.host.frozen_check import check_file
from deepmd_gnn.kernels.cpu.cache import compiled_once
from deepmd_gnn.kernels.cpu.compiler import check_compiler, cpu_guard, linked_into_models
from deepmd_gnn.kernels.cpu.file_operators import file_operators
from deepmd_gnn.kernels.cpu.input_check import input_check
from deepmd_gnn.kernels.cpu.kept import remove_broken
from deepmd_gnn.kernels.cpu.kept_exports import exports_once
from deepmd_gnn.kernels.cpu.kept_programs import programs_once
from deepmd_gnn.kernels.cpu.light_headers import light_programs
from deepmd_gnn.kernels.cpu.memory import kept_memory
from deepmd_gnn.kernels.cpu.standard_library import with_shared_library
from deepmd_gnn.kernels.cpu.targets import (
    NAMES,
    VARIABLE,
    compiled_for,
    plain_machine,
    say_if_slow,
    target_machine,
)
from deepmd_gnn.kernels.install import described

log = logging.getLogger("deepmd.deepmd_gnn")
EVALUATIONS = ("kernels", "tables", "networks")


@contextlib.contextmanager
def evaluated_by(evaluation: str, cpu: str | None = None) -> Iterator[None]:
    """Choose how a ``.pt2`` that is frozen inside evaluates the network, and on which CPUs it runs.

    Parameters
    ----------
    evaluation : str
        ``"kernels"``: generated C++ and radial tables, the default; ``"tables"``: the torch code through TorchInductor,
        with radial tables; ``"networks"``: the torch code alone.
    cpu : str, optional
        A name of :data:`~deepmd_gnn.kernels.cpu.targets.NAMES`.

    Raises
    ------
    ValueError
        If there is no such evaluation or CPU.
    """
    if evaluation not in EVALUATIONS:
        raise ValueError(
            f"mace model: evaluation is {evaluation!r}; it must be one of {', '.join(EVALUATIONS)}"
        )
    if cpu not in (None, *NAMES):
        raise ValueError(f"mace model: cpu is {cpu!r}; it must be one of {', '.join(NAMES)}")
    with compiling(evaluation=evaluation, cpu=cpu):
        yield


def _compiled_for() -> str:
    """Type of the device that the host compiles a ``.pt2`` for."""
    from deepmd.pt_expt.utils import env

    return str(env.DEVICE.type)


@contextlib.contextmanager
def _for_this_machine(suffix: str, taken: list[Path]) -> Iterator[None]:
    """Refuse to begin without a compiler; link the C++ library, checks of CPU and input and a pool of memory into a ``.pt2``.

    Files of earlier freezes that are taken are added to the list.
    """
    if suffix != ".pt2":
        yield
        return

    check_compiler()
    remove_broken()
    with with_shared_library():
        if _compiled_for() != "cpu":
            if compilation().cpu:
                raise ValueError(
                    f"mace model: --cpu is for files that run on CPUs, but this one would be compiled for {_compiled_for()}; "
                    "leave the option out, or hide the GPU (CUDA_VISIBLE_DEVICES= )"
                )
            if os.environ.get(VARIABLE):
                log.warning(
                    "mace model: the environment variable %s is for files that run on CPUs; this one is compiled for %s",
                    VARIABLE,
                    _compiled_for(),
                )
            # The code around the kernels of a GPU needs no vectors, which TorchInductor would try for 45 s.
            with room_for_trials(), compiled_for(plain_machine()):
                yield
            return
        machine = target_machine()
        say_if_slow(machine)
        with (
            compiled_for(machine),
            linked_into_models(cpu_guard(machine)),
            kept_memory(),
            input_check(),
            file_operators(),
            compiled_once(),
            light_programs(),
            programs_once(taken) as programs,
            exports_once(programs),
        ):
            yield


@contextlib.contextmanager
def _with_kernels(data: dict[str, Any], suffix: str) -> Iterator[dict[str, Any]]:
    """Make the kernels and tables of a serialised model, and note in it which ones."""
    plain = {key: value for key, value in data["model"].items() if key != "@kernels"}
    evaluation = compilation().evaluation
    if suffix != ".pt2" or evaluation == "networks":
        yield {**data, "model": plain}
        return

    device = _compiled_for()
    if evaluation == "kernels" and device not in ("cpu", "cuda"):
        log.warning(
            "mace model: no generated kernels: they run on CPUs and NVIDIA GPUs, this .pt2 is compiled for %s. It reads "
            "radial tables in torch instead.",
            device,
        )
        evaluation = "tables"
    enter_stage(f"making {evaluation}")
    model: Any = model_of(plain)
    # The host traces on the CPU, whatever it compiles for.
    with described(model.to("cpu"), kernels=evaluation == "kernels", device=device) as description:
        noted = plain if description is None else {**plain, "@kernels": description}
        yield {**data, "model": noted}


def whole_exports(original: Callable[..., None]) -> Callable[..., None]:
    """Let the host write exported files of our models; freeze, change-bias and convert-backend all call this function.

    Parameters
    ----------
    original : Callable
        ``deepmd.pt_expt.utils.serialization.deserialize_to_file``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def deserialize_to_file(
        model_file: str,
        data: dict[str, Any],
        model_json_override: dict[str, Any] | None = None,
        do_atomic_virial: bool = False,
        lower_kind: str = "nlist",
    ) -> None:
        if not is_ours(data["model"]):
            original(model_file, data, model_json_override, do_atomic_virial, lower_kind)
            return

        refuse_export(bool(data["model"].get("use_coulomb_term")))
        refuse_started_mpi()
        data = {**data, "model": with_arrays(data["model"])}

        import torch._dynamo.config as dynamo_config
        import torch._inductor.config as inductor_config  # half a second, for those who compile

        # Whatever was asked for: a padded list could truncate neighbours, and has no form for several ranks.
        def compile_to(path: Path, taken: list[Path]) -> None:
            with (
                sound_vectorisation(),
                plain_nodes(),
                rare_garbage_collection(),
                inductor_config.patch({**PLAIN_TAILS, **PLAIN_HEADERS}),
                dynamo_config.patch(PLAIN_TRACING),
                _for_this_machine(path.suffix, taken),
                _with_kernels(data, path.suffix) as content,
            ):
                enter_stage("building the model")
                original(str(path), content, model_json_override, True, "graph")

        _write_whole(Path(model_file), lambda path: _compiled_and_checked(path, data["model"], compile_to))

    return deserialize_to_file


def _compiled_and_checked(
    path: Path, model: dict[str, Any], compile_to: Callable[[Path, list[Path]], None]
) -> None:
    """Write a file and compare it with its model; once more, if it was made of a kept program and differs."""
    taken: list[Path] = []
    try:
        compile_to(path, taken)
        _check(path, model)
    except RuntimeError as error:
        if not taken:
            raise
        log.warning("mace model: the program of an earlier freeze does not fit, it is made anew (%s)", error)
        for kept in (*taken, path):
            kept.unlink(missing_ok=True)
        compile_to(path, [])
        _check(path, model)


def _check(path: Path, model: dict[str, Any]) -> None:
    """Compare a ``.pt2`` with its model; other files are not compiled."""
    if path.suffix == ".pt2":
        enter_stage("opening the file in a process of its own")
        check_file(path, model)


def _write_whole(target: Path, write: Callable[[Path], None]) -> None:
    """Write the finished file or none, and tell the stages."""
    with whole_file(target) as unfinished, Progress(target.name) as progress:
        # The name becomes a folder in the archive. If it is "model", torch cannot open a file with a program for ranks.
        written = unfinished.with_name(f"mace{target.suffix}")
        with compiling(progress=progress):
            write(written)
        written.replace(unfinished)
