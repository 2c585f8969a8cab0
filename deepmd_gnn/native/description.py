"""From a native MACE file to the options and statistics of our model."""

from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols

from deepmd_gnn.config.checks import INTERACTIONS, READOUTS
from deepmd_gnn.files.native_file import NativeModule, NotConvertible, irreps_of, irreps_text
from deepmd_gnn.files.safe_pickle import Record

_BASES = {"BesselBasis": "bessel", "GaussianBasis": "gaussian"}
_TRANSFORMS = {"AgnesiTransform": "Agnesi", "SoftTransform": "Soft"}
# Of MACE 0.3.5 to 0.3.8: the same name for another function, told by its constants.
_OLD_SOFT = {"a", "b"}


class HeadError(ValueError):
    """The head that is asked for is not there, or none is and there are several."""


class NativeDescription(NamedTuple):
    """What a native model is, apart from its weights."""

    options: dict[str, Any]
    """Fields of :class:`~deepmd_gnn.config.mace.MaceConfig`."""
    type_map: list[str]
    """Elements in the order of the file."""
    heads: list[str]
    """Names of all heads."""
    head: int
    """Index of the one that is converted."""
    neighbors: list[float]
    """``avg_num_neighbors`` of each layer."""


def head_names(model: NativeModule) -> list[str]:
    """Names of the heads of a model; where it does not name them, ``Default``, or their numbers."""
    energies = model["atomic_energies_fn"].tensors["atomic_energies"]
    count = energies.shape[0] if energies.ndim == 2 else 1
    heads = [str(name) for name in model.settings.get("heads") or []]
    if len(heads) != count:
        heads = ["Default"] if count == 1 else [str(index) for index in range(count)]
    return heads


def choose_head(model: NativeModule, head: str | None) -> tuple[list[str], int]:
    """Find the head to convert.

    Parameters
    ----------
    model : NativeModule
        The model.
    head : str, optional
        Its name; needed if there are several and the file does not say for which one it was made.

    Returns
    -------
    tuple[list[str], int]
        All heads, and the index of the chosen one.

    Raises
    ------
    HeadError
        If the head does not exist, or none is named and there are several.
    """
    heads = head_names(model)
    count = len(heads)
    if head is None and model.stored_head is not None and 0 <= model.stored_head < count:
        return heads, model.stored_head
    if head is None and count > 1:
        raise HeadError(f"The model has {count} heads: {', '.join(heads)}. Choose one with --head NAME.")
    if head is not None and head not in heads:
        raise HeadError(f"The model has no head '{head}'. It has: {', '.join(heads)}.")
    return heads, 0 if head is None else heads.index(head)


def describe(model: NativeModule, head: str | None) -> NativeDescription:
    """Read the architecture and the statistics.

    Parameters
    ----------
    model : NativeModule
        The model.
    head : str, optional
        Head to convert.

    Returns
    -------
    NativeDescription

    Raises
    ------
    NotConvertible
        If a block or setting has no counterpart here.
    ValueError
        If the head does not exist.
    """
    heads, index = choose_head(model, head)
    interactions = model.layers("interactions")
    numbers = [int(z) for z in model.tensors["atomic_numbers"].flatten()]
    type_map = [chemical_symbols[z] for z in numbers]
    neighbors = [float(_number(layer.settings["avg_num_neighbors"])) for layer in interactions]
    options = {
        **_interaction_options(interactions),
        **_radial_options(model),
        **_readout_options(model, len(heads)),
        **_embedding_options(model),
        "correlation": [_correlation(product) for product in model.layers("products")],
        "num_interactions": len(interactions),
        "pair_repulsion": "pair_repulsion_fn" in model.children,
        "use_agnostic_product": any(
            bool(product.settings.get("use_agnostic_product")) for product in model.layers("products")
        ),
        "avg_num_neighbors": neighbors[0] if neighbors[0] > 0 else 1.0,
        "precision": str(model["node_embedding.linear"].tensors["weight"].dtype).removeprefix("torch."),
        **energies_and_scale(model, index, type_map),
    }
    return NativeDescription(options, type_map, heads, index, neighbors)


