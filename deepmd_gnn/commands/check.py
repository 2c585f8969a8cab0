"""``deepmd-gnn check``: whether a model file obeys physics."""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmd_gnn.commands.parsers import add_command, add_json_argument, add_structure_arguments
from deepmd_gnn.config.checks import parse_irreps
from deepmd_gnn.config.mace import MaceConfig

if TYPE_CHECKING:
    from deepmd_gnn.tools.checks import Check, Evaluate, Results
    from deepmd_gnn.tools.structures import Structure

_EXAMPLES = """\
examples:
  deepmd-gnn check mace.pth                            on atoms that are made up
  deepmd-gnn check mace.pt2 --structure POSCAR         on your own structure
  deepmd-gnn check mace.pth -s water.lmp --types O H   a LAMMPS data file
  deepmd-gnn check model.ckpt.pt --json                for programs

exit codes: 0 all checks passed, 1 one failed or the input is bad, 2 wrong usage
"""
# Å by which the atoms of a user's structure are displaced.
_DISPLACEMENT = 0.05


def add_parsers(subparsers: Any) -> None:
    """Add ``check``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "check",
        "test the physics of a model file",
        _EXAMPLES,
        "Test what every model of interatomic energies must obey, on a checkpoint or frozen model: "
        "derivatives, invariances, smoothness at the cutoff, and that LAMMPS gives the same numbers on any number of ranks. "
        "Runs the program in the file: of strangers' files ask only `deepmd-gnn info`.",
    )
    parser.add_argument("file", type=Path, help="checkpoint (.pt) or frozen model (.pth, .pt2, .pte)")
    add_structure_arguments(parser)
    parser.add_argument(
        "--ranks", type=int, default=2, help="MPI ranks of the comparison in LAMMPS; 0: none (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of displacements, rotations and permutations")
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Check a file.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0 if no check failed, else 1.
    """
    from deepmd_gnn.files.summary import choose_model, summarise
    from deepmd_gnn.tools.evaluation import quiet

    with quiet():
        model = choose_model(summarise(arguments.file), arguments.head)
    structure = _structure(arguments, model["type_map"])
    found = []
    if not arguments.json:
        sys.stdout.write(f"{arguments.file}, {model['precision']}, on {structure.name}\n")
        sys.stdout.write(
            "deviations relative to the largest force component (energies per atom: times 1 Å)\n\n"
        )
    for check in _checks(arguments, model, structure):
        found.append(check)
        if not arguments.json:
            sys.stdout.write(_line(check) + "\n")
            sys.stdout.flush()
    failed = sum(check.passed is False for check in found)
    if arguments.json:
        answer = {
            "file": str(arguments.file),
            "structure": structure.name,
            "natoms": structure.natoms,
            "passed": failed == 0,
            "checks": [check.to_dict() for check in found],
        }
        sys.stdout.write(json.dumps(answer, indent=2) + "\n")
    else:
        omitted = sum(check.passed is None for check in found)
        sys.stdout.write(f"\n{len(found) - failed - omitted} passed, {failed} failed, {omitted} not run\n")
    return 1 if failed else 0


def _structure(arguments: argparse.Namespace, type_map: list[str]) -> "Structure":
    from deepmd_gnn.tools.checks import displaced
    from deepmd_gnn.tools.structures import invented_structure, read_structure

    if arguments.structure is None:
        return invented_structure(type_map, 3, arguments.seed)
    structure = read_structure(arguments.structure, type_map, arguments.frame, arguments.types)
    return displaced(structure, _DISPLACEMENT, arguments.seed)


def _checks(
    arguments: argparse.Namespace, model: dict[str, Any], structure: "Structure"
) -> "Iterator[Check]":
    from deepmd_gnn.tools.checks import PhysicsChecks
    from deepmd_gnn.tools.evaluation import load_evaluation

    evaluate = load_evaluation(arguments.file, model["head"])
    architecture = model["architecture"] or {}
    even = all(parity == "e" for *_, parity in parse_irreps(architecture.get("irreps_edge_sh", "1o")))
    mirrored = not (architecture.get("use_so3", False) or even)
    checks = PhysicsChecks(evaluate, structure, model["r_max"], model["precision"], mirrored, arguments.seed)
    for check in checks.all():
        yield _with_cause(check, model["architecture"]) if model["type"] == MaceConfig.kind else check
    # Charges of atoms need all atoms on one rank.
    most = 1 if architecture.get("use_coulomb_term") else arguments.ranks
    yield _ranks(arguments, min(most, arguments.ranks), model["precision"], structure, evaluate)


def _with_cause(check: "Check", architecture: dict[str, Any] | None) -> "Check":
    """Say why a model whose architecture jumps is not smooth; with small weights the jump may be below the limit."""
    if check.name != "smoothness" or not architecture or not MaceConfig(**architecture).jumps_at_cutoff:
        return check
    return dataclasses.replace(
        check, statement=f"{check.statement} (apply_cutoff: true with these blocks: not)"
    )


def _ranks(
    arguments: argparse.Namespace, ranks: int, precision: str, structure: "Structure", evaluate: "Evaluate"
) -> "Check":
    from deepmd_gnn.tools import lammps as lammps_program
    from deepmd_gnn.tools.checks import Check, compare_ranks

    programs = lammps_program.find_programs()
    obstacle = programs.obstacle(arguments.file.suffix, ranks) if ranks else "--ranks 0"
    if obstacle:
        return Check("ranks", "LAMMPS agrees with Python on any number of ranks", None, 0.0, obstacle)
    turned = structure.in_lammps_orientation()
    python: Results = evaluate(turned)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            count: lammps_program.forces(arguments.file, turned, count, Path(folder) / str(count), programs)
            for count in sorted({1, ranks})
        }
    return compare_ranks(found[1], found[ranks], python, precision, ranks)


def _line(check: "Check") -> str:
    words = {True: "pass", False: "FAIL", None: "not run"}[check.passed]
    numbers = check.reason if check.deviation is None else f"{check.deviation:.1e} (limit {check.limit:.0e})"
    return f"{words:<8}{check.name:<12} {numbers:<26} {check.statement}"
