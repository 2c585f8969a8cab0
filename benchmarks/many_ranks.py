"""What many ranks should give, from runs of a few: computing time, ghosts, messages and bytes of each rank.

``python benchmarks/many_ranks.py --model M`` prints Markdown tables. The system is copies of 192 atoms of water, so that ranks repeat
themselves, too: a periodic part of it on a part of the ranks has the same owned atoms, ghosts and exchanges per rank as the
whole on all of them, with LAMMPS, DeePMD-kit and the file's program for several ranks as they are. The CPU time of each of these
processes is measured, in which waiting ranks sleep; what the network between nodes takes is not in it, but counted.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import lammps_step
import measure
import numpy as np
import workload

SKIN = 2.0  # Å
STRONG = ["1,1,1", "2,2,2", "4,4,2", "4,4,4"]
# Copies of the cell and ranks, with the same atoms on each rank.
WEAK = [((2, 2, 1), "1,1,1"), ((8, 8, 4), "4,4,4")]
# Ranks that wait sleep instead of asking all the time (MPICH).
PATIENT = {
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE": "1",
    "MPIR_CVAR_CH4_PROGRESS_THROTTLE_NO_PROGRESS_COUNT": "200",
}


class Part(NamedTuple):
    """A periodic part of a system that repeats itself with its ranks."""

    copies: tuple[int, ...]
    """Of the cell, along each axis."""
    grid: tuple[int, ...]
    """Ranks along each axis."""


def repeated_part(copies, grid):
    """The smallest part of `copies` of a cell on a `grid` of ranks that is whole cells and whole ranks; at least two if there are two.

    Parameters
    ----------
    copies, grid : sequence[int]
        Three each.

    Returns
    -------
    Part
    """
    common = [math.gcd(*pair) for pair in zip(copies, grid, strict=True)]
    if math.prod(grid) > 1 and all(ranks == shared for ranks, shared in zip(grid, common, strict=True)):
        # One rank alone would run the file's other program.
        axis = max(range(3), key=lambda k: common[k])
        common[axis] //= next(p for p in range(2, common[axis] + 1) if common[axis] % p == 0)
    return Part(
        tuple(number // shared for number, shared in zip(copies, common, strict=True)),
        tuple(number // shared for number, shared in zip(grid, common, strict=True)),
    )


def exchanged(positions, lengths, grid, reach):
    """Atoms that each rank sends in LAMMPS' six exchanges of a periodic system: down and up along x, y, z, ghosts passed on.

    Parameters
    ----------
    positions : np.ndarray
        Å, inside the cell, shape (natom, 3).
    lengths : np.ndarray
        Edges of the cell, Å, shape (3,).
    grid : tuple[int, ...]
        Ranks along each axis.
    reach : float
        Cutoff and skin, Å.

    Returns
    -------
    np.ndarray
        Shape (ranks, 6).

    Raises
    ------
    ValueError
        If a rank is thinner than `reach`: its ghosts would come from further ranks.
    """
    size = lengths / np.array(grid)
    if grid != (1, 1, 1) and (size < reach).any():
        raise ValueError(
            f"ranks of {size.min():.3g} Å are thinner than cutoff and skin, {reach:g} Å: fewer ranks"
        )
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    images = (positions + shifts * lengths).reshape(-1, 3)
    counts = []
    for place in np.ndindex(*grid):
        low, high = size * place, size * (np.array(place) + 1)
        row = []
        for axis in range(3):
            # What came along the axes before is passed on.
            margin = np.where(np.arange(3) < axis, reach, 0.0)
            near = ((images >= low - margin) & (images < high + margin)).all(axis=1)
            along = images[near, axis]
            row += [int((along < low[axis] + reach).sum()), int((along >= high[axis] - reach).sum())]
        counts.append(row)
    return np.array(counts)


def widths(model):
    """Numbers that the program exchanges for an atom before each layer but the first, and back in the derivative."""
    layers = model.energy_model.interactions[1:]
    return [layer.linear_up.channels * sum(layer.conv_tp.input_dims) for layer in layers]


def traffic(part, structure, model):
    """Messages and bytes that a rank sends in a step, on average, and its ghosts.

    Parameters
    ----------
    part : Part
        What is simulated.
    structure : workload.System
        The cell.
    model : MaceModel
        The model.

    Returns
    -------
    tuple[float, float, float]
        Messages, bytes, ghosts; one rank sends nothing.
    """
    atoms = structure.atoms * part.copies
    counts = exchanged(atoms.get_positions(), atoms.cell.lengths(), part.grid, structure.r_max + SKIN)
    ghosts = float(counts.sum(axis=1).mean())
    if math.prod(part.grid) == 1:
        return 0.0, 0.0, ghosts
    number = model.energy_model.dtype.itemsize
    # Features forward, their derivatives backward; LAMMPS' positions forward and forces backward.
    per_atom = 2 * number * sum(widths(model)) + 2 * 3 * 8
    return 6.0 * 2 * (len(widths(model)) + 1), ghosts * per_atom, ghosts


def measured(folder, file, structure, part, args):
    """CPU seconds of each rank per step, least of the turns by their mean, shape (ranks,)."""
    turns = []
    ranks = math.prod(part.grid)
    for _ in range(args.turns):
        run = lammps_step.run_lammps(
            folder, structure, args.steps, file, SKIN, part.copies, ranks, PATIENT, part.grid
        )
        print(part, run, file=sys.stderr, flush=True)
        turns.append(run["rank_seconds"])
    return min(turns, key=statistics.mean)


def row(ranks, part, found, first, structure, model):
    """A line of a table; `first` is the time of an atom on one rank, of the same kind of row."""
    atoms = len(structure.atoms) * math.prod(part.copies) / math.prod(part.grid)
    mean, worst = statistics.mean(found), max(found)
    messages, sent, ghosts = traffic(part, structure, model)
    cells = [
        f"{ranks}", f"{atoms:.0f}", f"{ghosts:.0f}", f"{1e3 * mean:.3g}", f"{1e3 * worst:.3g}",
        f"{first * atoms / mean:.2f}", f"{first * atoms / worst:.2f}", f"{messages:.0f}", f"{sent / 1e6:.3g}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def head(title):
    """The first lines of a table."""
    names = [
        "ranks", "atoms of a rank", "its ghosts", "ms CPU per step", "of the slowest", "efficiency", "by the slowest",
        "messages it sends", "MB it sends",
    ]  # fmt: skip
    return [f"| {title}: {' | '.join(names)} |", "|---:" * len(names) + "|"]


def tables(folder, file, args):
    """Strong and weak scaling."""
    structure = workload.system("water")
    model = workload.our_model(args.model, args.precision, structure)
    atoms = len(structure.atoms) * math.prod(args.cells)
    cases = {
        f"{args.model}, {args.precision}, {atoms} atoms": [
            (tuple(args.cells), tuple(map(int, grid.split(",")))) for grid in args.grids
        ]
    }
    if args.weak:
        cases["the same for each rank"] = [
            (copies, tuple(map(int, grid.split(",")))) for copies, grid in WEAK
        ]
    lines = []
    for title, systems in cases.items():
        lines += ["", *head(title)]
        first = None
        for copies, grid in systems:
            part = repeated_part(copies, grid)
            found = measured(folder, file, structure, part, args)
            first = first or statistics.mean(found) / (
                len(structure.atoms) * math.prod(part.copies) / math.prod(part.grid)
            )
            lines.append(row(math.prod(grid), part, found, first, structure, model))
    return "\n".join(lines[1:])


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=list(workload.IRREPS), default="S", help=str(workload.IRREPS))
    parser.add_argument("--precision", choices=["float32", "float64"], default="float32")
    parser.add_argument(
        "--cells", type=int, nargs=3, default=[8, 8, 4], help="copies of 192 atoms along x, y, z"
    )
    parser.add_argument(
        "--grids",
        nargs="+",
        default=STRONG,
        metavar="X,Y,Z",
        help="ranks along x, y, z; efficiency is that of the first",
    )
    parser.add_argument("--no-weak", dest="weak", action="store_false", help="leave out the second table")
    parser.add_argument("--steps", type=int, default=10, help="measured steps")
    parser.add_argument("--turns", type=int, default=1, help="the best of each counts")
    parser.add_argument("--file", type=Path, help="a .pt2 that measure.py has frozen (default: freeze)")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.file is None:
            measure.freeze(folder, args.model, args.precision, workload.system("water"))
        file = str(args.file.resolve()) if args.file else "model.pt2"
        print(tables(folder, file, args))


if __name__ == "__main__":
    main()
