"""Linear maps between channels in Triton: all irreps of a map in one launch, rows read and written where they lie."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["nnode", "components", "nmatrix", "width", "known"])
def mix(
    features,
    matrices,
    begins,
    paths,
    one_hot,
    out,
    nnode,
    components,
    nmatrix,
    width,
    known,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    TYPES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    REAL: tl.constexpr,
):
    """Multiply the rows of a block of atoms, one component of the result, with the matrices that lead to it.

    With a matrix per element (TYPES > 0) the rows of the other elements are set to zero, and elements that no atom of
    the block has are left out.
    """
    block = tl.program_id(0)
    component = tl.program_id(1)
    node = block.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = node < nnode
    total = tl.zeros([ROWS, COLUMNS], REAL)
    # Nothing leads to components beyond the known ones.
    first = tl.load(begins + component, mask=component < known, other=0)
    last = tl.load(begins + component + 1, mask=component < known, other=0)
    for kind in range(TYPES if TYPES > 0 else 1):
        member = inside
        if TYPES > 0:
            member = tl.load(one_hot + node * TYPES + kind, mask=inside, other=0.0) > 0
        if tl.max(member.to(tl.int32), 0) > 0:
            for path in range(first, last):
                source = tl.load(paths + 2 * path)
                matrix = tl.load(paths + 2 * path + 1)
                for start in range(0, INPUTS, DEPTH):
                    depth = start + tl.arange(0, DEPTH)
                    left = tl.load(
                        features + (node[:, None] * components + source) * INPUTS + depth[None, :],
                        mask=member[:, None] & (depth[None, :] < INPUTS),
                        other=0.0,
                    )
                    right = tl.load(
                        matrices
                        + ((kind * nmatrix + matrix) * INPUTS + depth[:, None]) * OUTPUTS
                        + column[None, :],
                        mask=(depth[:, None] < INPUTS) & (column[None, :] < OUTPUTS),
                        other=0.0,
                    )
                    total = tl.dot(left, right, total, input_precision="ieee", out_dtype=REAL)
    tl.store(
        out + (node[:, None] * width + component) * OUTPUTS + column[None, :],
        total,
        mask=inside[:, None] & (column[None, :] < OUTPUTS),
    )
