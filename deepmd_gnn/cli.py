"""The command ``deepmd-gnn``. Nothing here imports torch, so that help is immediate."""

import argparse
import logging
import sys
from importlib import import_module
from importlib.util import find_spec

from deepmd_gnn import __version__

# Modules with a function ``add_parsers(subparsers)``; each of their parsers sets ``func``, called with the parsed
# arguments, whose result is the exit code.
COMMANDS = (
    "deepmd_gnn.commands.adapters",
    "deepmd_gnn.commands.bench",
    "deepmd_gnn.commands.check",
    "deepmd_gnn.commands.convert",
    "deepmd_gnn.commands.data",
    "deepmd_gnn.commands.doctor",
    "deepmd_gnn.commands.evaluate",
    "deepmd_gnn.commands.finetune",
    "deepmd_gnn.commands.freeze",
    "deepmd_gnn.commands.info",
    "deepmd_gnn.commands.init",
    "deepmd_gnn.commands.lammps",
    "deepmd_gnn.commands.mace_off",
    "deepmd_gnn.commands.plot",
    "deepmd_gnn.commands.uncertainty",
)

# What torch says on the CPU and on a GPU.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")

_EXAMPLES = """\
examples:
  deepmd-gnn info mace.pth                         what a model file holds
  deepmd-gnn info model.ckpt.pt --json             the same for programs
  deepmd-gnn freeze model.ckpt.pt -o mace.pt2      as dp --pt-expt freeze, with a choice of evaluation
  deepmd-gnn check mace.pth                        does it obey physics?
  deepmd-gnn bench mace.pth mace.pt2 -s my.cif     how fast is it on my structure?
  deepmd-gnn plot lcurve lcurve.out -o lcurve.svg  learning curves of dp train
  deepmd-gnn plot parity test -o parity.png        predictions against references, after dp test -d test

exit codes: 0 done, 1 the input is bad (one line on stderr says why), 2 wrong usage
"""


class _NoCompletion(argparse.Action):
    """Says what the option needs."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.exit(
            1,
            "deepmd-gnn: error: completions are made by shtab, which is not installed: pip install shtab "
            '(or this package with the extra "completion").\n',
        )


def _no_thread_hint(record: logging.LogRecord) -> bool:
    """The host's advice to set three variables is for long trainings; these commands end in a moment."""
    return "adjust the number of threads" not in str(record.msg)


def build_parser() -> argparse.ArgumentParser:
    """Make the parser with all subcommands.

    Returns
    -------
    argparse.ArgumentParser
        Its results have ``func``, the subcommand to call.
    """
    parser = argparse.ArgumentParser(
        prog="deepmd-gnn",
        description="Tools around MACE models of DeePMD-kit. Training is `dp`'s.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"deepmd-gnn {__version__}")
    completion = "print a script of completions for a shell"
    if find_spec("shtab"):  # extra "completion"
        import_module("shtab").add_argument_to(parser, "--print-completion", help=completion)
    else:
        parser.add_argument("--print-completion", action=_NoCompletion, metavar="SHELL", help=completion)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for module in COMMANDS:
        import_module(module).add_parsers(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : list[str], optional
        Arguments; by default those of the process.

    Returns
    -------
    int
        0, or 1 if the input is bad; wrong usage leaves through ``SystemExit(2)``.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "func"):
        parser.print_help()
        return 0
    hints = logging.getLogger("deepmd.env")
    hints.addFilter(_no_thread_hint)
    try:
        return int(arguments.func(arguments))
    except (ValueError, OSError) as error:  # what this package raises for bad input
        return _failed(error)
    except (RuntimeError, MemoryError) as error:
        if str(error).startswith("mace model:"):
            return _failed(error)
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
        sys.stderr.write(
            "deepmd-gnn: error: out of memory. It grows with the number of edges, that is with atoms times density times "
            f"r_max cubed: take fewer atoms or more memory. ({' '.join(str(error).split())[:200]})\n"
        )
        return 1
    finally:
        hints.removeFilter(_no_thread_hint)


def _failed(error: Exception) -> int:
    message = " ".join(str(error).split())
    # It may quote a file, and terminals obey control characters.
    message = "".join(c if c.isprintable() else "?" for c in message)
    sys.stderr.write(f"deepmd-gnn: error: {message}\n")
    return 1
