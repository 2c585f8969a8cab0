"""What a file of native MACE, of the package nequip or of the other plugin deepmd-gnn holds, without building or running the model."""

from pathlib import Path
from typing import Any

from deepmd_gnn.files.archives import FileError
from deepmd_gnn.files.native_file import NativeModule, NotConvertible, named_class, read_native
from deepmd_gnn.files.nequip_package import NAME as PACKAGE
from deepmd_gnn.files.nequip_package import read_package_file, weights_of
from deepmd_gnn.files.plugin_file import read_plugin_file
from deepmd_gnn.files.plugin_marks import NAME
from deepmd_gnn.native.description import NativeDescription, choose_head, describe
from deepmd_gnn.native.package_nequip import HEAD, describe_package
from deepmd_gnn.native.plugin import describe_plugin
from deepmd_gnn.native.plugin_nequip import describe_nequip
from deepmd_gnn.native.reader import explained

_KINDS = {
    "native": "model of native MACE ({model})",
    "plugin": "model of another plugin ({model})",
    "package": "model of the package {model}",
}


def summarise_native(path: Path) -> dict[str, Any] | None:
    """Summarise a file of native MACE.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    dict[str, Any] or None
        Values that JSON can hold: ``file``, ``size_bytes``, ``kind``, ``model`` (its class), ``convertible``, ``reason`` (why
        not), ``next`` (a command), and of models that can be converted ``type_map``, ``heads``, ``r_max`` (Å), ``precision``,
        ``parameters``, ``options`` and ``atomic_energies`` (eV, by head). None if the file holds no module of MACE.
    """
    try:
        name = named_class(path)
    except (FileError, OSError):  # who asks has said what is wrong with it
        return None
    if name is None:
        return None
    found = _found(path, "native", name, path.stem)
    try:
        with explained(path):
            model = read_native(path)
            heads = _descriptions(model)
    except (NotConvertible, FileError) as error:
        return {**found, "convertible": False, "reason": str(error), "next": None}
    if len(heads) > 1 and model.stored_head is None:
        found["next"] += f" --head {next(iter(heads))}"
    return _described(found, heads, _count(model))


def summarise_plugin(path: Path) -> dict[str, Any] | None:
    """Summarise a file of the other plugin deepmd-gnn.

    Parameters
    ----------
    path : Path
        Any file.

    Returns
    -------
    dict[str, Any] or None
        As :func:`summarise_native`, with ``kind`` ``"plugin"``. None if the file is of another kind.
    """
    found = _found(path, "plugin", NAME, f"{path.name.split('.')[0]}_converted")
    try:
        with explained(path):
            file = read_plugin_file(path)
            if file is None:
                return None
            kind = {"pt": "checkpoint", "pth": "frozen model"}[file.kind]
            found["model"] = f"{NAME}, {kind}, {file.type}"
            branches: list[str | None] = [*file.models] or [None]
            describe_one = describe_nequip if file.type == "nequip" else describe_plugin
            described = {head: describe_one(path, file, head) for head in branches}
    except (NotConvertible, FileError) as error:
        return {**found, "convertible": False, "reason": str(error), "next": None}
    heads = {str(head): description for head, (_, description) in described.items()}
    if len(heads) > 1:
        found["next"] += f" --head {next(iter(heads))}"
    model = next(iter(described.values()))[0]
    return {**_described(found, heads, _count(model)), "heads": list(heads)}


def summarise_package(path: Path) -> dict[str, Any] | None:
    """Summarise a model of the package nequip 0.6.

    Parameters
    ----------
    path : Path
        Any file, or the folder of a training.

    Returns
    -------
    dict[str, Any] or None
        As :func:`summarise_native`, with ``kind`` ``"package"``. None if it is something else.
    """
    found: dict[str, Any] = {}
    try:
        with explained(path, f"models of {PACKAGE}"):
            file = read_package_file(path)
            if file is None:
                return None
            kind = {"weights": "weights of a training", "deployed": "deployed"}[file.kind]
            found = _found(
                file.path, "package", f"nequip {file.config.get('nequip_version')}, {kind}", "nequip"
            )
            description = describe_package(file)
    except (NotConvertible, FileError) as error:
        found = found or _found(weights_of(path), "package", PACKAGE, "nequip")
        return {**found, "convertible": False, "reason": str(error), "next": None}
    return _described(found, {HEAD: description}, sum(tensor.numel() for tensor in file.state.values()))


