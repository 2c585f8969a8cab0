"""What the Triton kernels compute, in plain torch: for tracing on a CPU, and for tests.

Every function takes what the kernels take; a generated module holds the same coefficients as data.
"""

import math
import os
from typing import Any

import torch

from deepmd_gnn.kernels.triton.splines import WEIGHTS, basis_polynomials, slope_polynomials


def interprets() -> bool:
    """Whether Triton runs kernels on the CPU, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _harmonics(unit: torch.Tensor, module: Any) -> torch.Tensor:
    """Shape (count, 3) → (count, ·), by the recursion of the generated module."""
    values = [torch.ones_like(unit[:, 0]), *(unit * math.sqrt(3.0)).unbind(1)]
    for _, terms in module.RECURSION:
        values.append(torch.stack([values[a] * values[b] * c for a, b, c in terms]).sum(0))
    return torch.stack(values, dim=1)


def _splines(distance: torch.Tensor, module: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """B-spline weights, their derivatives and the bin of distances."""
    per_angstrom = (module.NODES - 1) / module.R_MAX
    place = distance * per_angstrom
    bins = place.to(torch.int64).clamp(0, module.NODES - 2)
    powers = (place - bins).unsqueeze(1) ** torch.arange(WEIGHTS, device=distance.device)
    within = ~(distance >= module.R_MAX).unsqueeze(1)
    found = []
    for polynomials, factor in ((basis_polynomials(), 1.0), (slope_polynomials(), per_angstrom)):
        matrix = torch.as_tensor(polynomials, device=distance.device)
        weights = factor * powers[:, : matrix.shape[1]] @ matrix.T
        found.append(torch.where(within, weights, 0.0))
    return found[0], found[1], bins


def geometry(
    vectors: torch.Tensor, edge_index: torch.Tensor, types: torch.Tensor, order: torch.Tensor, module: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :func:`~deepmd_gnn.kernels.triton.operators.geometry`."""
    ordered = -vectors[order]
    distance = torch.linalg.norm(ordered, dim=1)
    weights, slopes, row = _splines(distance, module)
    harmonics = _harmonics(ordered / distance.unsqueeze(1), module)[:, 1:]
    sender = edge_index[0][order]
    if module.TYPES:
        row = row + (types[sender] * module.TYPES + types[edge_index[1][order]]) * (module.NODES + 4)
    packed = torch.cat([weights, slopes, harmonics], dim=1)
    packed = torch.nn.functional.pad(packed, (0, module.ROW - packed.shape[1]))
    return packed.to(getattr(torch, module.DTYPE)), row.to(torch.int32), sender.to(torch.int32)


