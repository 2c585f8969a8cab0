"""The weights of a native MACE file for our network: one head, one normalisation, our couplings."""

import re
from typing import Any

import torch

from deepmd_gnn.files.native_file import NativeModule, NotConvertible
from deepmd_gnn.native.couplings import adopt_couplings
from deepmd_gnn.native.description import NativeDescription
from deepmd_gnn.nn.energy import MaceEnergy

Weights = dict[str, torch.Tensor]

# Rebuilt from the options, or read into the options.
_NOT_WEIGHTS = re.compile(
    r"^(atomic_numbers|r_max|num_interactions|atomic_energies_fn\..*|scale_shift\..*|spherical_harmonics\..*"
    r"|pair_repulsion_fn\.(r_max|cutoff\..*))$|(^|\.)(output_mask|weights_\w+_zeroed|U_matrix_\w+)$"
)

_CONTRACTIONS = "products.0.symmetric_contractions.contractions."


def load_weights(network: MaceEnergy, model: NativeModule, description: NativeDescription) -> None:
    """Fill a network, built from the description, with the weights of the file.

    Parameters
    ----------
    network : MaceEnergy
        The network.
    model : NativeModule
        The file.
    description : NativeDescription
        What it is.

    Raises
    ------
    NotConvertible
        If a weight is missing, has another shape, or is left over: then the model is not what it seems to be.
    """
    weights: Weights = {
        name: tensor.double() if tensor.is_floating_point() else tensor
        for name, tensor in model.named_tensors()
        if tensor.numel() > 0 and not _NOT_WEIGHTS.search(name)
    }
    select_head(weights, description)
    unify_neighbors(weights, description)
    drop_unread(weights, network)
    for index, product in enumerate(model.layers("products")):
        adopt_couplings(
            weights,
            f"products.{index}.symmetric_contractions.",
            product,
            network.products[index].symmetric_contractions,
        )
    _check_gaussians(network, model)
    target = network.state_dict()
    given = ("atomic_numbers", "avg_num_neighbors", "scale")
    with torch.no_grad():
        for name, value in target.items():
            if name in given:
                continue
            if name not in weights:
                raise NotConvertible(
                    f"The file has no '{name}', which a model of its kind needs. Not converted."
                )
            tensor = weights.pop(name)
            if _sizes(tensor) != _sizes(value):
                raise NotConvertible(
                    f"'{name}' has shape {tuple(tensor.shape)} in the file, but a model of its kind has "
                    f"{tuple(value.shape)}. Not converted."
                )
            value.copy_(tensor.reshape(value.shape))
    left = [name for name in weights if _is_parameter(model, name)]
    if left:
        raise NotConvertible(
            f"The file has {len(left)} weights that mace-torch's energy models do not have: {', '.join(left[:5])}. "
            "Not converted."
        )


def _sizes(tensor: torch.Tensor) -> list[int]:
    """Shape without axes of one, which the layouts of e3nn and cuEquivariance differ in."""
    return [size for size in tensor.shape if size != 1]


def _is_parameter(model: NativeModule, name: str) -> bool:
    *path, last = name.split(".")
    module = model[".".join(path)] if path else model
    return module.trainable is None or last in module.trainable


def _check_gaussians(network: MaceEnergy, model: NativeModule) -> None:
    """Compare the one number of the radial basis that is no tensor."""
    theirs = model["radial_embedding.bessel_fn"].settings.get("coeff")
    if theirs is None:
        return
    basis: Any = network.radial_embedding.bessel_fn  # native's module, which has no types
    ours = basis.coeff
    if abs(ours - theirs) > 1e-12 * abs(ours):
        raise NotConvertible(
            f"The Gaussians' coefficient is {theirs}, but r_max implies {ours}. Not converted."
        )


def select_head(weights: Weights, description: NativeDescription) -> None:
    """Keep one head of the readouts; the others do not share hidden units with it.

    Parameters
    ----------
    weights : dict[str, torch.Tensor]
        Weights of the file; changed.
    description : NativeDescription
        Which head of how many.
    """
    count, head = len(description.heads), description.head
    if count == 1:
        return
    if "embedding_readout.linear.weight" in weights:
        value = weights["embedding_readout.linear.weight"]
        weights["embedding_readout.linear.weight"] = value.reshape(-1, count)[:, head]
    for name in [name for name in weights if name.startswith("readouts.")]:
        value = weights[name]
        part = name.split(".", 2)[2]
        if part == "linear.weight":
            weights[name] = value.reshape(-1, count)[:, head]
            continue
        width = int(description.options["MLP_irreps"].removesuffix("x0e"))
        # e3nn divides by the square root of all inputs, those of the other heads included.
        if part == "linear_1.weight":
            weights[name] = value.reshape(-1, count, width)[:, head].flatten()
        elif part == "linear_mid.weight":
            weights[name] = value.reshape(count, width, count, width)[head, :, head].flatten() / count**0.5
        elif part == "linear_mid.bias":
            weights[name] = value.reshape(count, width)[head]
        elif part == "linear_2.weight":
            weights[name] = value.reshape(count, width, count)[head, :, head] / count**0.5
        elif part == "linear_2.bias":
            weights[name] = value.reshape(count)[head : head + 1]


def drop_unread(weights: Weights, network: MaceEnergy) -> None:
    """Keep the scalars of a single layer: MACE up to 0.3.14 saves its vectors, too, which no readout reads.

    Parameters
    ----------
    weights : dict[str, torch.Tensor]
        Weights of the file; changed.
    network : MaceEnergy
        The network they are for.
    """
    if len(network.products) > 1:
        return
    product = network.products[0]
    kept = len(product.symmetric_contractions.contractions)
    for name in [name for name in weights if name.startswith(_CONTRACTIONS)]:
        if int(name.removeprefix(_CONTRACTIONS).split(".")[0]) >= kept:
            del weights[name]
    # Blocks of one irrep after the other, the scalars first.
    name = "products.0.linear.weight"
    if name in weights:
        weights[name] = weights[name].flatten()[: product.linear.weight.numel()]


def unify_neighbors(weights: Weights, description: NativeDescription) -> None:
    """Give all layers the ``avg_num_neighbors`` of the first by scaling what is divided by it.

    Parameters
    ----------
    weights : dict[str, torch.Tensor]
        Weights of the file; changed.
    description : NativeDescription
        The numbers of each layer.
    """
    common = description.options["avg_num_neighbors"]
    for index, value in enumerate(description.neighbors):
        key = "interaction_first" if index == 0 else "interaction"
        kind = description.options[key]
        if value != common and "Density" not in kind and "NonLinear" not in kind:
            weights[f"interactions.{index}.linear.weight"] = (
                weights[f"interactions.{index}.linear.weight"] * common / value
            )
