"""NequIP models of the plugin deepmd-gnn 0.x as ours: its irreps, weights of the package nequip, and ``sel``."""

from pathlib import Path

from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.files.native_file import NativeModule, NotConvertible
from deepmd_gnn.files.plugin_file import PluginFile, PluginModel, read_plugin_file
from deepmd_gnn.files.plugin_marks import NAME
from deepmd_gnn.native.description import NativeDescription
from deepmd_gnn.native.nequip_weights import build, check_weights, chosen_config
from deepmd_gnn.native.plugin import branch, tell_differences
from deepmd_gnn.native.reader import explained
from deepmd_gnn.nequip import NequipModel
from deepmd_gnn.nn.nequip_names import ANCHOR

# Keys of the plugin's model section that decide its network. It always has irreps, and l_max, parity and num_features
# decide nothing there, not even where the input leaves the irreps out.
_KEYS = (
    "r_max", "num_layers", "nonlinearity_type", "num_basis", "BesselBasis_trainable", "PolynomialCutoff_p", "invariant_layers",
    "invariant_neurons", "use_sc", "irreps_edge_sh", "feature_irreps_hidden", "chemical_embedding_irreps_out",
    "conv_to_output_hidden_irreps_out",
)  # fmt: skip


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
    check_weights(path, dict(model.module.named_tensors()), len(model.type_map), config)
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
    with explained(source, f"NequIP models of {NAME}"):
        file = read_plugin_file(source)
        if file is None or file.type != "nequip":
            return None
        _, description = describe_nequip(source, file, head)
        name = description.heads[0]
        tell_differences(source, file.models[name])
        model, config = file.models[name], chosen_config(description.options, precision, sel)
        return build(dict(model.module.named_tensors()), model.shifts, model.type_map, config, elements), name


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
    embedding = [value for name, value in weights.items() if name.endswith(ANCHOR)]
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