def _found(path: Path, kind: str, model: str, stem: str) -> dict[str, Any]:
    return {
        "file": str(path),
        "size_bytes": path.stat().st_size,
        "kind": kind,
        "model": model,
        "convertible": True,
        "reason": None,
        "next": f"deepmd-gnn convert {path.name} -o {stem}.pt2",
    }


def _count(model: NativeModule) -> int:
    return sum(tensor.numel() for _, tensor in model.named_tensors())


def _described(found: dict[str, Any], heads: dict[str, NativeDescription], numbers: int) -> dict[str, Any]:
    first = next(iter(heads.values()))
    energies = {name: one.options["atomic_energies"] for name, one in heads.items()}
    options = {key: value for key, value in first.options.items() if key != "atomic_energies"}
    return {
        **found,
        "type_map": first.type_map,
        "heads": first.heads,
        "r_max": options["r_max"],
        "precision": options["precision"],
        "parameters": numbers,
        "options": options,
        "atomic_energies": energies,
    }


def _descriptions(model: NativeModule) -> dict[str, NativeDescription]:
    stored, model.stored_head = model.stored_head, 0  # so that none has to be chosen
    names, _ = choose_head(model, None)
    model.stored_head = stored
    wanted = names if stored is None else [names[stored]]
    return {name: describe(model, name) for name in wanted}


def native_lines(summary: dict[str, Any]) -> dict[str, str]:
    """Lines for users.

    Parameters
    ----------
    summary : dict[str, Any]
        From :func:`summarise_native`.

    Returns
    -------
    dict[str, str]
        Value by name.
    """
    lines = {
        "File": f"{summary['file']} ({summary['size_bytes'] / 1e6:.3g} MB)",
        "Kind": _KINDS[summary["kind"]].format(model=summary["model"]),
    }
    if not summary["convertible"]:
        return {**lines, "Convertible": f"no: {summary['reason']}"}
    options = summary["options"]
    nequip = "feature_irreps_hidden" in options
    lines |= {
        "Convertible": "yes",
        "Heads": " ".join(summary["heads"]),
        "Type map": " ".join(summary["type_map"]),
        "Cutoff (r_max)": f"{summary['r_max']:g} Å",
        **(_nequip_lines(options) if nequip else _mace_lines(options)),
        "Precision": summary["precision"],
        "Numbers in the file": f"{summary['parameters']:,}",
    }
    for head, energies in summary["atomic_energies"].items():
        # A lone atom of NequIP has an energy of its own besides.
        lines[f"{'Shifts' if nequip else 'E0'} of {head}"] = ", ".join(
            f"{name} {value:.6f} eV" for name, value in energies.items()
        )
    return {**lines, "Next": summary["next"]}


def _mace_lines(options: dict[str, Any]) -> dict[str, str]:
    first = options.get("interaction_first") or options["interaction"]
    return {
        "Layers": f"{options['num_interactions']}: {first}, {options['interaction']}",
        "Features": str(options["hidden_irreps"]),
        "Messages divided by": f"{options['avg_num_neighbors']:g} (avg_num_neighbors)",
        "Edges": f"spherical harmonics up to l = {options['max_ell']}",
        "Correlation": str(options["correlation"]),
        "ZBL repulsion": "yes" if options["pair_repulsion"] else "no",
        **_embedding_line(options),
    }


def _nequip_lines(options: dict[str, Any]) -> dict[str, str]:
    return {
        "Layers": f"{options['num_layers']}, {options['nonlinearity_type']}",
        "Features": str(options["feature_irreps_hidden"]),
        "Messages divided by": f"the root of {options['avg_num_neighbors']:g} (avg_num_neighbors)",
        "Edges": str(options["irreps_edge_sh"]),
    }


def _embedding_line(options: dict[str, Any]) -> dict[str, str]:
    specs = options.get("embeddings")
    return {"Energy depends on": f"{', '.join(specs)} of the frame (fparam)"} if specs else {}
