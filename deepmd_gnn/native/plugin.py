"""Models of the plugin deepmd-gnn 0.x in terms of ours: its options, and ``sel``, which it divides the messages by."""

import logging
from pathlib import Path
from typing import Any

from deepmd_gnn.files.native_file import NativeModule, NotConvertible
from deepmd_gnn.files.plugin_file import PluginFile, PluginModel
from deepmd_gnn.files.plugin_marks import NAME
from deepmd_gnn.native.description import HeadError, NativeDescription, describe, energies_and_scale

log = logging.getLogger("deepmd.deepmd_gnn")

# Keys of the plugin's model section that mean here what they mean there.
_SAME = (
    "r_max", "num_radial_basis", "num_cutoff_basis", "max_ell", "interaction", "num_interactions", "hidden_irreps",
    "pair_repulsion", "distance_transform", "correlation", "gate", "MLP_irreps", "radial_type", "radial_MLP",
)  # fmt: skip


def describe_plugin(
    path: str | Path, file: PluginFile, head: str | None
) -> tuple[NativeModule, NativeDescription]:
    """Choose a model of a file and say what it is.

    Parameters
    ----------
    path : str or Path
        The file's name, for messages.
    file : PluginFile
        Its content.
    head : str, optional
        Branch of a multi-task checkpoint; needed if there are several.

    Returns
    -------
    tuple[NativeModule, NativeDescription]
        Its weights, and its options and statistics.

    Raises
    ------
    NotConvertible
        If it is no MACE model, or in a layout that only the plugin itself can translate.
    HeadError
        If the head does not exist, or none is named and there are several.
    """
    if file.type == "nequip":
        raise NotConvertible(
            f"{path} is a NequIP model of {NAME}: `deepmd-gnn convert` and deepmd_gnn.convert read it, but it is no MACE model."
        )
    chosen = branch(path, file, head)
    model = file.models[chosen]
    _refuse_layout(path, model)
    if file.kind == "pth":
        found = describe(model.module, None)
        options, neighbors = found.options, found.neighbors
    else:
        options, neighbors = _options(path, model)
    ntypes = model.module.tensors["atomic_numbers"].numel()
    if len(model.type_map) != ntypes:
        raise NotConvertible(
            f"{path} names {len(model.type_map)} types, but has weights of {ntypes}. Not converted."
        )
    options |= energies_and_scale(model.module, 0, model.type_map)
    return model.module, NativeDescription(options, model.type_map, [chosen], 0, neighbors)


def branch(path: str | Path, file: PluginFile, head: str | None) -> str:
    """Choose a branch of a file.

    Parameters
    ----------
    path : str or Path
        The file's name, for messages.
    file : PluginFile
        Its content.
    head : str, optional
        Its name; needed if there are several.

    Returns
    -------
    str
        Its name.

    Raises
    ------
    NotConvertible
        If the file's models are neither MACE nor NequIP.
    HeadError
        If the head does not exist, or none is named and there are several.
    """
    names = list(file.models)
    if not names:
        raise NotConvertible(
            f"{path} is a model of type {file.type} of {NAME}; its models of one type, mace or nequip, are converted. Not converted."
        )
    if head is None and len(names) > 1:
        raise HeadError(
            f"The file has {len(names)} branches: {', '.join(names)}. Choose one with --head NAME."
        )
    if head is not None and head not in names:
        raise HeadError(f"The file has no branch '{head}'. It has: {', '.join(names)}.")
    return names[0] if head is None else head


def _refuse_layout(path: str | Path, model: PluginModel) -> None:
    """Stop at weights in cuEquivariance's layout, which a checkpoint does not describe."""
    for layer in model.module.layers("products"):
        if "weight" in layer["symmetric_contractions"].tensors and not model.module.settings:
            raise NotConvertible(
                f"{path} has weights in cuEquivariance's layout (enable_cueq). Freeze it with {NAME}, which translates them "
                "(`dp --pt freeze`), and convert the .pth. Not converted."
            )


def _options(path: str | Path, model: PluginModel) -> tuple[dict[str, Any], list[float]]:
    """Options of a checkpoint, and ``avg_num_neighbors`` of each layer."""
    section, module = model.section, model.module
    options: dict[str, Any] = {key: section[key] for key in _SAME if key in section}
    layers = module.layers("interactions")
    sel = model.sel
    if sel is None:
        raise NotConvertible(
            f"{path} has sel = {section.get('sel')!r} in its model section. {NAME} divides messages by sel, so a number is needed: freeze "
            "the checkpoint there (`dp --pt freeze`) and convert the .pth. Not converted."
        )
    transform = module["radial_embedding"].children.get("distance_transform")
    if options.get("distance_transform") == "Soft" and transform and {"a", "b"} <= set(transform.tensors):
        options["distance_transform"] = "OldSoft"  # of MACE 0.3.5 to 0.3.8
    density = "density_fn" in layers[0].children
    return {
        **options,
        "interaction_first": f"RealAgnostic{'Density' if density else ''}InteractionBlock",
        # Native MACE's default, which the plugin does not change.
        "apply_cutoff": True,
        "avg_num_neighbors": float(sel),
        "precision": str(module["node_embedding.linear"].tensors["weight"].dtype).removeprefix("torch."),
    }, [float(sel)] * len(layers)


def tell_differences(path: str | Path, model: PluginModel) -> None:
    """Say in the log where a converted model computes something else than the plugin, or than its input says.

    Parameters
    ----------
    path : str or Path
        The file's name.
    model : PluginModel
        What is converted.
    """
    if model.sel is not None:
        log.warning(
            "%s: %s keeps the %s nearest neighbours of each atom (sel); the converted model sees all within r_max. Numbers are "
            "the same where no atom has more.",
            path, NAME, model.sel,
        )  # fmt: skip
    ignored = [key for key in ("pair_exclude_types", "atom_exclude_types") if model.section.get(key)]
    if ignored:
        log.warning(
            "%s: its input has %s, which %s does not obey; the converted model has none, so that the numbers stay the same.",
            path, " and ".join(ignored), NAME,
        )  # fmt: skip
