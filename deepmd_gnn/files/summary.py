"""From the content of a model file to plain values about it."""

import json
from pathlib import Path
from typing import Any

from deepmd_gnn.config.described import STATISTICS, options_of
from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.config.networks import CONFIGS, Config, config_class
from deepmd_gnn.config.options import config_from_options
from deepmd_gnn.config.sections import flatten
from deepmd_gnn.config.versions import newer_writer
from deepmd_gnn.files.fitting_nequip import nequip_misfit
from deepmd_gnn.files.fitting_weights import misfit
from deepmd_gnn.files.model_files import KINDS, ModelFileError, StoredFile, StoredModel, read_model_file

# The parts of the network with learned weights; everything else is a basis, a table or a statistic.
_LEARNED = tuple(
    f"energy_model.{part}."
    for part in (
        "node_embedding",
        "joint_embedding",
        "embedding_readout",
        "partial_charges",
        "interactions",
        "products",
        "readouts",
    )
)
# Told elsewhere, from the weights, or without influence on the result.
_NO_ARCHITECTURE = ("avg_num_neighbors", "scale", "atomic_energies", "precision", "r_max", "sel", "seed")
_LOWER = {"graph": "edge list (graph)", "nlist": "dense neighbour list (nlist)"}
# torch's names for what a library was compiled for.
_DEVICE = {
    "device": "AOTI_DEVICE_KEY",
    "platform": "AOTI_PLATFORM",
    "machine": "AOTI_MACHINE",
    "cpu_isa": "AOTI_CPU_ISA",
    "compute_capability": "AOTI_COMPUTE_CAPABILITY",
}


def summarise(path: Path) -> dict[str, Any]:
    """Summarise a model file.

    Parameters
    ----------
    path : Path
        Checkpoint or frozen model.

    Returns
    -------
    dict[str, Any]
        Values that JSON can hold: ``file``, ``size_bytes``, ``kind``, ``kind_name``, ``evaluation``, ``lammps``,
        ``multi_rank``, ``with_comm_artifact``, ``atomic_virial``, ``compiled_for``, ``kernels`` and ``radial_tables`` (None: none), ``versions``
        and ``source`` (None: not recorded), ``training`` (None for frozen models), ``next`` (a command), ``warnings``, and ``models``: one per head, with
        ``head``, ``type``, ``type_map``, ``r_max`` (Å), ``architecture``, ``precision``, ``parameters``,
        ``avg_num_neighbors``, ``scale`` (eV), ``atomic_energies`` (eV), excluded types, and ``uncertainty`` (None without).

    Raises
    ------
    ModelFileError
        If the file cannot be read or holds no MACE or NequIP model.
    """
    stored = read_model_file(path)
    models = [_model(stored, model) for model in stored.models]
    types = sorted({model["type"] for model in models})
    if not CONFIGS.keys() & types:
        raise ModelFileError(
            f"{path}: holds no MACE or NequIP model (type: {', '.join(types) or 'none'}); `dp show` describes other models."
        )
    many = _multi_rank(stored)
    return {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "kind": stored.kind,
        "kind_name": KINDS[stored.kind],
        "evaluation": _evaluation(stored),
        "lammps": _lammps(stored, many),
        "multi_rank": many,
        "with_comm_artifact": stored.with_comm if stored.kind == "pt2" else None,
        "atomic_virial": bool(stored.metadata.get("do_atomic_virial", stored.kind in ("pt", "pth"))),
        "compiled_for": {name: stored.compiled_for[key] for name, key in _DEVICE.items() if stored.compiled_for.get(key)},
        "kernels": stored.kernels if _has_kernels(stored) else None,
        "radial_tables": stored.kernels["tables"] if stored.kernels else None,
        "versions": stored.versions,
        "source": stored.source,
        "training": stored.training or None,
        "next": _next(stored, models),
        "warnings": _warnings(stored),
        "models": models,
    }  # fmt: skip


