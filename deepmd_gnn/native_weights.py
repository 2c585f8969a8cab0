"""The weights of a native MACE file for our network: one head, one normalisation, our couplings."""

import re

import numpy as np
import torch

from deepmd_gnn.mace_energy import MaceEnergy
from deepmd_gnn.monomials import Array, collect
from deepmd_gnn.native_config import NativeDescription
from deepmd_gnn.native_file import NativeModule, NotConvertible
from deepmd_gnn.symmetric_contraction import Contraction, SymmetricContraction

Weights = dict[str, torch.Tensor]
Table = tuple[dict[tuple[int, ...], Array], int]

# Rebuilt from the options, or read into the options.
_NOT_WEIGHTS = re.compile(
    r"^(atomic_numbers|r_max|num_interactions|atomic_energies_fn\..*|scale_shift\..*|spherical_harmonics\..*"
    r"|pair_repulsion_fn\.(r_max|cutoff\..*))$|(^|\.)(output_mask|weights_\w+_zeroed|U_matrix_\w+)$"
)
# Agreement of couplings from a file with ours: rounding of float32 files.
_SAME = 1e-6


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
    for index, product in enumerate(model.layers("products")):
        adopt_couplings(
            weights, f"products.{index}.symmetric_contractions.", product, network.products[index]
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
    ours = network.radial_embedding.bessel_fn.coeff
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


def adopt_couplings(weights: Weights, prefix: str, product: NativeModule, ours: torch.nn.Module) -> None:
    """Express the weights of a product basis in our couplings, if the file was made with others.

    The couplings are a basis of symmetric equivariant polynomials. Models made with ``use_reduced_cg`` have another
    basis of the same space, and so other weights for the same polynomial.

    Parameters
    ----------
    weights : dict[str, torch.Tensor]
        Weights of the file; changed.
    prefix : str
        Of the weights of this layer's contraction.
    product : NativeModule
        The product basis of the file.
    ours : torch.nn.Module
        Our product basis.

    Raises
    ------
    NotConvertible
        If our couplings do not span the polynomial.
    """
    native = product["symmetric_contractions"]
    if "contractions" not in native.children:
        raise NotConvertible("The product basis has an unknown layout. Not converted.")
    contraction = ours.symmetric_contractions
    monomials = _monomials(contraction)
    for index, (file, part) in enumerate(
        zip(native.layers("contractions"), contraction.contractions, strict=True)
    ):
        theirs = _tables(_couplings(file))
        mine = _our_tables(part, monomials)
        names = [f"{prefix}contractions.{index}.weights_max"]
        names += [f"{prefix}contractions.{index}.weights.{k}" for k in range(len(mine) - 1)]
        # Native keeps the weights of the highest order first.
        for name, (u, v) in zip(names, zip(theirs[::-1], mine[::-1], strict=True), strict=True):
            if name in weights:
                weights[name] = _in_our_basis(weights[name], *_aligned(u, v), name)


def _in_our_basis(weight: torch.Tensor, theirs: Array, mine: Array, name: str) -> torch.Tensor:
    """Weights (elements, parameters, channels) for our couplings, shape (coefficients, parameters) both."""
    size = max(float(np.abs(mine).max(initial=0.0)), 1.0)
    if theirs.shape == mine.shape and np.abs(theirs - mine).max(initial=0.0) <= _SAME * size:
        return weight
    change, *_ = np.linalg.lstsq(mine, theirs, rcond=1e-10)
    if np.abs(mine @ change - theirs).max(initial=0.0) > _SAME * size:
        raise NotConvertible(f"The couplings that '{name}' belongs to are not those of MACE. Not converted.")
    return torch.einsum("pq,zqc->zpc", torch.from_numpy(change), weight)


def _couplings(contraction: NativeModule) -> list[Array]:
    tensors = contraction.tensors
    orders = sum(name.startswith("U_matrix_") for name in tensors)
    arrays = []
    for order in range(1, orders + 1):
        u = tensors[f"U_matrix_{order}"].double().numpy()
        arrays.append(u if u.ndim == order + 2 else u[None])  # scalars come without the axis of components
    return arrays


def _tables(couplings: list[Array]) -> list[Table]:
    """For each order {monomial: coefficients (components, parameters)}."""
    return [(collect(tensor), tensor.shape[-1]) for tensor in couplings]


def _our_tables(contraction: Contraction, monomials: list[tuple[int, ...]]) -> list[Table]:
    coefficients = contraction.coefficients.value.double().cpu().numpy()
    widths = [contraction.weights_max.shape[1], *(weight.shape[1] for weight in contraction.weights)]
    tables: list[Table] = []
    column = 0
    for order, width in zip(range(len(widths), 0, -1), widths, strict=True):
        block = coefficients[:, column : column + width]
        keys = {
            m: block[:, :, i] for i, m in enumerate(monomials) if len(m) == order and block[:, :, i].any()
        }
        tables.insert(0, (keys, width))
        column += width
    return tables


def _aligned(first: Table, second: Table) -> tuple[Array, Array]:
    """Both tables over the same monomials, as matrices (monomials * components, parameters)."""
    keys = sorted({*first[0], *second[0]})
    shape = next(iter([*first[0].values(), *second[0].values()]), np.zeros((1, 1))).shape[0]
    matrices = []
    for table, width in (first, second):
        matrix = np.zeros((len(keys), shape, width))
        for row, key in enumerate(keys):
            if key in table:
                matrix[row] = table[key]
        matrices.append(matrix.reshape(-1, width))
    return matrices[0], matrices[1]


def _monomials(contraction: SymmetricContraction) -> list[tuple[int, ...]]:
    """The monomials of all orders as sorted indices, in the order of the coefficients."""
    total = contraction.contractions[0].coefficients.value.shape[2]
    last = [part.value.tolist() for part in contraction.lasts]
    prefix = [part.value.tolist() for part in contraction.prefixes]
    level: list[tuple[int, ...]] = [(i,) for i in range(total - sum(len(part) for part in last))]
    monomials = list(level)
    for before, after in zip(prefix, last, strict=True):
        level = [(*level[i], j) for i, j in zip(before, after, strict=True)]
        monomials += level
    return monomials
