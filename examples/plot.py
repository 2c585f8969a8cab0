"""Figures of a training run: learning curve, parity plot and energies of the molecular dynamics.

``python plot.py FOLDER`` draws what the folder holds: ``lcurve.out`` (``dp train``), ``test.{e_peratom,f}.out``
(``dp test -d test``) and ``md_1.lammps``, ``md_2.lammps`` (logs of LAMMPS).
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from deepmd_gnn.tools.plots import GREY, PALETTE, learning_curve_figure, parity_figure, style_axis
from deepmd_gnn.tools.result_files import DETAILS, read_details, read_learning_curve

TIMESTEP = 0.0005  # ps
BLUE, ORANGE = PALETTE[:2]


def learning_curve(folder: Path) -> Figure:
    """Errors and learning rate against the training step."""
    return learning_curve_figure(read_learning_curve(folder / "lcurve.out"))


def parity(folder: Path) -> Figure:
    """Predicted against reference energies and force components."""
    return parity_figure({quantity: read_details(folder / "test", quantity)[0] for quantity in DETAILS})


def thermo(log: Path) -> np.ndarray:
    """Rows (step, temperature, potential, kinetic, total energy) of a LAMMPS log, each step once."""
    rows: dict[float, list[float]] = {}
    for line in log.read_text().splitlines():
        words = line.split()
        if len(words) == 5 and words[0].isdigit():
            rows[float(words[0])] = [float(word) for word in words]
    return np.array(list(rows.values()))


def thermostat_steps(log: Path) -> float:
    """Steps of the first run in a LAMMPS log, which has the thermostat."""
    for line in log.read_text().splitlines():
        if line.startswith("Loop time of"):
            return float(line.split(" for ")[1].split()[0])
    return 0.0


def molecular_dynamics(folder: Path) -> Figure:
    """Energies and temperature against time, on one and two ranks."""
    figure = Figure(figsize=(8, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots(1, 2)
    natoms = int((folder / "water.lmp").read_text().split("atoms")[0].split()[-1])
    first = None  # the zero of all energies: the potential energy at the beginning
    for ranks, style in (
        (1, {"color": BLUE, "lw": 3, "alpha": 0.45}),
        (2, {"color": "black", "lw": 1, "ls": "--"}),
    ):
        rows = thermo(folder / f"md_{ranks}.lammps")
        first = rows[0] if first is None else first
        time = rows[:, 0] * TIMESTEP
        label = f"{ranks} rank{'s' * (ranks > 1)}"
        # Two lines look the same on two ranks: one entry for both.
        names = (f"potential, {label}", f"total, {label}") if ranks == 1 else (f"both, {label}", None)
        axes[0].plot(time, 1000 * (rows[:, 2] - first[2]) / natoms, **style, label=names[0])
        total = {**style, "color": ORANGE if ranks == 1 else "black"}
        axes[0].plot(time, 1000 * (rows[:, 4] - first[2]) / natoms, **total, label=names[1])
        axes[1].plot(time, rows[:, 1], **style, label=label)
    end = thermostat_steps(folder / "md_1.lammps") * TIMESTEP
    for axis in axes:
        style_axis(axis)
        axis.axvspan(0, end, color=GREY, alpha=0.12, lw=0)
    axes[1].annotate(
        "thermostat", (end / 2, 0.03), xycoords=("data", "axes fraction"), ha="center", fontsize=8
    )
    zero = f"zero: {first[2] / natoms:.4f} eV/atom".replace("-", "−")
    axes[0].set(xlabel="time (ps)", ylabel=f"energy (meV/atom)\n{zero}")
    axes[1].set(xlabel="time (ps)", ylabel="temperature (K)")
    axes[0].legend(fontsize=8, frameon=False)
    axes[1].legend(fontsize=8, frameon=False)
    return figure


def main() -> None:
    """Draw what the folder holds."""
    parser = argparse.ArgumentParser(description="Draw the figures of a training run.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    figures = {
        "learning_curve": (learning_curve, "lcurve.out"),
        "parity": (parity, "test.f.out"),
        "molecular_dynamics": (molecular_dynamics, "md_2.lammps"),
    }
    for name, (draw, needed) in figures.items():
        if (folder / needed).exists():
            draw(folder).savefig(folder / f"{name}.png")


if __name__ == "__main__":
    main()
