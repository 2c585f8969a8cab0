"""``deepmd-gnn mace-off``: the command of the other plugin, deepmd-gnn 0.x, with its arguments, for scripts that call it."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from deepmd_gnn.commands.convert import add_parsers as add_convert_parsers
from deepmd_gnn.commands.convert import run_convert
from deepmd_gnn.commands.parsers import add_command
from deepmd_gnn.files.whole_file import whole_file

_EXAMPLES = """\
examples:
  deepmd-gnn mace-off convert mace_off23_small_dp.pt --model off23_small --sel 64
  deepmd-gnn mace-off download --model off23_small
  deepmd-gnn mace-off cache-dir

The same without these names: deepmd-gnn convert mace-off:small -o mace_off23_small.pth
"""
# That plugin's names, and those of `deepmd-gnn convert`.
_NAMES = {
    "off23_small": "small", "off23_medium": "medium", "off23_large": "large",
    "small": "small", "medium": "medium", "large": "large",
}  # fmt: skip
_CHOICES = sorted([*_NAMES, "off24_medium"])


def add_parsers(subparsers: Any) -> None:
    """Add ``mace-off`` and its commands.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "mace-off",
        "convert a MACE-OFF model with the arguments of deepmd-gnn 0.x",
        _EXAMPLES,
        "The command mace-off of deepmd-gnn 0.x, the other plugin of this name, for scripts that call it. "
        "New scripts: deepmd-gnn convert.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    convert = add_command(commands, "convert", "as deepmd-gnn convert", _EXAMPLES)
    convert.add_argument("output", metavar="output_file", help=".pt (to train on), .pth or .pt2 (to run)")
    convert.add_argument(
        "--sel", type=int, required=True, help="expected number of neighbours; none is dropped"
    )
    source = convert.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", choices=_CHOICES, help="a published model")
    source.add_argument("--model-path", help="a file of native MACE; nothing in it is executed")
    convert.add_argument("--cache-dir", type=Path, help="where to look for a published model, and keep it")
    convert.set_defaults(func=_convert)
    download = add_command(commands, "download", "download a published model", _EXAMPLES)
    download.add_argument("--model", choices=_CHOICES, required=True, help="which")
    download.add_argument("--cache-dir", type=Path, help="where to keep it")
    download.set_defaults(func=_download)
    folder = add_command(commands, "cache-dir", "print where models are kept", _EXAMPLES)
    folder.set_defaults(func=_cache_dir)


def _convert(arguments: argparse.Namespace) -> int:
    source = arguments.model_path or str(_file(arguments.model, arguments.cache_dir))
    parser = argparse.ArgumentParser()
    add_convert_parsers(parser.add_subparsers())
    words = ["convert", source, "-o", arguments.output]
    words += [] if arguments.sel is None else ["--sel", str(arguments.sel)]
    status = run_convert(parser.parse_args(words))
    if arguments.output.endswith(".pt"):
        sys.stderr.write(
            f"{arguments.output} is a checkpoint, to train on. For LAMMPS, AMBER and ASE name the output .pth or .pt2; "
            "deepmd-gnn 0.x wrote a frozen model whatever the name.\n"
        )
    return status


def _download(arguments: argparse.Namespace) -> int:
    sys.stdout.write(f"{_file(arguments.model, arguments.cache_dir)}\n")
    return 0


def _cache_dir(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from deepmd_gnn.native.catalogue import cache_folder

    sys.stdout.write(f"{cache_folder()}\n")
    return 0


def _file(name: str, folder: Path | None) -> Path:
    """The file of a published model, in mace-torch's cache or a folder of the user's."""
    from deepmd_gnn.native.catalogue import fetch, find

    if name not in _NAMES:
        raise ValueError(
            f"{name}: mace-torch does not know where it is. Download its .model, and give --model-path FILE."
        )
    known = f"mace-off:{_NAMES[name]}"
    if folder is None:
        sys.stderr.write(f"{known}: licence: {find(known).licence}\n")
        return fetch(known)
    kept = folder / find(known).file.name
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(kept) as unfinished:  # what is there is not fetched again
            shutil.copyfile(fetch(known), unfinished)
    return kept