def _interaction_options(layers: list[NativeModule]) -> dict[str, Any]:
    for layer in layers:
        if layer.name not in INTERACTIONS:
            raise NotConvertible(
                f"Interaction block {layer.name} is not known here; known are {', '.join(INTERACTIONS)}. Not converted."
            )
    if len({layer.name for layer in layers[1:]}) > 1:
        raise NotConvertible("Layers 2, 3, … have different interaction blocks. Not converted.")
    first, last = layers[0], layers[-1]
    hidden = irreps_of(
        layers[1].settings["node_feats_irreps"] if len(layers) > 1 else first.settings["hidden_irreps"]
    )
    outputs = irreps_of(last.settings["hidden_irreps"])
    harmonics = irreps_of(first.settings["edge_attrs_irreps"])
    narrow = [_edge_irreps(layer) for layer in (first, last)]
    return {
        "interaction": last.name,
        "interaction_first": first.name,
        "hidden_irreps": irreps_text(hidden),
        "keep_last_layer_irreps": len(layers) > 1 and len(outputs) == len(hidden) > 1,
        "max_ell": max(ell for _, ell, _ in harmonics),
        "use_so3": any(ell % 2 == 1 and parity == "e" for _, ell, parity in harmonics),
        "edge_irreps": narrow[1] or narrow[0],
        "use_edge_irreps_first": narrow[0] is not None,
        "radial_MLP": _radial_widths(layers),
    }


def _edge_irreps(layer: NativeModule) -> str | None:
    """Irreps on the edges, if they differ from those of the nodes."""
    given = layer.settings.get("edge_irreps")
    edge = None if given is None else irreps_of(given)
    return None if edge in (None, irreps_of(layer.settings["node_feats_irreps"])) else irreps_text(edge or [])


def _radial_widths(layers: list[NativeModule]) -> list[int]:
    """Hidden widths of the radial network; attentive blocks have fixed ones."""
    for layer in layers:
        if "AttResidual" not in layer.name:
            return [int(width) for width in layer["conv_tp_weights"].settings["hs"][1:-1]]
    return [64, 64, 64]


def _radial_options(model: NativeModule) -> dict[str, Any]:
    radial = model["radial_embedding"]
    basis = radial["bessel_fn"]
    if basis.name not in _BASES:
        raise NotConvertible(
            f"Radial basis {basis.name} is not known here (chebyshev diverges in MACE). Not converted."
        )
    transform = radial.children.get("distance_transform")
    if transform is not None and transform.name not in _TRANSFORMS:
        raise NotConvertible(f"Distance transform {transform.name} is not known here. Not converted.")
    name = "None" if transform is None else _TRANSFORMS[transform.name]
    if transform is not None and name == "Soft" and set(transform.tensors) >= _OLD_SOFT:
        name = "OldSoft"
    kind = _BASES[basis.name]
    return {
        "r_max": _shortest(model.tensors["r_max"]),
        "radial_type": kind,
        "num_radial_basis": basis.tensors[f"{kind}_weights"].numel(),
        "num_cutoff_basis": int(radial["cutoff_fn"].tensors["p"]),
        "distance_transform": name,
        "apply_cutoff": bool(radial.settings.get("apply_cutoff", model.settings.get("apply_cutoff", True))),
    }


def _readout_options(model: NativeModule, heads: int) -> dict[str, Any]:
    readouts = model.layers("readouts")
    layers = len(model.layers("interactions"))
    if not readouts:  # use_last_readout_only with a single layer
        raise NotConvertible("The model has no readouts, so its energy is constant. Not converted.")
    last = readouts[-1]
    names = [readout.name for readout in readouts]
    allowed = ("LinearReadoutBlock",) if layers == 1 else READOUTS
    if any(name != "LinearReadoutBlock" for name in names[:-1]) or names[-1] not in allowed:
        raise NotConvertible(f"Readouts {', '.join(names)} are not known here. Not converted.")
    if len(readouts) not in (1, layers):
        raise NotConvertible(
            f"{len(readouts)} readouts for {layers} layers are not known here. Not converted."
        )
    options: dict[str, Any] = {"use_last_readout_only": len(readouts) < layers}
    if layers > 1:
        width = sum(mul for mul, _, _ in irreps_of(last.settings["hidden_irreps"]))
        options |= {
            "MLP_irreps": f"{width // heads}x0e",
            "gate": _gate(last, model.code),
            "readout_cls": last.name,
        }
    return options


