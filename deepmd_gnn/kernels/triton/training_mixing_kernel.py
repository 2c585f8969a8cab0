"""Derivative of linear maps between channels with respect to their matrices, in Triton."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["nnode", "components", "width", "nmatrix"])
def outer(
    features,
    gradient,
    begins,
    pairs,
    one_hot,
    out,
    nnode,
    components,
    width,
    nmatrix,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    TYPES: tl.constexpr,
    ATOMS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    REAL: tl.constexpr,
):
    """Add the products of features and gradients of some atoms to a tile of a matrix.

    A program has a matrix, which leads from some components of the features to as many of the result (`pairs`), a tile of it,
    and `ATOMS` atoms, `DEPTH` at a time.
    """
    matrix = tl.program_id(0) % nmatrix
    kind = tl.program_id(0) // nmatrix
    tiles: tl.constexpr = (OUTPUTS + COLUMNS - 1) // COLUMNS
    row = (tl.program_id(1) // tiles) * ROWS + tl.arange(0, ROWS)
    column = (tl.program_id(1) % tiles) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.load(begins + matrix)
    last = tl.load(begins + matrix + 1)
    total = tl.zeros([ROWS, COLUMNS], REAL)
    for start in range(0, ATOMS, DEPTH):
        node = tl.program_id(2).to(tl.int64) * ATOMS + start + tl.arange(0, DEPTH)
        member = node < nnode
        if TYPES > 0:
            member = member & (tl.load(one_hot + node * TYPES + kind, mask=member, other=0.0) > 0)
        for pair in range(first, last):
            source = tl.load(pairs + 2 * pair)
            target = tl.load(pairs + 2 * pair + 1)
            left = tl.load(
                features + (node[:, None] * components + source) * INPUTS + row[None, :],
                mask=member[:, None] & (row[None, :] < INPUTS),
                other=0.0,
            )
            right = tl.load(
                gradient + (node[:, None] * width + target) * OUTPUTS + column[None, :],
                mask=member[:, None] & (column[None, :] < OUTPUTS),
                other=0.0,
            )
            total = tl.dot(tl.trans(left), right, total, input_precision="ieee", out_dtype=REAL)
    place = ((kind * nmatrix + matrix) * INPUTS + row[:, None]) * OUTPUTS + column[None, :]
    tl.atomic_add(
        out + place, total, mask=(row[:, None] < INPUTS) & (column[None, :] < OUTPUTS), sem="relaxed"
    )
