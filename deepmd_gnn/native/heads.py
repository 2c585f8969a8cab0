"""All heads of a native MACE file as the tasks of one checkpoint."""

import json
from pathlib import Path
from typing import Any

from deepmd_gnn.config.sections import SECTIONS
from deepmd_gnn.files.whole_file import whole_file
from deepmd_gnn.mace import MaceModel
from deepmd_gnn.native.conversion import check_place, gentle_training, model_section, provenance
from deepmd_gnn.native.reader import load_heads


def convert_heads(
    source: str | Path,
    output: str | Path,
    elements: list[str] | None = None,
    precision: str | None = None,
    sel: int | None = None,
    *,
    trust: bool = False,
    architecture: str | Path | None = None,
) -> dict[str, MaceModel]:
    """Convert a native MACE model with a task for each head.

    Parameters
    ----------
    source : str or Path
        A ``.model`` file.
    output : str or Path
        Checkpoint for ``dp --pt``, ends in ``.pt``; an ``input.json`` of all tasks is written beside it as ``.json``, unless there is one.
    elements, precision, sel, trust, architecture
        As for :func:`~deepmd_gnn.native.reader.load_mace`.

    Returns
    -------
    dict[str, MaceModel]
        The models that were written, by the names of the heads.

    Raises
    ------
    ValueError
        If the output has another suffix, its folder does not exist, it is a file that is read, or `source` cannot be
        converted; nothing is written then.
    """
    output = Path(output)
    if output.suffix != ".pt":
        raise ValueError(
            f"The output '{output}' must end in .pt: a frozen file has one head. Choose it with --head NAME."
        )
    check_place(output, source, architecture)
    models = load_heads(source, elements, precision, sel, trust=trust, architecture=architecture)
    origin = provenance(source, "")  # the file is read once for all
    save_tasks(models, output, {name: {**origin, "head": name} for name in models})
    _write_input(models, output.with_suffix(".json"))
    return models


def task_section(model: MaceModel) -> dict[str, Any]:
    """The model section in the spelling that tasks can share."""
    flat = model_section(model)
    parts = {part: {k: v for k, v in flat.items() if k in keys} for part, keys in SECTIONS.items()}
    return {
        "type": "mace",
        "type_map": flat["type_map"],
        "descriptor": {"type": "mace", **parts["descriptor"]},
        "fitting_net": parts["fitting_net"],
    }


def shared_sections(model: MaceModel) -> dict[str, Any]:
    """``shared_dict`` of tasks that have the network of a model."""
    section = task_section(model)
    return {"shared_dict": {"elements": section["type_map"], "network": section["descriptor"]}}


def shared_tasks(models: dict[str, MaceModel]) -> dict[str, Any]:
    """``model_dict`` of tasks that share the network of :func:`shared_sections`; E0 come with the weights."""
    tasks = {}
    for name, model in models.items():
        fitting = task_section(model)["fitting_net"].items()
        own = {key: value for key, value in fitting if key != "atomic_energies"}
        tasks[name] = {"type": "mace", "type_map": "elements", "descriptor": "network", "fitting_net": own}
    return tasks


def save_tasks(
    models: dict[str, MaceModel], path: Path, sources: dict[str, dict[str, str]] | None = None
) -> None:
    """Write a checkpoint as multi-task training does: every task has the whole network, equal in what is shared.

    Parameters
    ----------
    models : dict[str, MaceModel]
        By name of the task.
    path : Path
        Of the checkpoint.
    sources : dict[str, dict[str, str]], optional
        Where they are from, :func:`~deepmd_gnn.native.conversion.provenance`.
    """
    import torch
    from deepmd.pt.train.wrapper import ModelWrapper

    parameters = {}
    for name, model in models.items():
        source = {"source": sources[name]} if sources else {}
        parameters[name] = {**task_section(model), "info": {"versions": model.versions, **source}}
    shared = shared_sections(next(iter(models.values())))
    content = json.loads(json.dumps({**shared, "model_dict": parameters}))
    state = ModelWrapper(dict(models), model_params=content).state_dict()
    with whole_file(path) as unfinished:
        torch.save({"model": state, "optimizer": None}, unfinished)


def _write_input(models: dict[str, MaceModel], path: Path) -> None:
    """Write an input that goes on with all heads; an existing file is kept."""
    if path.exists():
        return
    training = gentle_training()
    loss, settings = training.pop("loss"), training.pop("training")
    data = settings.pop("training_data")
    tasks = {name: {**task, "finetune_head": name} for name, task in shared_tasks(models).items()}
    content = {
        "model": {**shared_sections(next(iter(models.values()))), "model_dict": tasks},
        **training,
        "loss_dict": dict.fromkeys(models, loss),
        "training": {
            "data_dict": {name: {"training_data": data} for name in models},
            "model_prob": dict.fromkeys(models, 1.0),
            **settings,
        },
    }
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
