"""Models of this package as native MACE models."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from deepmd.pt.model.model import get_model

from deepmd_gnn.files.summary import summarise
from deepmd_gnn.files.whole_file import refuse_existing, refuse_same, whole_file
from deepmd_gnn.mace import MaceModel
from deepmd_gnn.mace_network import build_native

if TYPE_CHECKING:
    from deepmd_gnn.mace_network import NativeMace


def export_native(model: str | Path | MaceModel, output: str | Path, branch: str | None = None) -> None:
    """Write a native MACE model that ``MACECalculator`` runs with the same numbers.

    Parameters
    ----------
    model : str, Path or MaceModel
        A checkpoint (``.pt``) or a model.
    output : str or Path
        Of the pickled native model.
    branch : str, optional
        Branch of a multi-task checkpoint.

    Raises
    ------
    ValueError
        If the output is not named ``.model`` or is there already, or the checkpoint holds no MACE model or one that
        native MACE cannot express.
    """
    output = Path(output)
    # MACE goes by no suffix, but a .pt here would be a checkpoint that DeePMD-kit cannot read any more.
    if output.suffix != ".model":
        raise ValueError(f"The output '{output}' must end in .model.")
    if not output.parent.is_dir():
        raise ValueError(f"The folder of the output '{output}' does not exist.")
    if isinstance(model, (str, Path)):
        refuse_same(model, output)
    # It may be the published model that the training started from.
    refuse_existing(output)
    loaded = load_checkpoint(model, branch) if isinstance(model, (str, Path)) else model
    native = native_from(loaded)
    with whole_file(output) as unfinished:
        torch.save(native, unfinished)


def load_checkpoint(path: str | Path, branch: str | None = None) -> MaceModel:
    """Load a model from a checkpoint of ``dp --pt train`` or ``deepmd-gnn convert``.

    Parameters
    ----------
    path : str or Path
        The checkpoint.
    branch : str, optional
        Branch of a multi-task checkpoint.

    Returns
    -------
    MaceModel
        In eval mode.

    Raises
    ------
    ValueError
        If the file holds no such model, or the branch is missing or superfluous.
    """
    summary = summarise(Path(path))
    if summary["kind"] != "pt":
        raise ValueError(
            f"{path} is a {summary['kind_name']}, not a checkpoint, from which models are exported."
        )
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("model", content)
    parameters = state["_extra_state"]["model_params"]
    branches = list(parameters.get("model_dict", {}))
    if branches and branch not in branches:
        raise ValueError(f"{path} has the branches {', '.join(branches)}. Choose one with --branch NAME.")
    if not branches and branch is not None:
        raise ValueError(f"{path} has no branches; leave out --branch.")
    section = parameters["model_dict"][branch] if branches else parameters
    if section.get("type") != "mace":
        raise ValueError(f"{path} holds a model of type {section.get('type')!r}, not 'mace'.")
    prefix = f"model.{branch or 'Default'}."
    model = get_model(dict(section))
    model.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    return model.eval()


def native_from(model: MaceModel) -> "NativeMace":
    """Build the native model.

    Parameters
    ----------
    model : MaceModel
        A model of this package.

    Returns
    -------
    torch.nn.Module
        ``mace.modules.ScaleShiftMACE`` in the model's precision, on the CPU.

    Raises
    ------
    ValueError
        If native MACE cannot express the model.
    """
    if model.config.distance_transform == "OldSoft":
        raise ValueError(
            "The model has the Soft transform of MACE 0.3.5 to 0.3.8 (distance_transform OldSoft), which the installed "
            "mace-torch does not have. Not exported."
        )
    if model.config.beside():
        raise ValueError(
            f"Native MACE does not have {', '.join(model.config.beside())}, options of mlip's MACE, which the model uses. Not exported."
        )
    if model.graphs.excludes_pairs or model.excludes_atoms:
        raise ValueError(
            "Native MACE has no pair_exclude_types, no atom_exclude_types and no MM types; the model uses them."
        )
    network = model.energy_model
    numbers = network.atomic_numbers.tolist()
    native = build_native(model.config, numbers)
    ours = {k: v.cpu() for k, v in network.state_dict().items() if k not in ("scale", "avg_num_neighbors")}
    with torch.no_grad():
        for name, value in native.state_dict().items():
            if name in ours:
                value.copy_(ours.pop(name).reshape(value.shape))
        native.scale_shift.scale.fill_(float(network.scale))
        energies = native.atomic_energies_fn.atomic_energies
        energies.copy_(model.out_bias.cpu().reshape(energies.shape))
    assert not ours, f"not exported: {sorted(ours)}"
    for block in native.interactions:
        block.avg_num_neighbors = float(network.avg_num_neighbors)
    return native.to(network.dtype).eval()
