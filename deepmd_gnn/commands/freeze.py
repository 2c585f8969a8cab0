"""The command ``deepmd-gnn freeze``."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from deepmd_gnn.commands.parsers import add_command, add_cpu_argument, checked_cpu
from deepmd_gnn.files.whole_file import refuse_same

_EXAMPLES = """\
examples:
  deepmd-gnn freeze model.ckpt.pt -o mace.pth                 seconds; runs anywhere
  deepmd-gnn freeze model.ckpt.pt -o mace.pt2                 a minute or two; the fast file for LAMMPS
  deepmd-gnn freeze model.ckpt.pt -o mace.pt2 --no-kernels    without generated C++
  deepmd-gnn freeze model.ckpt.pt -o mace.pt2 --no-tables     and with the radial networks themselves
  deepmd-gnn freeze model.ckpt.pt -o mace.pt2 --cpu generic   for every CPU of this architecture
"""


def add_parsers(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the command to a command line.

    Parameters
    ----------
    subparsers : argparse action
        Of the main parser. The command sets ``func``, which takes the parsed arguments and returns the exit status.
    """
    parser = add_command(
        subparsers,
        "freeze",
        "freeze a checkpoint, with a choice of evaluation",
        _EXAMPLES,
        "Freeze a checkpoint: what `dp --pt freeze` (.pth) and `dp --pt-expt freeze` (.pt2, .pte) do.",
    )
    parser.add_argument("model", help="checkpoint (.pt)")
    parser.add_argument("-o", "--output", required=True, help=".pth, .pt2 or .pte")
    parser.add_argument("--head", help="branch of a multi-task checkpoint")
    parser.add_argument(
        "--no-kernels",
        action="store_true",
        help=".pt2 without generated kernels: several times slower",
    )
    parser.add_argument(
        "--no-tables",
        action="store_true",
        help=".pt2 that runs the radial networks instead of reading tables of them; has no kernels either",
    )
    add_cpu_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Run ``deepmd-gnn freeze``.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        If a file has another kind than asked for, or holds no MACE model.
    """
    from deepmd_gnn.files.summary import summarise
    from deepmd_gnn.host.freeze import freeze

    output = Path(args.output)
    if output.suffix not in (".pth", ".pt2", ".pte"):
        raise ValueError(f"{output}: the output must be named .pth, .pt2 or .pte")
    for name in ("no_kernels", "no_tables"):
        if getattr(args, name) and output.suffix != ".pt2":
            option, what = f"--{name.replace('_', '-')}", name.removeprefix("no_")
            raise ValueError(f"{output}: {option} is for a .pt2; a {output.suffix} has no {what}")
    cpu = checked_cpu(args.cpu, output)
    refuse_same(args.model, output)
    summary = summarise(Path(args.model))
    if summary["kind"] != "pt":
        raise ValueError(
            f"{args.model}: is a {summary['kind_name']}, not a checkpoint; `dp convert-backend` turns one frozen file "
            "into another"
        )
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    evaluation = "networks" if args.no_tables else "tables" if args.no_kernels else "kernels"
    freeze(Path(args.model), output, args.head, evaluation, cpu)
    sys.stdout.write(f"{args.model} -> {output}\n")
    return 0
