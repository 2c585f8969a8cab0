"""Make the figures of the documentation: ``make figures``.

``python docs/make_figures.py FOLDER`` takes what ``make quickstart`` left in a folder (``lcurve.out``, ``mace.pt2``, the details of
``dp test``, the logs of LAMMPS) and writes every figure that a page shows to ``docs/figures``.
"""

import argparse
import io
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from deepmd_gnn.tools.plots import GREY, PALETTE, parity_figure, style_axis
from deepmd_gnn.tools.result_files import DETAILS, read_details

ROOT = Path(__file__).resolve().parent.parent
# A few colours and their shades; a quarter of the bytes.
COLOURS = 128


def run(command: list[str], folder: Path) -> None:
    """Run a program that is installed beside this Python."""
    subprocess.run([Path(sys.executable).with_name(command[0]), *command[1:]], cwd=folder, check=True)


def figures(folder: Path, frames: int) -> Iterator[tuple[str, Figure]]:
    """Name and figure, one after the other.

    Parameters
    ----------
    folder : Path
        Of the quickstart.
    frames : int
        Frames of the training data that are tested for the parity plot of two systems.
    """
    yield "speed", speed()
    example = runpy.run_path(str(ROOT / "examples" / "plot.py"))
    for name in ("learning_curve", "parity", "molecular_dynamics"):
        yield name, example[name](folder)
    # As docs/cli.md shows it: deepmd-gnn plot parity test train.
    run(
        ["dp", "--pt-expt", "test", "-m", "mace.pt2", "-s", "data/data_0", "-n", str(frames), "-d", "train"],
        folder,
    )
    yield (
        "parity_systems",
        parity_figure(
            {
                quantity: [
                    series
                    for prefix in ("test", "train")
                    for series in read_details(folder / prefix, quantity)[0]
                ]
                for quantity in DETAILS
            }
        ),
    )


def column(page: str, beginning: str, number: int) -> dict[str, float]:
    """Read a column of the table that begins so.

    Parameters
    ----------
    page : str
        Markdown.
    beginning : str
        Of the first line of the table.
    number : int
        Which column, the labels being the first.

    Returns
    -------
    dict[str, float]
        By the label of the row; rows without a number are left out.
    """
    table = page[page.index(beginning) :].split("\n\n", 1)[0]
    rows = [[cell.strip() for cell in line.split("|")] for line in table.splitlines()[2:]]
    return {row[1]: float(row[number]) for row in rows if row[number]}


def speed() -> Figure:
    """How much faster than native MACE, from two tables of docs/performance.md."""
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    lammps = column(page, "| M, float32 (2 turns)", 3)
    # There the ratios are to ours, in a run of its own.
    through_ase = column(page, "| M, float32, water |", 3)
    native = through_ase["native MACE, `MACECalculator`"]
    ratios = {
        "native MACE": lammps["native, energy and forces of a ready graph"],
        "deepmd_gnn, .pth, LAMMPS": lammps["MD step, LAMMPS with `.pth`, skin 2 Å (another run)"],
        "symmetrix": lammps["symmetrix 739660a, energy and forces of a ready graph (see below)"],
        "symmetrix-xl, ASE": through_ase["symmetrix-xl, list reused (its default)"] / native,
        "deepmd_gnn, .pt2, ASE": through_ase["`.pt2`, list built anew"] / native,
        "deepmd_gnn, .pt2, LAMMPS": lammps["MD step, LAMMPS with `.pt2`, skin 2 Å"],
    }
    figure = Figure(figsize=(6.4, 2.8), dpi=150, layout="constrained")
    axis = figure.subplots()
    ours = [name.startswith("deepmd_gnn") for name in ratios]
    bars = axis.barh(
        list(ratios),
        [1 / ratio for ratio in ratios.values()],
        color=[PALETTE[0] if one else GREY for one in ours],
    )
    axis.bar_label(bars, [f"{1 / ratio:.3g} ×" for ratio in ratios.values()], padding=4)
    axis.set(xlabel="steps per CPU second, native MACE = 1", xlim=(0, 1.12 / min(ratios.values())))
    figure.suptitle("192 atoms of water, 128x0e + 128x1o, 6 Å, float32, one thread", fontsize=10)
    style_axis(axis)
    axis.grid(visible=False, axis="y")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure with few colours."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    image = Image.open(buffer).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main(arguments: list[str] | None = None) -> None:
    """Write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what make quickstart left")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument(
        "--frames", type=int, default=40, help="training frames that are tested (default: 40)"
    )
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, figure in figures(options.folder.resolve(), options.frames):
        path = options.output / f"{name}.png"
        save(figure, path)
        sys.stdout.write(f"{path}: {path.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
