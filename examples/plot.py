"""Figures of a training run: learning curve, parity plot and energies of the molecular dynamics.

``python plot.py FOLDER`` draws what the folder holds: ``lcurve.out`` (``dp train``), ``test.{e_peratom,f}.out``
(``dp test -d test``) and ``md_1.lammps``, ``md_2.lammps`` (logs of LAMMPS).
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

TIMESTEP = 0.0005  # ps
BLUE, ORANGE, GREY = "#1f5fa8", "#d9722b", "#888888"
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def learning_curve(folder: Path) -> plt.Figure:
    """Force and energy errors against the training step."""
    table = np.genfromtxt(folder / "lcurve.out", names=True)
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    for axis, key, label in (
        (axes[0], "f", "force error (meV/Å)"),
        (axes[1], "e", "energy error (meV/atom)"),
    ):
        axis.semilogy(
            table["step"], 1000 * table[f"rmse_{key}_trn"], color=GREY, lw=1, label="training batch"
        )
        axis.semilogy(table["step"], 1000 * table[f"rmse_{key}_val"], color=BLUE, lw=1.8, label="validation")
        axis.set(xlabel="training step", ylabel=label + ", rms")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if key == "f" else (1,)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    axes[0].legend()
    return figure


def parity(folder: Path) -> plt.Figure:
    """Predicted against reference energies and force components."""
    energies = np.loadtxt(folder / "test.e_peratom.out")
    forces = np.loadtxt(folder / "test.f.out").reshape(-1, 2, 3).swapaxes(1, 2).reshape(-1, 2)
    mean = energies[:, 0].mean()
    panels = (
        (forces, "force component (eV/Å)", "meV/Å", 2),
        (1000 * (energies - mean), "energy − mean (meV/atom)", "meV/atom", 12),
    )
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.9))
    for axis, (data, label, unit, size) in zip(axes, panels, strict=True):
        reference, predicted = data.T
        error = np.sqrt(np.mean((predicted - reference) ** 2)) * (1000 if unit == "meV/Å" else 1)
        limits = [data.min(), data.max()]
        axis.plot(limits, limits, color=GREY, lw=1, zorder=0)
        axis.scatter(reference, predicted, s=size, color=BLUE, alpha=0.25 if size < 5 else 0.8, lw=0)
        axis.set(xlabel=f"reference {label}", ylabel=f"MACE {label}", aspect="equal")
        axis.text(0.05, 0.95, f"rms error {error:.3g} {unit}", transform=axis.transAxes, va="top")
    return figure


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


def molecular_dynamics(folder: Path) -> plt.Figure:
    """Energies and temperature against time, on one and two ranks."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2))
    natoms = int((folder / "water.lmp").read_text().split("atoms")[0].split()[-1])
    first = None
    for ranks, style in (
        (1, {"color": BLUE, "lw": 3, "alpha": 0.45}),
        (2, {"color": "black", "lw": 1, "ls": "--"}),
    ):
        rows = thermo(folder / f"md_{ranks}.lammps")
        first = rows[0] if first is None else first
        time = rows[:, 0] * TIMESTEP
        label = f"{ranks} rank{'s' * (ranks > 1)}"
        axes[0].plot(time, 1000 * (rows[:, 2] - first[2]) / natoms, **style, label=f"potential, {label}")
        total = {**style, "color": ORANGE if ranks == 1 else "black"}
        axes[0].plot(time, 1000 * (rows[:, 4] - first[2]) / natoms, **total, label=f"total, {label}")
        axes[1].plot(time, rows[:, 1], **style, label=label)
    end = thermostat_steps(folder / "md_1.lammps") * TIMESTEP
    for axis in axes:
        axis.axvspan(0, end, color=GREY, alpha=0.12, lw=0)
    axes[1].annotate(
        "thermostat", (end / 2, 0.03), xycoords=("data", "axes fraction"), ha="center", fontsize=8
    )
    axes[0].set(xlabel="time (ps)", ylabel="energy (meV/atom)")
    axes[1].set(xlabel="time (ps)", ylabel="temperature (K)")
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8)
    return figure


def main() -> None:
    """Draw what the folder holds."""
    parser = argparse.ArgumentParser(description="Draw the figures of a training run.")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    plt.rcParams.update(STYLE)
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