def _embedding_options(model: NativeModule) -> dict[str, Any]:
    """Quantities of the whole system that the energy depends on; none in most models."""
    specs = model.settings.get("embedding_specs")
    if not specs or "joint_embedding" not in model.children:
        return {}
    for name, spec in specs.items():
        if isinstance(spec, dict) and spec.get("per") != "graph":
            raise NotConvertible(
                f"The model has an embedding of '{name}' per {spec.get('per')}: only quantities of the whole system (per graph) "
                "are supported. Not converted."
            )
    return {
        "embeddings": {name: _without_ignored(spec) for name, spec in specs.items()},
        "use_embedding_readout": "embedding_readout" in model.children,
    }


def _without_ignored(spec: Any) -> Any:
    """An entry without keys that native MACE ignores for its type."""
    if not isinstance(spec, dict):
        return spec
    ignored = ("in_dim", "use_bias") if spec.get("type") == "categorical" else ("num_classes", "offset")
    return {key: value for key, value in spec.items() if key not in ignored}


def _gate(readout: NativeModule, code: dict[str, str]) -> str:
    """Non-linearity of a readout: the name of a function, or what the code of a TorchScript archive calls."""
    act = readout["non_linearity.acts"].children.get("0")
    if act is None:
        return "None"
    function = act.settings.get("f")
    named = getattr(function, "qualname", "").rpartition(".")[2]
    text = code.get(act.qualname.rpartition(".")[0].replace(".", "/") + ".py", "")
    for gate in ("silu", "tanh", "abs", "elu", "relu", "sigmoid"):
        if named == gate or f"torch.{gate}(" in text or f".{gate}(x" in text:
            return gate
    if isinstance(function, Record) and function.name == "getattr":
        return str(function.arguments[-1])
    raise NotConvertible(f"The non-linearity '{named}' of the last readout is not known here. Not converted.")


def _correlation(product: NativeModule) -> int:
    contraction = product["symmetric_contractions"]
    if "contractions" not in contraction.children:  # cuEquivariance's layout
        return int(contraction.settings["contraction_degree"])
    tensors = contraction["contractions.0"].tensors
    return sum(name.startswith("U_matrix_") for name in tensors)


def energies_and_scale(model: NativeModule, head: int, type_map: list[str]) -> dict[str, Any]:
    """Read E0 with the shift, and the scale; class MACE has neither shift nor scale.

    Parameters
    ----------
    model : NativeModule
        The model.
    head : int
        Index of the head.
    type_map : list[str]
        Names of the types in the order of the file.

    Returns
    -------
    dict[str, Any]
        ``scale`` (eV) and ``atomic_energies`` (eV, by name).

    Raises
    ------
    NotConvertible
        If the scale is not above 0.
    """
    energies = _per_head(model["atomic_energies_fn"].tensors["atomic_energies"], head, len(type_map))
    scale, shift = 1.0, 0.0
    if "scale_shift" in model.children:
        tensors = model["scale_shift"].tensors
        scale, shift = (float(_per_head(tensors[name], head, 1)) for name in ("scale", "shift"))
    if scale <= 0:
        raise NotConvertible(f"The scale is {scale}, but must be above 0. Not converted.")
    return {
        "scale": scale,
        "atomic_energies": {name: e0 + shift for name, e0 in zip(type_map, energies.tolist(), strict=True)},
    }


def _per_head(tensor: torch.Tensor, head: int, width: int) -> torch.Tensor:
    """Values of one head; old files have no axis of heads, and one value for all."""
    rows = tensor.double().reshape(-1, width)
    return rows[head if len(rows) > 1 else 0]


def _shortest(value: torch.Tensor) -> float:
    """The number a user gave: 4.3, not the 4.300000190734863 that a float32 file holds."""
    return float(str(np.float32(value))) if value.dtype == torch.float32 else float(value)


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value
