"""``deepmd-gnn doctor``: whether this machine has what training and molecular dynamics need."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from deepmd_gnn.commands.parsers import add_command, add_json_argument

if TYPE_CHECKING:
    from deepmd_gnn.tools.machine import Finding

_EXAMPLES = """\
examples:
  deepmd-gnn doctor           a line each for versions, threads, CPU, compiler, GPU, LAMMPS, MPI …
  deepmd-gnn doctor --json    the same for programs, or for a bug report

exit codes: 0 nothing is wrong (what is missing is needed for some things only), 1 something is
"""
_WORDS = {True: "ok", False: "WRONG", None: "-"}


def add_parsers(subparsers: Any) -> None:
    """Add ``doctor``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "doctor",
        "look at the installation",
        _EXAMPLES,
        "Look at versions, threads, CPU, compiler, GPU, libraries, LAMMPS and MPI; each line is ok or says what to do.",
    )
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at the machine.

    Parameters
    ----------
    arguments : argparse.Namespace
        With ``json``.

    Returns
    -------
    int
        0, or 1 if something is wrong.
    """
    from deepmd_gnn.tools.evaluation import quiet
    from deepmd_gnn.tools.machine import all_findings

    with quiet():
        findings = all_findings(_kernels)
    if arguments.json:
        sys.stdout.write(json.dumps([finding.to_dict() for finding in findings], indent=2) + "\n")
    else:
        for finding in findings:
            sys.stdout.write(f"{_WORDS[finding.ok]:<6}{finding.name:<14}{finding.found}\n")
            if finding.advice:
                sys.stdout.write(f"{'':20}→ {finding.advice}\n")
    return 1 if any(finding.ok is False for finding in findings) else 0


def _kernels() -> "list[Finding]":
    """The compiler that a ``.pt2`` needs, and whether generated kernels run here."""
    import torch

    from deepmd_gnn.kernels.cpu.compiler import check_compiler, compiler_name
    from deepmd_gnn.kernels.cpu.targets import VARIABLE, target_machine
    from deepmd_gnn.kernels.triton.support import works_on
    from deepmd_gnn.tools.machine import Finding

    try:
        check_compiler()
    except RuntimeError as error:
        return [
            Finding(
                "compiler",
                None,
                "no C++ compiler; dp --pt-expt freeze needs one, LAMMPS does not",
                str(error).removeprefix("mace model: "),
            )
        ]
    findings = [Finding("compiler", True, compiler_name())]
    try:
        machine = target_machine()
    except ValueError as error:  # of the environment variable
        return [*findings, Finding("CPU kernels", False, str(error).removeprefix("mace model: "))]
    if machine.instructions:
        findings.append(Finding("CPU kernels", True, f"vectors of {8 * machine.vector_bytes} bits"))
    else:
        chosen = os.environ.get(VARIABLE)
        reason = f"{VARIABLE} is {chosen}" if chosen else "is the compiler old, or a test program blocked?"
        findings.append(
            Finding("CPU kernels", None, "without AVX2 or AVX-512", f"they run, slower; {reason}")
        )
    if torch.cuda.is_available():
        works = works_on(torch.device("cuda"))
        advice = "" if works else "install gcc and python3-dev; without them the torch code runs, slower"
        findings.append(
            Finding("GPU kernels", works, "Triton works" if works else "Triton does not work", advice)
        )
    return findings
