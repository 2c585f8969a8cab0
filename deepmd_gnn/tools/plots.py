"""Figures of a training run. No global state: neither pyplot nor rcParams."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    Formatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    StrMethodFormatter,
)

from deepmd_gnn.tools.result_files import LearningCurve, Series

# Okabe and Ito's colours, distinguishable with every colour vision; blue and orange first.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#8a8a8a"
_PANELS = {
    "e": ("energy RMSE (meV/atom)", 1000.0),
    "f": ("force RMSE (meV/Å)", 1000.0),
    "v": ("virial RMSE (meV/atom)", 1000.0),
}
# Quantity → (axis label, unit of the axis, its factor, unit of the errors).
_PARITY = {
    "energy": ("energy", "meV/atom", 1000.0, "meV/atom"),
    "force": ("force component", "eV/Å", 1.0, "meV/Å"),
    "virial": ("virial component", "eV/atom", 1.0, "meV/atom"),
}
_LEGEND_ENTRIES = 20
_FRAMES_FOR_MEAN = 4


def learning_curve_figure(curve: LearningCurve) -> Figure:
    """Draw errors and learning rate against the training step.

    Parameters
    ----------
    curve : LearningCurve
        Content of a ``lcurve.out``; quantities without labels get no panel.

    Returns
    -------
    Figure
        Training and validation errors of energy per atom, force and virial per atom, and the learning rate.

    Raises
    ------
    ValueError
        If no column has an error of energy, force or virial.
    """
    step, heads = curve.columns["step"], curve.heads()
    keys = [
        key for key in _PANELS if any(_finite(curve, key, part, h) for part in ("trn", "val") for h in heads)
    ]
    if not keys:
        raise ValueError(
            "no RMSE of energy, force or virial among the columns " + ", ".join(curve.columns) + "."
        )
    count = len(keys) + ("lr" in curve.columns)
    columns = 2 if count > 3 else count
    figure = Figure(figsize=(4.2 * columns, 3.1 * -(-count // columns)), dpi=150, layout="constrained")
    axes = np.ravel(figure.subplots(-(-count // columns), columns, sharex=True, squeeze=False))
    for axis, key in zip(axes, keys, strict=False):
        label, factor = _PANELS[key]
        _draw_errors(axis, curve, key, factor)
        _log_scale(axis, StrMethodFormatter("{x:g}"))
        axis.set_ylabel(label)
    if "lr" in curve.columns:
        axes[count - 1].plot(step, _positive(curve.columns["lr"]), color=GREY, lw=1.8)
        _log_scale(axes[count - 1], FuncFormatter(_power_of_ten))
        axes[count - 1].set_ylabel("learning rate")
    for axis in axes:
        style_axis(axis)
        axis.tick_params(labelbottom=True)
        axis.set_xlabel("training step")
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def parity_figure(quantities: dict[str, list[Series]]) -> Figure:
    """Draw predictions against references.

    Parameters
    ----------
    quantities : dict[str, list[Series]]
        For ``energy``, ``force`` and ``virial`` the systems; an empty list gets no panel.

    Returns
    -------
    Figure
        One panel per quantity, root mean square and mean absolute error in its title, a colour per system.

    Raises
    ------
    ValueError
        If nothing has a reference.
    """
    quantities = {key: series for key, series in quantities.items() if series}
    if not quantities:
        raise ValueError("no reference energies, forces or virials to compare with.")
    names = list(dict.fromkeys(series.name for group in quantities.values() for series in group))
    frames = {series.name: len(series.reference) for series in quantities.get("energy", [])}
    colours = dict(zip(names, _colours(len(names)), strict=True))
    width = 3.9 * len(quantities)
    handles = _handles(colours, frames) if len(names) > 1 else []
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    columns = max(1, min(len(handles), int(11 * width / (longest + 5))))
    # Room for the legend below, else it is taken from the square panels and their titles.
    height = 4.2 + 0.25 * -(-len(handles) // columns)
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(quantities), squeeze=False)[0]
    for axis, (quantity, series) in zip(axes, quantities.items(), strict=True):
        _draw_parity(axis, quantity, series, colours)
        style_axis(axis)
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def style_axis(axis: Axes) -> None:
    """Give a panel the look of all figures of this package.

    Parameters
    ----------
    axis : Axes
        The panel.
    """
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, lw=0.6)
    axis.set_axisbelow(True)


def _finite(curve: LearningCurve, key: str, part: str, head: str) -> bool:
    values = curve.columns.get(f"rmse_{key}_{part}{head}")
    return values is not None and bool(np.isfinite(values).any())


def _draw_errors(axis: Axes, curve: LearningCurve, key: str, factor: float) -> None:
    """Training as a thin line, because it is the noisy error of one batch; validation on top of it."""
    heads = curve.heads()
    for head, colour in zip(heads, _colours(len(heads)), strict=True):
        suffix = f", {head[1:]}" if head else ""
        styles: dict[str, dict[str, Any]] = {
            "trn": {"color": colour if head else GREY, "lw": 0.9, "alpha": 0.55, "label": f"training batch{suffix}"},
            "val": {"color": colour, "lw": 1.8, "label": f"validation{suffix}"},
        }  # fmt: skip
        for part, style in styles.items():
            if _finite(curve, key, part, head):
                values = curve.columns[f"rmse_{key}_{part}{head}"]
                axis.plot(curve.columns["step"], _positive(factor * values), **style)


def _positive(values: np.ndarray) -> np.ndarray:
    """Gaps where a logarithm does not exist."""
    return np.where(values > 0, values, np.nan)


def _log_scale(axis: Axes, formatter: Formatter) -> None:
    """Logarithmic with labelled ticks, also for a flat curve."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high < 4 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 2, middle * 2
        axis.set_ylim(low, high)
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.yaxis.set_major_formatter(formatter)
    axis.yaxis.set_minor_formatter(NullFormatter())


