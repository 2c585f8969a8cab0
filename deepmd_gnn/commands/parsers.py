"""What several commands have in common: arguments, and a bar that shows how far they are."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def add_command(
    subparsers: Any, name: str, help: str, examples: str, description: str | None = None
) -> argparse.ArgumentParser:
    """Add the parser of a command whose help ends with examples.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    name : str
        Of the command.
    help : str
        One line for the list of commands.
    examples : str
        Shown as they are at the end of the command's help.
    description : str, optional
        Beginning of the command's help.

    Returns
    -------
    argparse.ArgumentParser
        Still without arguments.
    """
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=help,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_structure_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a structure, and the branch of a model.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of a command.
    """
    parser.add_argument(
        "-s",
        "--structure",
        type=Path,
        help="a file that ASE reads, a LAMMPS data file (.lmp, .data) or a folder of DeePMD-kit",
    )
    parser.add_argument(
        "--frame", type=int, default=0, help="frame of a file with several, from 0 (default: 0)"
    )
    parser.add_argument(
        "--types",
        nargs="+",
        metavar="TYPE",
        help="names of types 1, 2, … of a LAMMPS data file (default: the model's)",
    )
    parser.add_argument("--head", help="branch of a multi-task checkpoint")


def add_label_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the names of labels in files, see :func:`~deepmd_gnn.datasets.labels.chosen_keys`.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of a command.
    what : str
        Of the help, in which ``{name}`` stands for the label.
    """
    for name in ("energy", "forces", "stress", "virials"):
        parser.add_argument(f"--{name}-key", metavar="KEY", help=what.format(name=name))


def add_periodicity_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--mixed-pbc``, see :func:`~deepmd_gnn.datasets.cells.whole_periodicity`.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of a command.
    """
    parser.add_argument(
        "--mixed-pbc", choices=("refuse", "vacuum", "skip"), default="refuse",
        help="frames that are periodic in some directions only: refuse them, add vacuum and repeat them, or leave them out",
    )  # fmt: skip


def add_cpu_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--cpu``, see :func:`~deepmd_gnn.kernels.cpu.targets.target_machine`.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of a command that writes a ``.pt2``.
    """
    parser.add_argument(
        "--cpu", metavar="NAME",
        help="which CPUs a .pt2 is for: native (default; those with this one's vectors), x86-64-v4 (AVX-512), x86-64-v3 (AVX2) or "
        "generic (every CPU of this architecture)",
    )  # fmt: skip


def checked_cpu(cpu: str | None, output: Path) -> str | None:
    """Look at ``--cpu`` before anything is computed.

    Parameters
    ----------
    cpu : str, optional
        What was given.
    output : Path
        The file to write.

    Returns
    -------
    str, optional
        `cpu`.

    Raises
    ------
    ValueError
        If there is no such CPU, or the file is none that is compiled.
    """
    if cpu is None:
        return None
    if output.suffix != ".pt2":
        raise ValueError(f"{output}: --cpu is for a .pt2; other files are not compiled")
    from deepmd_gnn.kernels.cpu.targets import NAMES  # imports torch

    if cpu not in NAMES:
        raise ValueError(f"--cpu is {cpu!r}; it must be one of {', '.join(NAMES)}")
    return cpu


def watched(frames: Iterable[Any], delay: float) -> Iterator[Any]:
    """Pass frames on, with a bar on a terminal.

    Parameters
    ----------
    frames : Iterable
        What a command goes through.
    delay : float
        Seconds after which the bar appears.

    Yields
    ------
    Any
        The frames.
    """
    from tqdm import tqdm

    yield from tqdm(frames, unit=" frames", delay=delay, disable=None, leave=False, file=sys.stderr)


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of a command whose output is data.
    """
    parser.add_argument("--json", action="store_true", help="print JSON")
