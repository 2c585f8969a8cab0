"""The commands ``deepmd-gnn convert`` and ``deepmd-gnn export``."""

import argparse
import json
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from deepmd_gnn.commands.parsers import add_command, add_cpu_argument, add_json_argument, checked_cpu

_CONVERT_EXAMPLES = """\
examples:
  deepmd-gnn convert MACE.model -o mace.pth                   to run in LAMMPS, ASE or Python
  deepmd-gnn convert MACE.model -o mace.pt                    to train on; also writes mace.json
  deepmd-gnn convert MACE.model -o mace.pth --elements H,C,O  a smaller table of elements
  deepmd-gnn convert MACE-MH.model -o heads.pt --all-heads    one task for each head, to go on with several or one
  deepmd-gnn convert mace-mp:small -o mace.pt2                a foundation model by name
  deepmd-gnn convert results/water -o nequip.pt2              a training of the package nequip 0.6, or its deployed file
  deepmd-gnn convert model.ckpt.pt -o new.pt                  of the plugin deepmd-gnn 0.1 or 0.2, also its .pth
  deepmd-gnn convert --list                                   the names, with licence, elements and size
"""
_EXPORT_EXAMPLES = """\
example:
  deepmd-gnn export model.ckpt.pt -o mace.model
"""


def add_parsers(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the two commands to a command line.

    Parameters
    ----------
    subparsers : argparse action
        Of the main parser. Each command sets ``func``, which takes the parsed arguments and returns the exit status.
    """
    _add_convert(subparsers)
    _add_export(subparsers)


def _add_convert(subparsers: "argparse._SubParsersAction[Any]") -> None:
    parser = add_command(
        subparsers,
        "convert",
        "convert a model of native MACE, nequip 0.6 or deepmd-gnn 0.x",
        _CONVERT_EXAMPLES,
        "Convert a native MACE model, a model of the package nequip 0.6 (the folder of a training, or a deployed file), or a "
        "checkpoint or frozen model of deepmd-gnn 0.1 or 0.2, the other plugin of this name. "
        "Nothing in the file is executed.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        help=".model of MACE 0.2 to 0.3, pickled or compiled, a training checkpoint, a training's folder or deployed "
        ".pth of nequip 0.6, .pt or .pth of deepmd-gnn 0.x, or a name (see --list)",
    )
    parser.add_argument(
        "--list", action="store_true", help="list the models that have names; with --json for programs"
    )
    add_json_argument(parser)
    parser.add_argument("-o", "--output", help=".pt (to train on), .pth or .pt2 (to run)")
    parser.add_argument("--head", help="head to convert, if the model has several")
    parser.add_argument(
        "--all-heads",
        action="store_true",
        help="write a multi-task checkpoint (.pt) with a task for each head",
    )
    parser.add_argument("--elements", help="elements to keep, in the order of the new type map, e.g. H,C,O")
    parser.add_argument("--precision", help="float64 or float32 (default: as in the file)")
    parser.add_argument("--sel", type=int, help="expected number of neighbours: only sizes buffers")
    parser.add_argument("--architecture", help="for a training checkpoint: a .model of the same training")
    parser.add_argument(
        "--trust",
        action="store_true",
        help="load with torch's unpickler, which EXECUTES code from the file (needed for older formats of torch)",
    )
    add_cpu_argument(parser)
    parser.set_defaults(func=run_convert)


def is_name(source: str) -> bool:
    """Whether a source is a model's name, as ``mace-mp:small``, and no file."""
    return re.match(r"mace-[a-z]+:", source) is not None and not Path(source).exists()


def located(source: str) -> str:
    """Path of a source; a model that has a name is fetched."""
    return str(fetched(source)) if is_name(source) else source


def _told_heads(source: str, output: Path, models: "dict[str, Any]") -> str:
    first, model = next(iter(models.items()))
    return (
        f"{source} -> {output}: heads {' '.join(models)}, elements {' '.join(model.type_map)}, cutoff {model.rcut:g} Å\n"
        f"next: dp --pt freeze -c {output} --head {first} -o {first}.pth\n"
        f"      dp --pt train {output.with_suffix('.json')} --finetune {output}      (all heads; put your data in)\n"
    )


def _add_export(subparsers: "argparse._SubParsersAction[Any]") -> None:
    parser = add_command(
        subparsers,
        "export",
        "write a native MACE model",
        _EXPORT_EXAMPLES,
        "Write a model of this package as a native MACE model, for MACECalculator.",
    )
    parser.add_argument("model", help="checkpoint (.pt)")
    parser.add_argument("-o", "--output", required=True, help="native file (.model)")
    parser.add_argument("--branch", help="branch of a multi-task checkpoint")
    parser.set_defaults(func=run_export)


def run_convert(args: argparse.Namespace) -> int:
    """Run ``deepmd-gnn convert``.

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
    ValueError, OSError
        If the file or an option is bad; :func:`deepmd_gnn.cli.main` prints them.
    """
    if args.list:
        return _list(args.json)
    if args.source is None or args.output is None:
        raise ValueError("convert needs a SOURCE and -o OUTPUT (or --list).")
    output = Path(args.output)
    cpu = checked_cpu(args.cpu, output)
    source = located(args.source)
    from deepmd_gnn.files.summary import summarise
    from deepmd_gnn.native.conversion import convert

    elements = None if args.elements is None else [name.strip() for name in args.elements.split(",")]
    options = {"trust": args.trust, "architecture": args.architecture}
    if args.all_heads:
        if args.head is not None:
            raise ValueError("--head chooses one head, --all-heads takes all; give one of the two.")
        from deepmd_gnn.native.heads import convert_heads

        models = convert_heads(source, output, elements, args.precision, args.sel, **options)
        sys.stdout.write(_told_heads(args.source, output, models))
        return 0
    model = convert(source, output, args.head, elements, args.precision, args.sel, cpu=cpu, **options)
    sys.stdout.write(
        f"{args.source} -> {args.output}: elements {' '.join(model.type_map)}, cutoff {model.rcut:g} Å, "
        f"{model.config.precision}\n"
    )
    summary = summarise(output)
    sys.stdout.write("from {file}, head {head}, sha256 {sha256}\n".format(**summary["source"]))
    train = (
        f"      dp --pt train {output.with_suffix('.json')} --finetune {output}\n"
        if summary["training"]
        else ""
    )
    sys.stdout.write(f"next: deepmd-gnn check {output}\n{train}      {summary['next']}\n")
    return 0


def fetched(name: str) -> Path:
    """The file of a foundation model, and its licence on standard error.

    Parameters
    ----------
    name : str
        ``family:model``.

    Returns
    -------
    Path
        In mace-torch's cache.
    """
    from deepmd_gnn.native.catalogue import fetch, find

    sys.stderr.write(f"{name}: licence: {find(name).licence}\n")
    with redirect_stdout(sys.stderr):  # mace-torch prints how far it is
        return fetch(name)


def _list(as_json: bool) -> int:
    """Print the models that have names."""
    from deepmd_gnn.native.catalogue import listed

    rows = listed()
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    sys.stdout.write(f"{'name':<30} {'MB':>6}  {'elements':<22} {'licence':<31} converts\n")
    for row in rows:
        size = "?" if row["size_mb"] is None else f"{row['size_mb']:.3g}"
        here = " (in the cache)" if row["cached"] else ""
        sys.stdout.write(
            f"{row['name']:<30} {size:>6}  {row['elements']:<22} {row['licence']:<31} {row['converts']}{here}\n"
        )
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Run ``deepmd-gnn export``.

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
    ValueError, OSError
        If the model cannot be written as native MACE; :func:`deepmd_gnn.cli.main` prints them.
    """
    from deepmd_gnn.native.writer import export_native

    export_native(args.model, args.output, args.branch)
    sys.stdout.write(f"{args.model} -> {Path(args.output)}\n")
    return 0
