"""``deepmd-gnn plot``: figures of what ``dp train`` and ``dp test`` wrote."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmd_gnn.commands.parsers import add_command
from deepmd_gnn.files.whole_file import whole_file
from deepmd_gnn.tools.result_files import DETAILS, Series, read_details, read_learning_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = (".png", ".svg", ".pdf")
_LCURVE_EXAMPLES = """\
example:
  deepmd-gnn plot lcurve lcurve.out -o lcurve.svg
"""
_PARITY_EXAMPLES = """\
examples:
  dp --pt test -m mace.pth -s data/test -d test
  deepmd-gnn plot parity test -o parity.png

  deepmd-gnn plot parity water ice -o parity.png      two runs of dp test, a colour each

  deepmd-gnn evaluate mace.pt2 test.xyz -o out.xyz
  deepmd-gnn plot parity out.xyz -o parity.png --by element

A quantity without reference values (zeros in the file) gets no panel.
"""


def add_parsers(subparsers: Any) -> None:
    """Add ``plot lcurve`` and ``plot parity``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    plot = subparsers.add_parser("plot", help="draw learning curves and parity plots")
    kinds = plot.add_subparsers(title="figures", metavar="FIGURE", required=True)
    lcurve = _add(kinds, "lcurve", "errors and learning rate against the training step", _LCURVE_EXAMPLES)
    lcurve.add_argument("file", type=Path, nargs="?", default=Path("lcurve.out"), help="default: %(default)s")
    lcurve.set_defaults(func=run_lcurve)
    parity = _add(kinds, "parity", "predictions against references", _PARITY_EXAMPLES)
    parity.add_argument(
        "prefix",
        type=Path,
        nargs="+",
        help="PREFIX of `dp test -d PREFIX`; several get a colour each; or .xyz of `deepmd-gnn evaluate`",
    )
    parity.add_argument(
        "--by", choices=("system", "element"), default="system",
        help="of .xyz files: a colour for each config_type or composition, or for each element (default: %(default)s)",
    )  # fmt: skip
    parity.set_defaults(func=run_parity)


def _add(kinds: Any, name: str, text: str, examples: str) -> argparse.ArgumentParser:
    parser = add_command(kinds, name, text, examples, f"Draw {text}.")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path(f"{name}.png"), help=".png, .svg or .pdf (default: %(default)s)"
    )  # fmt: skip
    return parser


def run_lcurve(arguments: argparse.Namespace) -> int:
    """Draw a learning curve.

    Parameters
    ----------
    arguments : argparse.Namespace
        With ``file`` and ``output``.

    Returns
    -------
    int
        Exit code.
    """
    from deepmd_gnn.tools.plots import learning_curve_figure

    _check_format(arguments.output)
    return _save(learning_curve_figure(read_learning_curve(arguments.file)), arguments.output)


def run_parity(arguments: argparse.Namespace) -> int:
    """Draw parity plots.

    Parameters
    ----------
    arguments : argparse.Namespace
        With ``prefix`` (a list), ``by`` and ``output``.

    Returns
    -------
    int
        Exit code.
    """
    from deepmd_gnn.tools.evaluated_files import read_evaluated
    from deepmd_gnn.tools.plots import parity_figure

    _check_format(arguments.output)
    quantities: dict[str, list[Series]] = {}
    prefixes = [prefix for prefix in arguments.prefix if prefix.suffix != ".xyz"]
    evaluated = [read_evaluated(path, arguments.by) for path in arguments.prefix if path.suffix == ".xyz"]
    for quantity in DETAILS:
        read = [read_details(prefix, quantity) for prefix in prefixes]
        quantities[quantity] = [series for group, _ in read for series in group]
        quantities[quantity] += [series for file in evaluated for series in file[quantity]]
        left_out = sum(count for _, count in read)
        if left_out:
            sys.stderr.write(f"deepmd-gnn: {quantity}: {left_out} rows without reference are left out\n")
    return _save(parity_figure(quantities), arguments.output)


def _check_format(path: Path) -> None:
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"output '{path}' must end in one of {', '.join(_FORMATS)}.")


def _save(figure: "Figure", path: Path) -> int:
    with whole_file(path) as unfinished:
        figure.savefig(unfinished)
    sys.stdout.write(f"{path}\n")
    return 0
