"""Forces and virials of atoms in Triton: what the edges of a receiver bring to it and to its neighbours, in one launch."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["natom", "count", "nedge"])
def forces(gradient, vectors, edge_atoms, order, begin, out, natom, count, nedge, BLOCK: tl.constexpr):
    """Go through the edges of a receiver: its own force is summed here, what belongs to neighbours is added atomically.

    `out` is zero before: forces of the guard and the atoms, three numbers each, then virials, nine numbers each.
    """
    node = tl.program_id(0).to(tl.int64)
    first = tl.load(begin + node)
    # While AOTInductor compiles, it tries kernels on arrays whose sizes need not fit together.
    last = tl.minimum(tl.load(begin + node + 1), tl.cast(count, tl.int64))
    virials = out + 3 * (tl.cast(natom, tl.int64) + 1)
    lane = tl.arange(0, BLOCK)
    own_x = tl.zeros([BLOCK], tl.float64)
    own_y = tl.zeros([BLOCK], tl.float64)
    own_z = tl.zeros([BLOCK], tl.float64)
    for start in range(first, last, BLOCK):
        inside = start + lane < last
        edge = tl.load(order + start + lane, mask=inside, other=0)
        neighbor = tl.load(edge_atoms + edge, mask=inside, other=0)
        x = tl.load(vectors + edge * 3, mask=inside, other=0.0)
        y = tl.load(vectors + edge * 3 + 1, mask=inside, other=0.0)
        z = tl.load(vectors + edge * 3 + 2, mask=inside, other=0.0)
        for axis in tl.static_range(3):
            change = tl.load(gradient + edge * 3 + axis, mask=inside, other=0.0)
            if axis == 0:
                own_x += change
            elif axis == 1:
                own_y += change
            else:
                own_z += change
            tl.atomic_add(out + neighbor * 3 + axis, -change, mask=inside, sem="relaxed")
            row = virials + neighbor * 9 + 3 * axis
            tl.atomic_add(row, -change * x, mask=inside, sem="relaxed")
            tl.atomic_add(row + 1, -change * y, mask=inside, sem="relaxed")
            tl.atomic_add(row + 2, -change * z, mask=inside, sem="relaxed")
    if first < last:
        center = tl.load(edge_atoms + nedge + tl.load(order + first))
        tl.atomic_add(out + center * 3, tl.sum(own_x, 0), sem="relaxed")
        tl.atomic_add(out + center * 3 + 1, tl.sum(own_y, 0), sem="relaxed")
        tl.atomic_add(out + center * 3 + 2, tl.sum(own_z, 0), sem="relaxed")