def _power_of_ten(value: float, position: int | None = None) -> str:  # noqa: ARG001 - matplotlib's signature
    mantissa, exponent = f"{value:e}".split("e")
    factor = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\times"
    return f"${factor}10^{{{int(exponent)}}}$"


def _draw_parity(axis: Axes, quantity: str, series: Sequence[Series], colours: dict[str, str]) -> None:
    what, unit, factor, error_unit = _PARITY[quantity]
    shifts, zero, count = [0.0] * len(series), "", ""
    if quantity == "energy":
        what, shifts = _energy_shifts(series)
        zero = f"\nzero: {shifts[0]:.4f} eV/atom".replace("-", "−") if len(set(shifts)) == 1 else ""
        frames = sum(len(s.reference) for s in series)
        count = f"{frames} frame{'s' * (frames > 1)}: "
    reference = np.concatenate([(s.reference - m).ravel() for s, m in zip(series, shifts, strict=True)])
    prediction = np.concatenate([(s.prediction - m).ravel() for s, m in zip(series, shifts, strict=True)])
    colour = np.concatenate([np.full(s.reference.size, colours[s.name]) for s in series])
    # In random order, so that no system hides behind the one drawn last.
    order = np.random.default_rng(0).permutation(reference.size)
    size, alpha = _marker(reference.size)
    both = np.concatenate([reference, prediction]) * factor
    margin = 0.04 * (both.max() - both.min()) or 1.0
    limits = (both.min() - margin, both.max() + margin)
    axis.plot(limits, limits, color=GREY, lw=1, zorder=0)
    axis.scatter(
        factor * reference[order], factor * prediction[order], s=size, alpha=alpha, lw=0, c=colour[order], rasterized=True
    )  # fmt: skip
    axis.set(xlim=limits, ylim=limits, box_aspect=1)
    axis.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.set(xlabel=f"reference {what} ({unit}){zero}", ylabel=f"predicted {what} ({unit})")
    error = 1000 * (prediction - reference)
    rmse, mae = float(np.sqrt(np.mean(error**2))), float(np.mean(np.abs(error)))
    axis.set_title(f"{count}RMSE {_digits(rmse)}, MAE {_digits(mae)} {error_unit}", fontsize=10)


def _energy_shifts(series: Sequence[Series]) -> tuple[str, list[float]]:
    """The number taken off references and predictions alike: errors stay, large E0 do not set the range.

    Of each system its own, so that different compositions do not either, unless a system has too few frames.
    """
    if len(series) > 1 and min(len(s.reference) for s in series) >= _FRAMES_FOR_MEAN:
        return "energy − system mean", [float(s.reference.mean()) for s in series]
    mean = float(np.concatenate([s.reference for s in series]).mean())
    return "energy − mean", [mean] * len(series)


def _digits(value: float) -> str:
    """Three digits, without a power of ten for large numbers."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def _marker(count: int) -> tuple[float, float]:
    """Size and opacity: many points become small and transparent, but a lone outlier stays visible."""
    if count < 500:
        return 22.0, 0.75
    if count < 10000:
        return 9.0, 0.45
    return 4.0, 0.3


def _colours(count: int) -> list[str]:
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](value)) for value in np.linspace(0.0, 0.95, count)]


def _handles(colours: dict[str, str], frames: dict[str, int]) -> list[Line2D]:
    shown = list(colours)[:_LEGEND_ENTRIES]
    counts = {name: f" ({count} frame{'s' * (count > 1)})" for name, count in frames.items()}
    handles = [
        Line2D([], [], color=colours[name], marker="o", ms=5, lw=0, label=label + counts.get(name, ""))
        for name, label in zip(shown, _short(shown), strict=True)
    ]
    if len(colours) > len(shown):
        handles.append(Line2D([], [], lw=0, label=f"and {len(colours) - len(shown)} more"))
    return handles


def _short(names: list[str]) -> list[str]:
    """The last part of each path, or all of it where two would look the same."""
    last = [Path(name).name for name in names]
    return last if len(set(last)) == len(last) else names
