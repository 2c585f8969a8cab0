"""``deepmd-gnn adapters``: files with the adapters of a training only."""

import argparse
import sys
from pathlib import Path
from typing import Any

from deepmd_gnn.commands.parsers import add_command

_EXAMPLES = """\
examples:
  deepmd-gnn adapters tuned/model.ckpt.pt -o adapters.pt                      takes them out of a checkpoint
  deepmd-gnn adapters adapters.pt --onto foundation.model -o model.pt         the model, with whole weights
"""


def add_parsers(subparsers: Any) -> None:
    """Add ``adapters``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "adapters",
        "keep only the adapters (LoRA) of a training, or put them onto their foundation",
        _EXAMPLES,
        "Write what a training with adapters has changed, without the weights of the foundation; with --onto make the model of both.",
    )
    parser.add_argument(
        "file", type=Path, help="checkpoint of a training with adapters; with --onto a file of adapters"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="new file (.pt)")
    parser.add_argument(
        "--onto", metavar="FOUNDATION", help="checkpoint, native .model or name that the training began with"
    )
    parser.add_argument("--head", help="head of the foundation; without --onto, branch of the checkpoint")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the file.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0.
    """
    for path in (arguments.file, arguments.output):
        if path.suffix != ".pt":
            raise ValueError(f"{path}: must be a .pt file.")
    from deepmd_gnn.commands.convert import located
    from deepmd_gnn.native import adapter_files

    if arguments.onto is None:
        adapter_files.take_out(arguments.file, arguments.output, arguments.head)
        told = "the adapters, E0 and options"
    else:
        adapter_files.put_on(arguments.file, located(arguments.onto), arguments.output, arguments.head)
        told = "the model, with whole weights"
    sys.stdout.write(f"{arguments.output}: {told}, {arguments.output.stat().st_size / 1e3:.0f} kB\n")
    return 0