def _unpacked(packed: torch.Tensor, module: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """B-spline weights, their derivatives and harmonics, shape (count, ·)."""
    last = 2 * WEIGHTS + module.HARMONICS - 1
    harmonics = torch.cat([torch.ones_like(packed[:, :1]), packed[:, 2 * WEIGHTS : last]], dim=1)
    return packed[:, :WEIGHTS], packed[:, WEIGHTS : 2 * WEIGHTS], harmonics


def _radial(weights: torch.Tensor, row: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Interpolate, shape (count, npath, channels)."""
    rows = torch.stack([table[row.long() + k] for k in range(WEIGHTS)], dim=1)
    return torch.einsum("ek,ekpc->epc", weights, rows)


def _receivers(begin: torch.Tensor) -> torch.Tensor:
    number = begin[1:] - begin[:-1]
    return torch.repeat_interleave(torch.arange(len(number), device=begin.device), number)


def convolve(
    sent: torch.Tensor,
    packed: torch.Tensor,
    row: torch.Tensor,
    source: torch.Tensor,
    begin: torch.Tensor,
    table: torch.Tensor,
    module: Any,
) -> torch.Tensor:
    """See :func:`~deepmd_gnn.kernels.triton.operators.convolve`."""
    used = int(begin[-1])  # behind the last receiver's edges come those that nobody receives
    packed, row, source = packed[:used], row[:used], source[:used]
    weights, _, harmonics = _unpacked(packed, module)
    radial, inputs = _radial(weights, row, table), sent[source.long()]
    messages = inputs.new_zeros(inputs.shape[0], module.WIDTH, inputs.shape[2])
    for path, terms in enumerate(module.PATHS):
        for m1, m2, m3, c in terms:
            messages[:, m3] += c * harmonics[:, m2, None] * radial[:, path] * inputs[:, m1]
    out = sent.new_zeros(len(begin) - 1, module.WIDTH, sent.shape[2])
    return out.index_add(0, _receivers(begin), messages)


def convolve_backward(
    gradient: torch.Tensor,
    vectors: torch.Tensor,
    sent: torch.Tensor,
    packed: torch.Tensor,
    row: torch.Tensor,
    source: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    table: torch.Tensor,
    module: Any,
    senders: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See :func:`~deepmd_gnn.kernels.triton.operators.convolve_backward`."""
    used = int(begin[-1])
    packed, row, source, order = packed[:used], row[:used], source[:used], order[:used]
    weights, slopes, harmonics = _unpacked(packed, module)
    radial, radial_slope = _radial(weights, row, table), _radial(slopes, row, table)
    inputs, arriving = sent[source.long()], gradient[_receivers(begin)]
    d_distance = inputs.new_zeros(inputs.shape[0])
    d_harmonics, d_inputs = torch.zeros_like(harmonics), torch.zeros_like(inputs)
    for path, terms in enumerate(module.PATHS):
        for m1, m2, m3, c in terms:
            coupled = c * arriving[:, m3] * inputs[:, m1]
            d_harmonics[:, m2] += (coupled * radial[:, path]).sum(1)
            d_distance += (coupled * radial_slope[:, path]).sum(1) * harmonics[:, m2]
            d_inputs[:, m1] += c * arriving[:, m3] * radial[:, path] * harmonics[:, m2, None]
    ordered = -vectors[order]
    distance = torch.linalg.norm(ordered, dim=1, keepdim=True)
    unit = ordered / distance
    d_unit = _gradient_of_harmonics(harmonics, d_harmonics, module).double()
    across = (d_unit - (d_unit * unit).sum(1, keepdim=True) * unit) / distance
    d_vectors = torch.zeros_like(vectors)
    d_vectors[order] = -(d_distance.double().unsqueeze(1) * unit + across)
    if not senders:
        return d_vectors, sent.new_empty(0)
    return d_vectors, torch.zeros_like(sent).index_add(0, source.long(), d_inputs)


def _gradient_of_harmonics(harmonics: torch.Tensor, d_harmonics: torch.Tensor, module: Any) -> torch.Tensor:
    """From harmonics to the unit vector, through the recursion backwards, shape (count, 3)."""
    gradients = list(d_harmonics.unbind(1))
    for index, terms in reversed(module.RECURSION):
        for a, b, c in terms:
            gradients[a] = gradients[a] + c * gradients[index] * harmonics[:, b]
            gradients[b] = gradients[b] + c * gradients[index] * harmonics[:, a]
    return torch.stack(gradients[1:4], dim=1) * math.sqrt(3.0)


def contract(
    features: torch.Tensor, coefficients: torch.Tensor, kind: torch.Tensor, module: Any
) -> torch.Tensor:
    """See :func:`~deepmd_gnn.kernels.triton.operators.contract`."""
    out = features.new_zeros(features.shape[0], module.WIDTH, features.shape[2])
    of_kind = coefficients[kind]
    for term, (output, factors) in enumerate(module.MONOMIALS):
        out[:, output] += of_kind[:, term] * features[:, factors].prod(dim=1)
    return out


def contract_backward(
    gradient: torch.Tensor,
    features: torch.Tensor,
    coefficients: torch.Tensor,
    kind: torch.Tensor,
    module: Any,
) -> torch.Tensor:
    """See :func:`~deepmd_gnn.kernels.triton.operators.contract_backward`."""
    out = torch.zeros_like(features)
    of_kind = coefficients[kind]
    for term, (output, factors) in enumerate(module.MONOMIALS):
        for position, factor in enumerate(factors):
            others = [*factors[:position], *factors[position + 1 :]]
            out[:, factor] += gradient[:, output] * of_kind[:, term] * features[:, others].prod(dim=1)
    return out


def mix(
    features: torch.Tensor,
    matrices: torch.Tensor,
    begins: torch.Tensor,
    paths: torch.Tensor,
    one_hot: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """See :func:`~deepmd_gnn.kernels.triton.mixing.mix`."""
    columns = []
    for first, last in zip(begins.tolist()[:-1], begins.tolist()[1:], strict=True):
        column = features.new_zeros(features.shape[0], matrices.shape[3])
        for source, matrix in paths[first:last].tolist():
            if one_hot.numel():
                column = column + torch.einsum(
                    "nc,tcd,nt->nd", features[:, source], matrices[:, matrix], one_hot
                )
            else:
                column = column + features[:, source] @ matrices[0, matrix]
        columns.append(column)
    columns += [torch.zeros_like(columns[0])] * (width - len(columns))
    return torch.stack(columns, dim=1)


def forces(
    gradient: torch.Tensor,
    vectors: torch.Tensor,
    edge_atoms: torch.Tensor,
    order: torch.Tensor,
    begin: torch.Tensor,
    natom: int,
) -> torch.Tensor:
    """See :func:`~deepmd_gnn.kernels.triton.forces.forces`."""
    listed = order[: int(begin[-1])]
    change, (neighbor, center) = gradient[listed], edge_atoms[:, listed]
    force = gradient.new_zeros(natom + 1, 3).index_add(0, center, change).index_add(0, neighbor, -change)
    virial = -(change.unsqueeze(2) * vectors[listed].unsqueeze(1)).flatten(1)
    return torch.cat(
        [force.flatten(), gradient.new_zeros(natom + 1, 9).index_add(0, neighbor, virial).flatten()]
    )