def choose_model(summary: dict[str, Any], head: str | None) -> dict[str, Any]:
    """Pick one model of a file.

    Parameters
    ----------
    summary : dict[str, Any]
        From :func:`summarise`.
    head : str, optional
        Branch of a multi-task checkpoint; needed if there are several.

    Returns
    -------
    dict[str, Any]
        Its entry of ``models``.

    Raises
    ------
    ModelFileError
        If there is no such branch, or it holds no model of this package.
    """
    models = {model["head"]: model for model in summary["models"]}
    if head is None and len(models) == 1:
        head = next(iter(models))
    if head not in models:
        names = ", ".join(str(name) for name in models if name is not None) or "no branches"
        asked = "several branches" if head is None else f"no branch '{head}'"
        raise ModelFileError(f"{summary['file']}: has {asked}. Choose with --head; it has: {names}.")
    if models[head]["type"] not in CONFIGS:
        raise ModelFileError(
            f"{summary['file']}: branch {head} is no MACE or NequIP model but {models[head]['type']}."
        )
    return models[head]


def _model(stored: StoredFile, model: StoredModel) -> dict[str, Any]:
    kind = str(model.section.get("type", "standard"))
    if kind not in CONFIGS:
        return {"head": model.head, "type": kind}
    where = str(stored.path) if model.head is None else f"{stored.path}, head {model.head}"
    try:
        type_map = list(model.section["type_map"])
        energies = model.state["out_bias"].reshape(-1).tolist()
        return {
            "head": model.head,
            "type": kind,
            "type_map": type_map,
            "r_max": _cutoff(model.section, kind),
            "architecture": _architecture(model, where, stored.versions),
            "precision": str(model.state["energy_model.node_embedding.linear.weight"].dtype),
            "parameters": _parameters(model),
            "avg_num_neighbors": float(model.state["energy_model.avg_num_neighbors"]),
            "scale": float(model.state["energy_model.scale"]),
            "atomic_energies": dict(zip(type_map, energies, strict=True)),
            "pair_exclude_types": [[type_map[i] for i in pair] for pair in model.section.get("pair_exclude_types") or []],
            "atom_exclude_types": [type_map[i] for i in model.section.get("atom_exclude_types") or []],
            "uncertainty": _uncertainty(model),
        }  # fmt: skip
    except ModelFileError:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{where}: a {kind} model, but {type(error).__name__} {error} when reading it; the file is damaged or "
            "was written by another version of deepmd-gnn."
        ) from error


def _cutoff(section: dict[str, Any], kind: str) -> float:
    """Å; in the model section, its ``descriptor``, or under the host's name."""
    flat = flatten(section, config_class(kind))
    return float(flat["r_max"] if "r_max" in flat else flat["rcut"])


def _architecture(model: StoredModel, where: str, versions: Any) -> dict[str, Any] | None:
    """Resolved options; None where the file records only what the C++ interface needs."""
    options = {key: value for key, value in model.section.items() if not key.startswith("@")}
    if set(options) <= {"type", "type_map", "r_max"}:
        return None
    try:
        config = config_from_options(options, config_class(options.get("type")))  # type: ignore[type-var]
    except ValueError as error:
        newer = newer_writer(versions)
        if newer:
            raise ModelFileError(f"{where}: {newer}. ({error})") from error
        raise ModelFileError(
            f"{where}: damaged, or written by another version of deepmd-gnn: {error}"
        ) from error
    prefix = "energy_model."
    shapes = {k.removeprefix(prefix): v.shape for k, v in model.state.items() if k.startswith(prefix)}
    ntypes = len(model.section["type_map"])
    wrong = (
        nequip_misfit(config, ntypes, shapes)
        if isinstance(config, NequipConfig)
        else misfit(config, ntypes, shapes)
    )
    wrong = wrong or _contradiction(config, model)
    if wrong:
        raise ModelFileError(
            f"{where}: its options do not fit its weights ({wrong}); the file is damaged or forged."
        )
    return {key: value for key, value in config.to_dict().items() if key not in _NO_ARCHITECTURE}


def _contradiction(config: Config, model: StoredModel) -> str | None:
    """The first option that is another one in the description than beside the weights."""
    section = model.section
    excluded = (section.get(f"{kind}_exclude_types") or [] for kind in ("pair", "atom"))
    stated = options_of(config, list(section["type_map"]), *excluded)
    for tensor, options in stated.items():
        # Older files do not have it.
        kept = json.loads(bytes(model.state[tensor].tolist())) if tensor in model.state else {}
        for name, value in json.loads(json.dumps(options)).items():
            if name in kept and kept[name] != value and name not in STATISTICS:
                return f"'{name}' is {value!r} in its description, but the weights are of a model with {kept[name]!r}"
    return None


