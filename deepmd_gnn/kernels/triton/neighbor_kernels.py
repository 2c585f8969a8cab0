"""Kernels of the neighbour search on a GPU; :mod:`~deepmd_gnn.kernels.triton.neighbors` launches them.

Atoms are sorted into bins of their frame's cell, and every atom looks through the bins around its own. Bins repeat with
the cell, so that there are no image atoms, however thin the cell is: a column of bins is a sequence of atoms that goes on
in the next cell. Free boundaries are bins of a cubic cell that repeats too, but only pairs within one copy degree, so
that atoms may be anywhere and nobody has to know how far they reach.

What is wrong with the input is counted as a problem and left out, so that no kernel reads beyond its arrays or loops
without end; the host reads the problems together with the number of edges.

Arrays, all contiguous, with natom = nf * nloc:

- `cells` float64 (nf, 18): cell vectors, then the inverse cell, both by rows; `bins` int32 (nf, 6): number of bins along the
  three directions, and how many of them the cutoff reaches. Divisions of these numbers are what a GPU is slow at.
- `held` int64: 0, then the atoms in each bin, `room` bins per frame; `start` int64: their cumulative sum.
- `bin_of`, `slot` int64 (natom,): bin of each atom, −1 if it takes no part, and its place there in order of arrival.
- `arrived`, `member` int64 (natom,): atoms by bin, in order of arrival and in their own order.
- `record` float64 (6, natom): position of each member, and the cell that it is in.
- `degree` int64 (natom + 3 + nf,): 0, the guard's edge, edges of each atom, problems with atoms, problems with each frame;
  `begin` int64: their cumulative sum.
"""

import triton
import triton.language as tl

# Bins are wider than the cutoff by this fraction: more than rounding moves an atom.
_MARGIN = tl.constexpr(1.0 + 1e-6)
# Keeps numbers of bins small enough to be multiplied, however large a cell is.
_MOST_BINS = tl.constexpr(1048576.0)
# Largest coordinate and component of a cell, Å, as in `input_checks.farthest`.
_FARTHEST = tl.constexpr(1.0e-6 / 2.0**-52)
# Squared distance of atoms at the same place, as in `graph.without_direction`.
_SAME_PLACE = tl.constexpr(1e-12)


@triton.jit
def _load3(pointer, mask):
    return tl.load(pointer, mask, 0), tl.load(pointer + 1, mask, 0), tl.load(pointer + 2, mask, 0)


@triton.jit
def _store3(pointer, x, y, z, mask):
    tl.store(pointer, x, mask)
    tl.store(pointer + 1, y, mask)
    tl.store(pointer + 2, z, mask)


@triton.jit
def _times_matrix(x, y, z, matrix, mask):
    """Multiply rows of three numbers by matrices; `matrix` points to the first elements."""
    a0, a1, a2 = _load3(matrix, mask)
    b0, b1, b2 = _load3(matrix + 3, mask)
    c0, c1, c2 = _load3(matrix + 6, mask)
    return x * a0 + y * b0 + z * c0, x * a1 + y * b1 + z * c1, x * a2 + y * b2 + z * c2


@triton.jit
def _inverse_column(u0, u1, u2, v0, v1, v2, volume):
    """Cross product over the volume: a column of the inverse cell, and the height of the cell along it."""
    x, y, z = (u1 * v2 - u2 * v1) / volume, (u2 * v0 - u0 * v2) / volume, (u0 * v1 - u1 * v0) / volume
    return x, y, z, 1.0 / tl.sqrt(x * x + y * y + z * z)


@triton.jit
def _bins_of(height, reach):
    return tl.minimum(tl.maximum(tl.floor(height / reach), 1.0), _MOST_BINS).to(tl.int64)


@triton.jit
def _bins_within(height, reach, number):
    # The margin is more than what is taken off here, so that a quotient of 1 stays 1.
    return tl.ceil(reach * number.to(tl.float64) / height - 1e-9).to(tl.int64)


