"""How DeePMD-kit's trainers write checkpoints of our models: whole or not at all, with the step that comes next.

Both trainers write in place, so that a training that is killed meanwhile leaves an empty file under the newest name. The
trainer of ``dp --pt`` notes the number of the last step, and a restart does that step once more.
"""

import functools
import inspect
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deepmd_gnn.files.whole_file import whole_file
from deepmd_gnn.host.classes import is_ours
from deepmd_gnn.host.early_stop import run_until_no_better
from deepmd_gnn.host.interface import HostInterface
from deepmd_gnn.host.labels import check_trainer
from deepmd_gnn.host.stored_uncertainty import forget_uncertainty
from deepmd_gnn.host.task_gradients import watch_gradients

_NUMBERED = re.compile(r"(.*)-(\d+)\.pt")


def check_whole(path: Path) -> None:
    """Refuse a checkpoint that is cut short.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ValueError
        Names the newest whole checkpoint beside it.
    """
    if not path.is_file() or zipfile.is_zipfile(path):  # a missing file is named by the host
        return
    earlier = _newest_whole(path)
    advice = (
        f"Continue from {earlier}, the newest whole one." if earlier else "There is no whole one beside it."
    )
    raise ValueError(
        f"mace model: the checkpoint {path} is cut short ({path.stat().st_size} bytes): the training was probably ended while it "
        f"was written. {advice}"
    )


def _newest_whole(cut: Path) -> Path | None:
    """Newest numbered checkpoint of the same training that is a whole archive."""
    name = _NUMBERED.fullmatch(cut.resolve().name)
    prefix = name[1] if name else cut.stem
    steps = {}
    for path in cut.resolve().parent.glob("*.pt"):
        other = _NUMBERED.fullmatch(path.name)
        if other and other[1] == prefix and zipfile.is_zipfile(path):
            steps[int(other[2])] = cut.parent / path.name
    return steps[max(steps)] if steps else None


def checking_checkpoints(original: Callable[..., None]) -> Callable[..., None]:
    """Name checkpoints that are cut short or whose optimiser does not fit, before a trainer reads them.

    Parameters
    ----------
    original : Callable
        ``Trainer.__init__``.

    Returns
    -------
    Callable
        Its replacement.
    """
    signature = inspect.signature(original)

    @functools.wraps(original)
    def init(*args: Any, **named: Any) -> None:
        given = signature.bind_partial(*args, **named).arguments
        for option in ("restart_model", "init_model", "finetune_model"):
            if isinstance(given.get(option), str) and given[option].endswith(".pt"):
                check_whole(Path(given[option]))
        restart, config = given.get("restart_model"), given.get("config")
        if isinstance(restart, str) and isinstance(config, dict) and zipfile.is_zipfile(restart):
            check_order(Path(restart), config["model"])
        original(*args, **named)

    return init


def check_order(path: Path, section: dict[str, Any]) -> None:
    """Refuse to go on with the elements of a model of ours in another order: the optimiser's state is not put in order.

    Parameters
    ----------
    path : Path
        Checkpoint of a restart.
    section : dict[str, Any]
        Model section of the input, with one model or several.

    Raises
    ------
    ValueError
        Names both orders.
    """
    wanted = section.get("model_dict", {"": section})
    wanted = {head: model for head, model in wanted.items() if is_ours(model)}
    if not wanted:
        return
    content = torch.load(path, map_location="cpu", weights_only=True)
    saved = content.get("model", content).get("_extra_state", {}).get("model_params", {})
    before = saved.get("model_dict", {"": saved})
    for head, model in wanted.items():
        ours, theirs = model.get("type_map"), before.get(head, {}).get("type_map")
        if ours and theirs and ours != theirs and sorted(ours) == sorted(theirs):
            raise ValueError(
                f"{model['type']} model: {path} was trained with type_map {theirs}, but the model section has {ours}. --restart goes on with "
                "the state of the optimiser, which stays in the old order. Write the old order into the model section, or use "
                "--init-model, which begins with a new optimiser and puts the weights into the new order."
            )


def looking_first(original: Callable[..., None]) -> Callable[..., None]:
    """Read all data of a training of our models before its first step, drop what will not fit its weights, and watch its steps.

    Parameters
    ----------
    original : Callable
        ``Trainer.run``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def run(self: Any) -> None:
        if not _trains_ours(self):
            original(self)
            return
        if self.rank == 0:
            check_trainer(self)
        for model in _models(self):
            forget_uncertainty(model, "it belongs to the weights of the file that the training starts from")
        gradients = watch_gradients(self)
        run_until_no_better(self, lambda: original(self))
        if gradients is not None:
            gradients.tell_end()

    return run


def writing_whole(original: Callable[..., None]) -> Callable[..., None]:
    """Write checkpoints of our models whole or not at all, with the number of steps done.

    Parameters
    ----------
    original : Callable
        ``Trainer._write_checkpoint``.

    Returns
    -------
    Callable
        Its replacement.
    """

    @functools.wraps(original)
    def write_checkpoint(self: Any, path: Path, *data: dict[str, Any], **options: Any) -> None:
        if self.rank != 0 or not _trains_ours(self):
            original(self, path, *data, **options)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        store = options.get("store")
        if store is not None:  # the trainer of dp --pt
            options["store"] = _Nothing()  # the name that it would prune by is not the final one
            _count_from_one(*data, done=self.num_steps > 0)
        with whole_file(path) as unfinished:
            original(self, unfinished, *data, **options)
        if store is not None:
            store.prune(path)

    return write_checkpoint


class _Nothing:
    """Stands for a store of checkpoints while one of them has no final name."""

    def prune(self, path: Path) -> None:
        """Keep all."""


def _count_from_one(checkpoint: dict[str, Any], *, done: bool) -> None:
    """Note the number of steps done, from which a restart goes on, in place of the index of the last one."""
    extra = checkpoint["model"]["_extra_state"]
    infos = extra["train_infos"]
    checkpoint["model"]["_extra_state"] = {
        **extra, "train_infos": {**infos, "step": infos["step"] + int(done)}
    }  # fmt: skip


def _trains_ours(trainer: Any) -> bool:
    """Whether all models of a trainer are ours; compiled ones keep theirs inside."""
    return all(isinstance(model, HostInterface) for model in _models(trainer))


def _models(trainer: Any) -> list[Any]:
    models = trainer.model.values() if trainer.multi_task else [trainer.model]
    return [getattr(model, "original_model", model) for model in models]
