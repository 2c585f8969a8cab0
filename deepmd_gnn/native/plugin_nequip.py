"""NequIP models of the plugin deepmd-gnn 0.x as ours: its irreps, weights of the package nequip, and ``sel``."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers
from deepmd.pt.utils import env

from deepmd_gnn.config.checks import PRECISIONS
from deepmd_gnn.config.mm_types import element_of, is_mm
from deepmd_gnn.config.nequip import NequipConfig, fail
from deepmd_gnn.files.fitting_nequip import nequip_misfit, sizes
from deepmd_gnn.files.native_file import NativeModule, NotConvertible
from deepmd_gnn.files.plugin_file import PluginFile, PluginModel, read_plugin_file
from deepmd_gnn.files.plugin_marks import NAME
from deepmd_gnn.mace_network import on_cpu
from deepmd_gnn.native.description import NativeDescription
from deepmd_gnn.native.plugin import branch, tell_differences
from deepmd_gnn.native.reader import check_elements, explained
from deepmd_gnn.nequip import NequipModel
from deepmd_gnn.nequip_network import build_energy
from deepmd_gnn.nn.elements import copy_elements
from deepmd_gnn.nn.nequip_names import package_name, take_weights

# Keys of the plugin's model section that decide its network. It always has irreps, and l_max, parity and num_features
# decide nothing there, not even where the input leaves the irreps out.
_KEYS = (
    "r_max", "num_layers", "nonlinearity_type", "num_basis", "BesselBasis_trainable", "PolynomialCutoff_p", "invariant_layers",
    "invariant_neurons", "use_sc", "irreps_edge_sh", "feature_irreps_hidden", "chemical_embedding_irreps_out",
    "conv_to_output_hidden_irreps_out",
)  # fmt: skip
_ANCHOR = package_name("node_embedding.linear.weight")
# Names of tensors that are no weights: e3nn's masks and constants, and a rescaling, which is looked for by itself.
_NO_WEIGHTS = re.compile(r"(^|\.)(output_mask|_[^.]*(\..*)?|scale_by|shift_by|scales|shifts)$")


def describe_nequip(
    path: str | Path, file: PluginFile, head: str | None
) -> tuple[NativeModule, NativeDescription]:
    """Choose a model of a file and say what it is, as :func:`~deepmd_gnn.native.plugin.describe_plugin`.

    Parameters
    ----------
    path : str or Path
        The file's name, for messages.
    file : PluginFile
        Its content, of type ``nequip``.
    head : str, optional
        Branch of a multi-task checkpoint; needed if there are several.

    Returns
    -------
    tuple[NativeModule, NativeDescription]
        Its weights; and its options, fields of :class:`~deepmd_gnn.config.nequip.NequipConfig`, with the plugin's shifts as
        ``atomic_energies``.

    Raises
    ------
    NotConvertible
        If its options are not in the file, not possible here, or do not fit its weights.
    HeadError
        If the head does not exist, or none is named and there are several.
    """
    chosen = branch(path, file, head)
    model = file.models[chosen]
    config = _config(path, model)
    _check_weights(path, model, config)
    neighbors = [float(config.avg_num_neighbors)] * config.num_layers
    options = {key: value for key, value in config.to_dict().items() if key != "seed"}
    return model.module, NativeDescription(options, model.type_map, [chosen], 0, neighbors)


def load_plugin_nequip(
    source: str | Path,
    head: str | None = None,
    elements: list[str] | None = None,
    precision: str | None = None,
    sel: int | None = None,
) -> tuple[NequipModel, str] | None:
    """Load a NequIP model of the plugin; nothing in the file is executed.

    Parameters
    ----------
    source : str or Path
        Any file.
    head, elements, precision, sel
        As for :func:`~deepmd_gnn.native.reader.load_mace`.

    Returns
    -------
    tuple[NequipModel, str] or None
        In eval mode, with the plugin's numbers, and the name of its branch; None if the file is of another kind.

    Raises
    ------
    NotConvertible
        If the model has options that are not possible here.
    ValueError
        If head, elements or precision do not fit the model.
    """
    with explained(source):
        file = read_plugin_file(source)
        if file is None or file.type != "nequip":
            return None
        _, description = describe_nequip(source, file, head)
        name = description.heads[0]
        tell_differences(source, file.models[name])
        given: dict[str, Any] = {"precision": precision, "sel": sel}
        options = description.options | {key: value for key, value in given.items() if value is not None}
        if options["precision"] not in PRECISIONS:
            fail("precision", precision, "one of " + ", ".join(PRECISIONS))
        # New elements of a later fine-tuning start from this seed.
        return _load(file.models[name], NequipConfig(**options, seed=1), elements), name


def _config(path: str | Path, model: PluginModel) -> NequipConfig:
    """The options; what is not in the file is not guessed."""
    section = model.section
    missing = [key for key in _KEYS if section.get(key) is None]
    shifts = model.shifts
    if missing or model.sel is None or shifts is None or shifts.numel() != len(model.type_map):
        lacks = ", ".join(missing) or ("a number as sel" if model.sel is None else "e0 of its types")
        raise NotConvertible(
            f"{path} has not got {lacks}, which NequIP models of {NAME} have. Not converted."
        )
    weights = dict(model.module.named_tensors())
    embedding = [value for name, value in weights.items() if name.endswith(_ANCHOR)]
    if len(embedding) != 1:
        raise NotConvertible(f"{path} has no weights of a NequIP model of {NAME}. Not converted.")
    try:
        return NequipConfig(
            **{key: section[key] for key in _KEYS},
            avg_num_neighbors=float(model.sel),
            scale=1.0,
            atomic_energies=dict(zip(model.type_map, shifts.double().tolist(), strict=True)),
            precision=str(embedding[0].dtype).removeprefix("torch."),
        )
    except (ValueError, TypeError) as error:
        raise NotConvertible(
            f"{path} has options that are not possible here: {error} Not converted."
        ) from error


def _check_weights(path: str | Path, model: PluginModel, config: NequipConfig) -> None:
    """Compare the options with the weights before anything of their size is built, and refuse weights that nothing here reads."""
    state = dict(model.module.named_tensors())
    anchor = next(name for name in state if name.endswith(_ANCHOR))
    prefix = anchor.removesuffix(_ANCHOR)
    shapes = {name.removeprefix(prefix): tuple(t.shape) for name, t in state.items() if t.numel()}
    wrong = _miscounted(config, shapes)
    if wrong is None:
        names = {package_name(name): name for name in sizes(config, len(model.type_map))}
        ours = {names[name]: shape for name, shape in shapes.items() if name in names}
        unread = [name for name in shapes if name not in names and not _NO_WEIGHTS.search(name)]
        wrong = nequip_misfit(config, len(model.type_map), ours)
        wrong = wrong or (f"weights '{unread[0]}', which it should not have" if unread else None)
    if wrong:
        raise NotConvertible(
            f"{path}: what the file says of itself does not fit its weights ({wrong}). Not converted."
        )


def _miscounted(config: NequipConfig, shapes: dict[str, tuple[int, ...]]) -> str | None:
    """Layers that are stated and not there, of which a list must not be made."""
    for key, stated, pattern in (
        ("num_layers", config.num_layers, r"(layer\d+)_convnet\."),
        ("invariant_layers", config.invariant_layers + 1, r"layer0_convnet\.conv\.fc\.(layer\d+)\."),
    ):
        found = {match[1] for name in shapes if (match := re.match(pattern, name))}
        if len(found) != stated:
            return f"{len(found)} layers, but {key} asks for {stated}"
    return None


def _load(model: PluginModel, config: NequipConfig, elements: list[str] | None) -> NequipModel:
    """Build the model of the elements that are kept."""
    known = model.type_map
    wanted = known if elements is None else list(elements)
    check_elements(wanted, known)
    with on_cpu():  # where the tensors of the file are
        network = build_energy(config, [atomic_numbers[element_of(name)] for name in known])
        energies = take_weights(network, dict(model.module.named_tensors()))
    if model.shifts is not None:
        energies = energies + model.shifts.to(torch.float64)
    by_name = dict(zip(known, energies.tolist(), strict=True))
    # Options take none for MM types. Those of the plugin have the constant that its network gives a lone atom; it is kept with
    # the weights, so that energies are the plugin's.
    stated = {name: by_name[name] for name in wanted if not is_mm(name)}
    loaded = NequipModel(type_map=wanted, **dataclasses.replace(config, atomic_energies=stated).to_dict())
    loaded.set_out_bias(torch.tensor([by_name[name] for name in wanted], dtype=torch.float64))
    copy_elements(
        network.to(env.DEVICE), loaded.energy_model, [(known.index(n), i) for i, n in enumerate(wanted)]
    )
    loaded.eval()
    return loaded
