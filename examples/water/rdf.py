"""Radial distribution functions of a LAMMPS dump of an orthorhombic cell: ``python rdf.py positions.txt``."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

PAIRS = {"O–O": (1, 1), "O–H": (1, 2), "H–H": (2, 2)}


def frames(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Read types, positions (Å) and lengths of the cell (Å) of every configuration.

    Parameters
    ----------
    path : Path
        Dump with columns id type x y z.

    Yields
    ------
    tuple
        Arrays of shapes (natom,), (natom, 3) and (3,).
    """
    for block in path.read_text().split("ITEM: TIMESTEP\n")[1:]:
        lines = block.splitlines()
        bounds = np.array([line.split() for line in lines[4:7]], dtype=float)
        table = np.array([line.split() for line in lines[8:]], dtype=float)
        yield table[:, 1].astype(int), table[:, 2:5], bounds[:, 1] - bounds[:, 0]


def distribution(path: Path, pair: tuple[int, int], edges: np.ndarray) -> np.ndarray:
    """Average g(r) over the configurations.

    Parameters
    ----------
    path : Path
        Dump.
    pair : tuple[int, int]
        Types.
    edges : numpy.ndarray
        Boundaries of the bins in Å, up to half of the cell.

    Returns
    -------
    numpy.ndarray
        One value per bin.
    """
    total, count = np.zeros(len(edges) - 1), 0
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    for types, position, lengths in frames(path):
        first, second = position[types == pair[0]], position[types == pair[1]]
        vector = first[:, None] - second[None]
        distance = np.linalg.norm(vector - lengths * np.round(vector / lengths), axis=2)
        pairs = len(first) * len(second) - (len(first) if pair[0] == pair[1] else 0)
        found = np.histogram(distance[distance > 0], edges)[0]
        total += found / (pairs / np.prod(lengths) * shells)
        count += 1
    return total / count


def main() -> None:
    """Draw the three functions of water and write them as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dump", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("rdf.png"))
    options = parser.parse_args()
    edges = np.linspace(0, 6, 121)
    centers = 0.5 * (edges[1:] + edges[:-1])
    functions = {name: distribution(options.dump, pair, edges) for name, pair in PAIRS.items()}
    np.savetxt(
        options.output.with_suffix(".txt"),
        np.column_stack([centers, *functions.values()]),
        header="r/Å " + " ".join(functions),
        fmt="%.4f",
    )
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    for name, values in functions.items():
        axes.plot(centers, values, label=name)
    axes.set(xlabel="r (Å)", ylabel="g(r)", ylim=(0, 4))
    axes.legend(frameon=False)
    figure.savefig(options.output, dpi=150)
    print(options.output)


if __name__ == "__main__":
    main()
