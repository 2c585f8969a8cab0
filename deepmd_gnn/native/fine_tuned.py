"""Models of a fine-tuning: the foundation with the elements of the data, where the training starts, and what comes out."""

import copy
import json
from pathlib import Path
from typing import Any

from deepmd_gnn.mace import MaceModel
from deepmd_gnn.native.conversion import model_section, save_checkpoint
from deepmd_gnn.native.heads import save_tasks, shared_sections, shared_tasks
from deepmd_gnn.native.reader import load_mace
from deepmd_gnn.native.writer import load_checkpoint
from deepmd_gnn.tools.best_checkpoint import Best, best_checkpoint
from deepmd_gnn.tools.fine_tuning import NEW, REPLAY


def load_foundation(source: str | Path, head: str | None, elements: list[str]) -> tuple[MaceModel, list[str]]:
    """Load a model, and leave it the elements of the data.

    Parameters
    ----------
    source : str or Path
        Checkpoint (``.pt``) or native ``.model``.
    head : str, optional
        Branch or head, if there are several.
    elements : list[str]
        In the order of the new type map.

    Returns
    -------
    model : MaceModel
        In eval mode. Elements that it did not know have random weights, drawn from the seed of its options.
    new : list[str]
        These elements.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    model = load_checkpoint(source, head) if Path(source).suffix == ".pt" else load_mace(source, head)
    new = [name for name in elements if name not in model.type_map]
    whole = MaceModel.deserialize(model.serialize())  # without adapters
    whole.change_type_map(elements)
    return whole.eval(), new


def check_trained(model: MaceModel, new: list[str], freeze: tuple[str, ...], *, adapters: bool) -> None:
    """Refuse to leave random weights of new elements as they are.

    Parameters
    ----------
    model : MaceModel
        With the new elements.
    new : list[str]
        Which they are.
    freeze : tuple[str, ...]
        Parts that are not trained.
    adapters : bool
        Whether only adapters are.

    Raises
    ------
    ValueError
        Names the elements and the option.
    """
    axes = model.energy_model.element_axes()
    held = [
        part
        for part in freeze
        if any(f"{name}.".startswith(f"{part}.") and name != "atomic_numbers" for name in axes)
    ]
    if new and (adapters or held):
        option = (
            "--adapters, which have none of the weights that belong to an element"
            if adapters
            else f"--freeze {' '.join(held)}"
        )
        raise ValueError(
            f"The foundation does not know {', '.join(new)} of the data: weights of new elements start at random and have to be trained, "
            f"which does not go with {option}. Leave the option out."
        )


def sections(model: MaceModel, *, replayed: bool) -> dict[str, Any]:
    """Model section of the input; with replay that of two tasks which share the network. E0 come with the weights."""
    if replayed:
        return {**shared_sections(model), "model_dict": shared_tasks({NEW: model, REPLAY: model})}
    return {key: value for key, value in model_section(model).items() if key != "atomic_energies"}


def save_start(model: MaceModel, energies: dict[str, float], path: Path, *, replayed: bool) -> None:
    """Write the checkpoint that the training starts from.

    Parameters
    ----------
    model : MaceModel
        The foundation.
    energies : dict[str, float]
        E0 of the new task, eV; elements that it lacks keep theirs.
    path : Path
        Of the checkpoint.
    replayed : bool
        Whether there is a second task, with the foundation's E0.
    """
    new = copy.deepcopy(model)
    bias = new.out_bias.clone()
    for place, name in enumerate(new.type_map):
        bias[0, place, 0] = energies.get(name, float(bias[0, place, 0]))
    new.set_out_bias(bias)
    if replayed:
        save_tasks({NEW: new, REPLAY: model}, path)
    else:
        save_checkpoint(new, path)


def extract(folder: Path) -> tuple[Path, Best]:
    """Take the new task out of the best checkpoint of a fine-tuning; return the file, and which it was."""
    task = NEW if "model_dict" in json.loads((folder / "input.json").read_text())["model"] else None
    best = best_checkpoint(folder, task)
    model = load_checkpoint(best.path, task)
    # By way of the portable form, which has whole weights and no adapters; its options say the statistics that it has now.
    whole = MaceModel.deserialize({**model.serialize(), **model_section(model), "adapters": None})
    save_checkpoint(whole.eval(), folder / "finetuned.pt")
    return folder / "finetuned.pt", best
