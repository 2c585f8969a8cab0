"""Reliability of predicted standard deviations: statistics of one set of frames, their mean and spread over seeds, and the figure."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from deepmd_gnn.tools.error_bars import rms_ratio, spearman
from deepmd_gnn.tools.plots import GREY, PALETTE, style_axis

STATISTICS = ("spearman", "rms_ratio", "within_1", "within_2")
HEAD = "| | Spearman | RMS of error/σ | within σ | within 2σ |"
UNITS = {"energy": "meV/atom", "forces": "meV/Å"}


def statistics(deviations, errors, number):
    """How deviations and errors, shapes (n,) and in one unit, compare; with `number` points of the calibration plot."""
    ratio = np.abs(errors) / deviations
    return {
        "spearman": spearman(deviations, errors),
        "rms_ratio": rms_ratio(deviations, errors),
        "within_1": float((ratio < 1.0).mean()),
        "within_2": float((ratio < 2.0).mean()),
        "bins": bins(deviations, errors, number),
    }


def bins(deviations, errors, number):
    """Points of the calibration plot: root mean square deviation and error in bins of equally many values, smallest deviations first.

    Parameters
    ----------
    deviations, errors : numpy.ndarray
        Shape (n,), in one unit.
    number : int
        Of bins; fewer values than bins have a bin each.

    Returns
    -------
    list[list[float]]
        Deviation and error of each bin.
    """
    parts = np.array_split(np.argsort(deviations, kind="stable"), min(number, len(deviations)))
    return [[float(np.sqrt(np.mean(values[part] ** 2))) for values in (deviations, errors)] for part in parts]


def text(found):
    """Cells of a row: numbers of one seed, or mean and standard deviation of several."""
    cells = []
    for name in STATISTICS:
        values = [one[name] for one in found]
        cell = f"{np.mean(values):.2f}"
        cells.append(cell if len(values) == 1 else f"{cell} ± {np.std(values, ddof=1):.2f}")
    return " | ".join(cells)


def summary(results):
    """Markdown tables of all test sets; `results` has for each seed a dictionary test set → quantity → way → statistics."""
    lines = []
    for test, quantities in results[0].items():
        lines += [f"\n{test}, {len(results)} seeds\n", HEAD, "|---|---|---|---|---|"]
        lines += [
            f"| {quantity}, {way} | {text([one[test][quantity][way] for one in results])} |"
            for quantity, ways in quantities.items()
            for way in ways
        ]
    return "\n".join(lines)


def draw(results):
    """Error against deviation, a line for each seed; on the diagonal they are equal."""
    tests = list(results[0])
    figure = Figure(figsize=(6.6, 2.9 * len(tests)), dpi=150, layout="constrained")
    axes = figure.subplots(len(tests), 2, squeeze=False)
    for row, test in zip(axes, tests, strict=True):
        for axis, (quantity, unit) in zip(row, UNITS.items(), strict=True):
            _panel(axis, [one[test][quantity] for one in results])
            axis.set(
                xlabel=f"predicted σ ({unit})", ylabel=f"RMS error ({unit})", title=f"{test}: {quantity}"
            )
            axis.title.set_fontsize(10)
    axes[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _panel(axis, found):
    every = []
    for colour, way in zip(PALETTE, found[0], strict=False):
        for place, one in enumerate(found):
            points = 1e3 * np.array(one[way]["bins"])
            every.append(points)
            label = way if place == 0 else None
            axis.plot(*points.T, color=colour, marker="o", ms=3, lw=1, alpha=0.8, label=label)
    ends = np.concatenate(every).min(), np.concatenate(every).max()
    axis.plot(ends, ends, color=GREY, lw=1, ls="--", zorder=0)
    axis.set(xscale="log", yscale="log")
    for each in (axis.xaxis, axis.yaxis):
        each.set_minor_formatter(NullFormatter())
    style_axis(axis)