def _uncertainty(model: StoredModel) -> dict[str, Any] | None:
    """What ``deepmd-gnn uncertainty`` noted."""
    noted = model.state.get("uncertainty.description")
    if noted is None or not noted.size:
        return None
    return dict(json.loads(bytes(noted.reshape(-1).tolist())))


def _parameters(model: StoredModel) -> int:
    learned = _LEARNED
    if model.section.get("type") == "nequip" and model.section.get("BesselBasis_trainable", True):
        learned = (*_LEARNED, "energy_model.radial_embedding.basis.")
    return sum(
        array.size
        for name, array in model.state.items()
        if name.startswith(learned) and not name.endswith(".value")  # constants, stored by TorchScript
    )


def _evaluation(stored: StoredFile) -> str:
    if stored.kind == "pt":
        return "PyTorch, from Python"
    if stored.kind == "pth":
        return "TorchScript"
    lower = stored.metadata.get("lower_input_kind", "nlist")  # DeePMD-kit's default where it is absent
    name = "AOTInductor" if stored.kind == "pt2" else "exported program"
    if stored.kernels:
        name += " with generated kernels" if _has_kernels(stored) else " with radial tables"
    return f"{name}, {_LOWER.get(lower, lower)}"


def _has_kernels(stored: StoredFile) -> bool:
    """Whether the file has kernels; what it says of them may be its radial tables only."""
    return bool(stored.kernels and ("vector_bits" in stored.kernels or "triton" in stored.kernels))


def _multi_rank(stored: StoredFile) -> bool:
    """Whether LAMMPS can run the file on several ranks."""
    if _is_charged(stored):
        return False
    if stored.kind == "pt2":
        return stored.with_comm or not stored.metadata.get("has_message_passing", True)
    return stored.kind == "pth"


def _is_charged(stored: StoredFile) -> bool:
    """Whether a model of the file has charges of atoms, whose sum needs all atoms on one rank."""
    return any(
        flatten(model.section).get("use_coulomb_term")
        for model in stored.models
        if model.section.get("type") == "mace"
    )


def _lammps(stored: StoredFile, many: bool) -> str:
    kind = stored.kind
    if kind == "pt" and _is_charged(stored):
        return "after `dp --pt freeze` (.pth), on one rank"
    if kind == "pt":
        return "after `dp --pt freeze` (.pth) or `dp --pt-expt freeze` (.pt2)"
    if kind == "pte":
        return "no, Python only; freeze to .pth or .pt2"
    if kind == "pth":
        return (
            "one rank and many" if many else "one rank only: charges of atoms are shifted to the total charge"
        )
    one = "one rank (with atom_modify map yes)"
    return (
        f"{one} and many (program with exchange: {'yes' if stored.with_comm else 'not needed'})"
        if many
        else f"{one} only: no library for several ranks inside"
    )


def _next(stored: StoredFile, models: list[dict[str, Any]]) -> str:
    """What users mostly do with such a file."""
    file = stored.path.name
    if stored.kind == "pt" and _is_charged(stored):
        return f"dp --pt freeze -c {file} -o {stored.path.stem.split('.')[0]}.pth"
    if stored.kind == "pt":
        head = f" --head {stored.models[0].head}" if stored.models[0].head else ""
        return f"dp --pt-expt freeze -c {file} -o {stored.path.stem.split('.')[0]}.pt2{head}"
    if stored.kind == "pte":
        return f"dp convert-backend {file} {stored.path.stem}.pt2"
    names = " ".join(models[0].get("type_map", []))
    return f"in LAMMPS: pair_style deepmd {file}; pair_coeff * * {names}"


def _warnings(stored: StoredFile) -> list[str]:
    suffix = stored.path.suffix
    if suffix == f".{stored.kind}":
        return []
    return [
        f"DeePMD-kit goes by the suffix: name this file .{stored.kind}, not {suffix or 'without a suffix'}."
    ]