@triton.jit(do_not_specialize=["nf", "natom", "nheld", "side", "room"])
def prepare(
    box, cells, bins, held, degree, node_types, nf, natom, nheld, side, room,
    R_MAX: tl.constexpr, THINNEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Give all counters their first values, invert the cells and divide them into bins."""
    lane = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(held + lane, tl.zeros((BLOCK,), tl.int64), lane < nheld)
    tl.store(degree + lane, (lane == 1).to(tl.int64), lane < natom + 3)
    tl.store(node_types + lane, tl.zeros((BLOCK,), tl.int64), lane == 0)  # the guard
    here = lane < nf
    zero = tl.zeros((BLOCK,), tl.float64)
    reach = zero + R_MAX * _MARGIN
    if box is not None:
        a0, a1, a2 = _load3(box + lane * 9, here)
        b0, b1, b2 = _load3(box + lane * 9 + 3, here)
        c0, c1, c2 = _load3(box + lane * 9 + 6, here)
    else:
        edge = reach * side
        a0, a1, a2 = edge, zero, zero
        b0, b1, b2 = zero, edge, zero
        c0, c1, c2 = zero, zero, edge
    volume = a0 * (b1 * c2 - b2 * c1) + a1 * (b2 * c0 - b0 * c2) + a2 * (b0 * c1 - b1 * c0)
    x0, x1, x2, height_a = _inverse_column(b0, b1, b2, c0, c1, c2, volume)
    y0, y1, y2, height_b = _inverse_column(c0, c1, c2, a0, a1, a2, volume)
    z0, z1, z2, height_c = _inverse_column(a0, a1, a2, b0, b1, b2, volume)
    # Comparisons with NaN are false.
    sound = (tl.abs(volume) >= 1e-9) & (tl.abs(volume) < float("inf"))
    sound = sound & (height_a >= THINNEST) & (height_b >= THINNEST) & (height_c >= THINNEST)
    sound = sound & (height_a + height_b + height_c < float("inf"))
    longest = tl.maximum(tl.maximum(tl.abs(a0), tl.abs(a1)), tl.abs(a2))
    longest = tl.maximum(longest, tl.maximum(tl.maximum(tl.abs(b0), tl.abs(b1)), tl.abs(b2)))
    longest = tl.maximum(longest, tl.maximum(tl.maximum(tl.abs(c0), tl.abs(c1)), tl.abs(c2)))
    sound = sound & (longest <= _FARTHEST)
    tl.store(degree + natom + 3 + lane, (~sound).to(tl.int64), here)
    height_a, height_b = tl.where(sound, height_a, reach), tl.where(sound, height_b, reach)
    height_c = tl.where(sound, height_c, reach)
    ma, mb, mc = _bins_of(height_a, reach), _bins_of(height_b, reach), _bins_of(height_c, reach)
    # At most `room` bins in all: every direction may have `side`, side³ <= room, and more if the others leave room for it.
    na = tl.minimum(ma, tl.maximum(side, room // (mb * mc)))
    nb = tl.minimum(mb, tl.maximum(side, room // (ma * mc)))
    nc = tl.minimum(mc, tl.maximum(side, room // (ma * mb)))
    _store3(bins + lane * 6, na, nb, nc, here)
    ra, rb = _bins_within(height_a, reach, na), _bins_within(height_b, reach, nb)
    _store3(bins + lane * 6 + 3, ra, rb, _bins_within(height_c, reach, nc), here)
    _store3(cells + lane * 18, a0, a1, a2, here)
    _store3(cells + lane * 18 + 3, b0, b1, b2, here)
    _store3(cells + lane * 18 + 6, c0, c1, c2, here)
    _store3(cells + lane * 18 + 9, x0, y0, z0, here)
    _store3(cells + lane * 18 + 12, x1, y1, z1, here)
    _store3(cells + lane * 18 + 15, x2, y2, z2, here)


@triton.jit
def _bin_along(fraction, home, number):
    """Bin of a fractional coordinate; rounding may put it on the upper face of its cell, infinity nowhere."""
    inside = fraction - home
    inside = tl.where((inside >= 0) & (inside <= 1), inside, 0.0)
    return tl.minimum((inside * number.to(tl.float64)).to(tl.int32), number - 1)


@triton.jit(do_not_specialize=["natom", "nloc", "ntypes", "room"])
def assign(
    coord, atype, cells, bins, held, degree, bin_of, slot, home, node_types, natom, nloc, ntypes, room,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Find the bin of every atom and count the atoms of the bins; types of the nodes on the way."""
    atom = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = atom < natom
    frame = atom // nloc
    kind = tl.load(atype + atom, here, -1)
    x, y, z = _load3(coord + atom * 3, here)
    near = (tl.abs(x) <= _FARTHEST) & (tl.abs(y) <= _FARTHEST) & (tl.abs(z) <= _FARTHEST)
    wrong = here & ((kind >= ntypes) | (kind < -1) | ~near)
    problems = tl.sum(wrong.to(tl.int64))
    if problems > 0:
        tl.atomic_add(degree + natom + 2, problems, sem="relaxed")
    part = here & (kind >= 0) & ~wrong
    tl.store(node_types + 1 + atom, tl.where(part, kind, 0), here)
    u, v, w = _times_matrix(x, y, z, cells + frame * 18 + 9, part)
    na, nb, nc = _load3(bins + frame * 6, part)
    ha, hb, hc = tl.floor(u), tl.floor(v), tl.floor(w)
    _store3(home + atom * 3, ha, hb, hc, part)
    place = (_bin_along(u, ha, na) * nb + _bin_along(v, hb, nb)) * nc + _bin_along(w, hc, nc)
    place = frame * room + place.to(tl.int64)
    tl.store(bin_of + atom, tl.where(part, place, -1), here)
    tl.store(slot + atom, tl.atomic_add(held + 1 + place, 1, part, sem="relaxed"), part)


@triton.jit(do_not_specialize=["natom"])
def arrive(start, bin_of, slot, arrived, natom, BLOCK: tl.constexpr):
    """List the atoms of every bin in the order in which `assign` came to them, which is another one every time."""
    atom = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(bin_of + atom, atom < natom, -1)
    part = place >= 0
    at = tl.load(start + place, part, 0) + tl.load(slot + atom, part, 0)
    tl.store(arrived + at, atom, part)


@triton.jit(do_not_specialize=["natom"])
def arrange(coord, home, start, bin_of, arrived, member, record, natom, BLOCK: tl.constexpr):
    """List the atoms of every bin in their own order, so that edges and sums are the same every time."""
    atom = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    place = tl.load(bin_of + atom, atom < natom, -1)
    part = place >= 0
    first, last = tl.load(start + place, part, 0), tl.load(start + place + 1, part, 0)
    at = first
    for step in range(tl.max(last - first)):
        other = tl.load(arrived + first + step, first + step < last, natom)
        at += (other < atom).to(tl.int64)
    tl.store(member + at, atom, part)
    stride = natom.to(tl.int64)
    for axis in tl.static_range(3):
        tl.store(record + axis * stride + at, tl.load(coord + atom * 3 + axis, part), part)
        tl.store(record + (3 + axis) * stride + at, tl.load(home + atom * 3 + axis, part), part)


@triton.jit
def _load_record(record, at, stride, mask):
    """Position of a member, and the cell that it is in."""
    x, y, z = (
        tl.load(record + at, mask, 0),
        tl.load(record + stride + at, mask, 0),
        tl.load(record + 2 * stride + at, mask, 0),
    )
    home = record + 3 * stride + at
    return (
        x,
        y,
        z,
        tl.load(home, mask, 0),
        tl.load(home + stride, mask, 0),
        tl.load(home + 2 * stride, mask, 0),
    )


@triton.jit
def _column_within_reach(start, bins, place, column):
    """Which members of a column of bins the cutoff can reach from the bin `place` of a frame.

    Members are counted on into the cells above and below. Numbers of bins are counted from a cell so far below that they
    are not negative, because division rounds towards zero.

    Returns
    -------
    tuple
        Cells up to the column along two directions; first member and number of members of the column; the range of
        members, and the cells to take off along the third direction.
    """
    na, nb, nc = _load3(bins, True)
    ra, rb, rc = _load3(bins + 3, True)
    ia = place // (nb * nc) + column // (2 * rb + 1) - ra + ra * na
    ib = (place // nc) % nb + column % (2 * rb + 1) - rb + rb * nb
    bottom = start + ((ia % na) * nb + ib % nb) * nc
    first = tl.load(bottom)
    size = tl.load(bottom + nc) - first
    low = place % nc - rc + rc * nc
    high = low + 2 * rc + 1
    lowest = low // nc * size + tl.load(bottom + low % nc) - first
    highest = high // nc * size + tl.load(bottom + high % nc) - first
    return ia // na - ra, ib // nb - rb, first, size, lowest, highest, rc


@triton.jit
def _separation(record, cell, stride, other, sa, sb, sc, center, PERIODIC: tl.constexpr, mask):
    """Vector from an atom to others in cells `sa`, `sb`, `sc`, and the cells between them as they were given."""
    x, y, z, ha, hb, hc = center
    dx, dy, dz, ga, gb, gc = _load_record(record, other, stride, mask)
    da, db, dc = sa + ha - ga, sb + hb - gb, sc + hc - gc
    dx, dy, dz = dx - x, dy - y, dz - z
    if PERIODIC:
        ex, ey, ez = _times_matrix(da, db, dc, cell, True)
        dx, dy, dz = dx + ex, dy + ey, dz + ez
    return dx, dy, dz, da, db, dc


@triton.jit
def _write_edges(
    edge_index, edge_vec, order, shift, nedge, edge, neighbor, center, x, y, z, da, db, dc, mask
):
    tl.store(edge_index + edge, neighbor, mask)
    tl.store(edge_index + nedge + edge, center, mask)
    tl.store(order + edge, edge, mask)
    _store3(edge_vec + edge * 3, x, y, z, mask)
    if shift is not None:
        _store3(shift + edge * 3, da, db, dc, mask)


@triton.jit(do_not_specialize=["natom", "nloc", "ntypes", "room", "nbin", "nedge"])
def pairs(
    atype, cells, bins, start, bin_of, member, record, allowed, degree, begin, edge_index, edge_vec, order, shift,
    natom, nloc, ntypes, room, nbin, nedge,
    R_MAX: tl.constexpr, GUARD: tl.constexpr, PERIODIC: tl.constexpr, FILL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the edges of one atom, or write them; both do the same arithmetic, or they would not agree about the cutoff."""
    lane = tl.arange(0, BLOCK)
    zero = tl.zeros((BLOCK,), tl.int64)
    at = tl.program_id(0).to(tl.int64) - 1
    if FILL:  # the program in front of those of the atoms writes the guard's edge
        far = zero.to(tl.float64) + GUARD
        guard = (lane == 0) & (at < 0)
        _write_edges(
            edge_index, edge_vec, order, None, nedge, zero, zero, zero, far, far, far, far, far, far, guard
        )
    if (at < 0) | (at >= tl.load(start + nbin)):
        return
    stride = natom.to(tl.int64)
    center = _load_record(record, at, stride, True)
    atom = tl.load(member + at)
    frame, kind = atom // nloc, tl.load(atype + atom)
    bins += frame * 6
    cell = cells + frame * 18
    place = (tl.load(bin_of + atom) - frame * room).to(tl.int32)
    written = tl.load(begin + 1 + atom) if FILL else at
    found, same = zero, zero
    for column in range((2 * tl.load(bins + 3) + 1) * (2 * tl.load(bins + 4) + 1)):
        sa, sb, first, size, lowest, highest, rc = _column_within_reach(
            start + frame * room, bins, place, column
        )
        for step in range(lowest, highest, BLOCK):
            candidate = step + lane
            other = first + candidate % size
            sc = candidate // size - rc
            dx, dy, dz, da, db, dc = _separation(
                record, cell, stride, other, sa, sb, sc, center, PERIODIC, candidate < highest
            )
            between = (da != 0) | (db != 0) | (dc != 0)
            keep = (between & PERIODIC) | (~between & (other != at))
            distance = dx * dx + dy * dy + dz * dz
            keep = keep & (candidate < highest) & (distance <= R_MAX * R_MAX)
            same += (keep & (distance < _SAME_PLACE)).to(tl.int64)
            neighbor = tl.load(member + other, keep, 0)
            if allowed is not None:
                keep = keep & tl.load(
                    allowed + kind * ntypes + tl.load(atype + neighbor, keep, 0), keep, 0
                ).to(tl.int1)
            if FILL:
                edge = written + tl.cumsum(keep.to(tl.int64), 0) - 1
                _write_edges(
                    edge_index, edge_vec, order, shift, nedge, edge, neighbor + 1, zero + atom + 1,
                    dx, dy, dz, da, db, dc, keep,
                )  # fmt: skip
                written += tl.sum(keep.to(tl.int64))
            else:
                found += keep.to(tl.int64)
    if not FILL:
        tl.store(degree + 2 + atom, tl.sum(found))
        tl.atomic_add(degree + natom + 2, tl.sum(same), tl.sum(same) > 0, sem="relaxed")
