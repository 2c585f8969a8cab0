"""The product basis of a native MACE file in our couplings.

The couplings are a basis of symmetric equivariant polynomials. Models made with ``use_reduced_cg`` or with
cuEquivariance have another basis of the same space, and so other weights for the same polynomial: the weights are
found again by least squares, which is exact because both bases span the space.
"""

import numpy as np
import torch

from deepmd_gnn.files.native_file import NativeModule, NotConvertible
from deepmd_gnn.files.safe_pickle import NumberArray, Record, records_in
from deepmd_gnn.nn.monomials import Array, collect
from deepmd_gnn.nn.symmetric_contraction import Contraction, SymmetricContraction

# Monomial → coefficients (components, parameters), and the number of parameters.
Table = tuple[dict[tuple[int, ...], Array], int]
# Parameter, variables and output component of a term; coefficient.
Term = tuple[list[int], float]
Weights = dict[str, torch.Tensor]

# Agreement of couplings from a file with ours: rounding of float32 files.
_SAME = 1e-6


def adopt_couplings(weights: Weights, prefix: str, product: NativeModule, ours: SymmetricContraction) -> None:
    """Express the weights of a product basis in our couplings.

    Parameters
    ----------
    weights : dict[str, torch.Tensor]
        Weights of the file; changed.
    prefix : str
        Of the weights of this layer's contraction.
    product : NativeModule
        The product basis of the file.
    ours : SymmetricContraction
        Our product basis.

    Raises
    ------
    NotConvertible
        If our couplings do not span the polynomial.
    """
    native = product["symmetric_contractions"]
    monomials = _monomials(ours)
    tables = [_our_tables(part, monomials) for part in ours.contractions]
    if "contractions" in native.children:
        # A single layer of an old file has more than its scalars, see drop_unread.
        for index, (file, mine) in enumerate(zip(native.layers("contractions"), tables, strict=False)):
            theirs = [(collect(tensor), tensor.shape[-1]) for tensor in _couplings(file)]
            for name, u, v in zip(_names(prefix, index, len(mine)), theirs, mine, strict=True):
                if name in weights:
                    weights[name] = _in_our_basis(weights[name], *_aligned(u, v), name)
        return
    weight = weights.pop(f"{prefix}weight")
    terms = _terms(native)
    if terms is None:
        _split(weights, prefix, weight, native, tables)
        return
    combined = _combined_weight(weight, native)
    begin = 0
    for index, mine in enumerate(tables):
        dim = int(ours.contractions[index].coefficients.value.shape[0])
        outputs = range(begin, begin + dim)
        for order, (name, v) in enumerate(zip(_names(prefix, index, len(mine)), mine, strict=True), 1):
            u = _terms_table(terms, order, outputs, combined.shape[1])
            weights[name] = _in_our_basis(combined, *_aligned(u, v), name)
        begin += dim


def _names(prefix: str, index: int, orders: int) -> list[str]:
    """Names of the weights by increasing order; native keeps those of the highest order first."""
    stem = f"{prefix}contractions.{index}.weights"
    return [*(f"{stem}.{k}" for k in range(orders - 2, -1, -1)), f"{stem}_max"]


def _combined_weight(weight: torch.Tensor, native: NativeModule) -> torch.Tensor:
    """Weights (elements, parameters, channels) of cuEquivariance's polynomial."""
    projection = native.tensors.get("projection")
    if projection is None or projection.numel() == 0:
        return weight
    return torch.einsum("zau,ab->zbu", weight, projection.double())


def _terms_table(terms: list[Term], order: int, outputs: range, width: int) -> Table:
    """One order of cuEquivariance's polynomial, as stored in the file, for some output components."""
    table: dict[tuple[int, ...], Array] = {}
    for indices, coefficient in terms:
        parameter, *variables, output = indices
        if len(variables) == order and output in outputs:
            entry = table.setdefault(tuple(sorted(variables)), np.zeros((len(outputs), width)))
            entry[output - outputs.start, parameter] += coefficient
    return table, width


def _terms(native: NativeModule) -> list[Term] | None:
    """Terms of cuEquivariance's polynomial, if the file holds it: other operands are layouts, not the contraction."""
    for record in records_in(native.record):
        state = record.state
        if record.name == "SegmentedPolynomial" and isinstance(state, dict) and "operations" in state:
            operations = [(list(op.state["buffers"]), product) for op, product in state["operations"]]
            if all(buffers == [0, *[1] * (len(buffers) - 2), 2] for buffers, _ in operations):
                return [
                    ([int(i) for i in path.state["indices"]], _scalar(path))
                    for _, product in operations
                    for path in product.state["paths"]
                ]
    return None


def _scalar(path: Record) -> float:
    value = path.state["coefficients"]
    numbers = value.value if isinstance(value, NumberArray) else np.asarray(value)
    if numbers.size != 1:
        raise NotConvertible(_UNKNOWN)
    return float(numbers.reshape(()))


def _split(
    weights: Weights, prefix: str, weight: torch.Tensor, native: NativeModule, tables: list[list[Table]]
) -> None:
    """Cut up weights for MACE's own couplings, side by side, where the file does not hold the polynomial.

    Only a layer made with ``original_mace`` has a projection, which says that these are its couplings.
    """
    names, widths = [], []
    for index, mine in enumerate(tables):
        names += _names(prefix, index, len(mine))[::-1]
        widths += [width for _, width in mine[::-1]]
    vanishing = any(not table for mine in tables for table, _ in mine)
    if "projection" not in native.tensors or sum(widths) != weight.shape[1] or vanishing:
        raise NotConvertible(_UNKNOWN)
    weights.update(zip(names, weight.split(widths, dim=1), strict=True))


_UNKNOWN = (
    "The product basis has a layout of cuEquivariance that is not known here. Convert the model with "
    "mace_cueq_to_e3nn first. Not converted."
)


def _in_our_basis(weight: torch.Tensor, theirs: Array, mine: Array, name: str) -> torch.Tensor:
    """Weights (elements, parameters, channels) for our couplings, shape (coefficients, parameters) both."""
    size = max(float(np.abs(mine).max(initial=0.0)), 1.0)
    if not theirs.any() and theirs.shape != mine.shape:
        return weight.new_zeros(weight.shape[0], mine.shape[1], weight.shape[2])
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
    last = [part.index.value.tolist() for part in contraction.lasts]
    prefix = [part.index.value.tolist() for part in contraction.prefixes]
    level: list[tuple[int, ...]] = [(i,) for i in range(total - sum(len(part) for part in last))]
    monomials = list(level)
    for before, after in zip(prefix, last, strict=True):
        level = [(*level[i], j) for i, j in zip(before, after, strict=True)]
        monomials += level
    return monomials
