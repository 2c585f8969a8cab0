"""Files of native MACE, of the package nequip and of the other plugin deepmd-gnn as files of DeePMD-kit: ``.pt`` to train on, ``.pth`` and ``.pt2`` to run."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from deepmd_gnn.config.mm_types import is_mm
from deepmd_gnn.files.model_files import read_model_file
from deepmd_gnn.files.nequip_package import weights_of
from deepmd_gnn.files.whole_file import refuse_same, whole_file
from deepmd_gnn.host.freeze import freeze
from deepmd_gnn.mace import MaceModel
from deepmd_gnn.native.package_nequip import load_package_nequip
from deepmd_gnn.native.plugin_nequip import load_plugin_nequip
from deepmd_gnn.native.reader import load_head
from deepmd_gnn.nequip import NequipModel

SUFFIXES = (".pt", ".pth", ".pt2")


def convert(
    source: str | Path,
    output: str | Path,
    head: str | None = None,
    elements: list[str] | None = None,
    precision: str | None = None,
    sel: int | None = None,
    *,
    trust: bool = False,
    architecture: str | Path | None = None,
    cpu: str | None = None,
) -> MaceModel | NequipModel:
    """Convert a native MACE model, a model of the package nequip 0.6, or a MACE or NequIP model of the plugin deepmd-gnn 0.x.

    Parameters
    ----------
    source : str or Path
        A ``.model`` file; the folder of a training of nequip or a file of it (see
        :func:`~deepmd_gnn.files.nequip_package.read_package_file`); or a checkpoint or frozen file of that plugin.
    output : str or Path
        Ends in ``.pt`` (checkpoint for ``dp --pt``; an ``input.json`` to train on is written beside it as
        ``.json``, unless there is one), ``.pth`` or ``.pt2`` (frozen).
    head, elements, precision, sel, trust, architecture
        As for :func:`~deepmd_gnn.native.reader.load_mace`.
    cpu : str, optional
        CPUs that a ``.pt2`` is for, see :func:`~deepmd_gnn.host.freezing.evaluated_by`.

    Returns
    -------
    MaceModel or NequipModel
        The model that was written.

    Raises
    ------
    ValueError
        If the output has another suffix, its folder does not exist, it is a file that is read, or `source` cannot be
        converted; nothing is written then.
    """
    output = Path(output)
    if output.suffix not in SUFFIXES:
        raise ValueError(f"The output '{output}' must end in one of {', '.join(SUFFIXES)}.")
    source = weights_of(source)
    check_place(output, source, architecture)
    nequip = None
    if not trust:
        choices = (source, head, elements, precision, sel)
        nequip = load_plugin_nequip(*choices) or load_package_nequip(*choices)
    model, name = nequip or load_head(
        source, head, elements, precision, sel, trust=trust, architecture=architecture
    )
    origin = provenance(source, name)
    if output.suffix == ".pt":
        save_checkpoint(model, output, origin)
        write_input(model, output.with_suffix(".json"))
        return model
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.pt"
        save_checkpoint(model, checkpoint, origin)
        freeze(checkpoint, output, cpu=cpu)
    return model


def check_place(output: Path, source: str | Path, architecture: str | Path | None) -> None:
    """Refuse an output in a folder that does not exist, one of the files that are read, or a checkpoint of something else."""
    if not output.parent.is_dir():
        raise ValueError(f"The folder of the output '{output}' does not exist.")
    refuse_same(source, output)
    if architecture is not None:
        refuse_same(architecture, output)
    if output.suffix == ".pt" and output.exists() and not _was_converted(output):
        raise ValueError(
            f"{output}: is there already, and not what `deepmd-gnn convert` writes: a training, perhaps. Give another name, or remove "
            "it first."
        )


def _was_converted(path: Path) -> bool:
    """Whether a checkpoint can be had again by converting once more."""
    try:
        stored = read_model_file(path)
    except (ValueError, OSError):
        return False
    return (
        stored.source is not None and not stored.training.get("optimizer") and not stored.training.get("step")
    )


def provenance(source: str | Path, head: str) -> dict[str, str]:
    """Where a converted model is from, to be kept in what is written.

    Parameters
    ----------
    source : str or Path
        The native file.
    head : str
        Which head of it was converted.

    Returns
    -------
    dict[str, str]
        ``file`` (its name, without folders), ``sha256`` and ``head``.
    """
    return {"file": Path(source).name, "sha256": sha256_of(source), "head": head}


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def model_section(model: MaceModel | NequipModel) -> dict[str, Any]:
    """The ``model`` section of an ``input.json`` that describes a model, statistics included.

    Parameters
    ----------
    model : MaceModel or NequipModel
        The model.

    Returns
    -------
    dict[str, Any]
        Plain values.
    """
    pairs = zip(model.type_map, model.out_bias.flatten().tolist(), strict=True)
    energies = {name: energy for name, energy in pairs if not is_mm(name)}  # none is given for MM types
    return {
        "type": model.config.kind,
        "type_map": list(model.type_map),
        **model.config.to_dict(),
        "avg_num_neighbors": float(model.energy_model.avg_num_neighbors),
        "scale": float(model.energy_model.scale),
        "atomic_energies": energies,
    }


def save_checkpoint(
    model: MaceModel | NequipModel, path: str | Path, source: dict[str, str] | None = None
) -> None:
    """Write a checkpoint as ``dp --pt train`` does.

    Parameters
    ----------
    model : MaceModel or NequipModel
        The model.
    path : str or Path
        Of the checkpoint.
    source : dict[str, str], optional
        From :func:`provenance`.
    """
    import torch
    from deepmd.pt.train.wrapper import ModelWrapper

    # Through JSON: the host reads checkpoints with weights_only, which admits plain values only.
    info = {"versions": model.versions, **({"source": source} if source else {})}
    parameters = json.loads(json.dumps({**model_section(model), "info": info}))
    state = ModelWrapper(model, model_params=parameters).state_dict()
    # --init-model asks for the key of the optimizer; None starts a new one.
    with whole_file(path) as unfinished:
        torch.save({"model": state, "optimizer": None}, unfinished)


def write_input(model: MaceModel | NequipModel, path: str | Path) -> None:
    """Write an input for ``dp --pt train`` that fits a model; an existing file is kept.

    The settings are those of gentle fine-tuning: a small learning rate, and forces and energies weighted as in MACE.

    Parameters
    ----------
    model : MaceModel or NequipModel
        The model.
    path : str or Path
        Of the input.
    """
    path = Path(path)
    if path.exists():
        return
    section = model_section(model)
    # E0 comes with the weights or is refitted; without it, type_map alone has to be changed for other elements.
    del section["atomic_energies"]
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps({"model": section, **gentle_training()}, indent=2) + "\n")


def gentle_training() -> dict[str, Any]:
    """Everything in an input but the model section: a small learning rate, and forces and energies weighted as in MACE."""
    return {
        "learning_rate": {"type": "cosine", "start_lr": 1e-4, "stop_lr": 1e-6},
        "optimizer": {"type": "Adam"},
        "loss": {
            "type": "ener",
            "start_pref_e": 1,
            "limit_pref_e": 100,
            "start_pref_f": 100,
            "limit_pref_f": 100,
            "intensive_ener_virial": True,
        },
        "training": {
            "training_data": {"systems": ["PATH/TO/TRAINING/DATA"], "batch_size": 1},
            "numb_steps": 10000,
            "gradient_max_norm": 10.0,
        },
    }
