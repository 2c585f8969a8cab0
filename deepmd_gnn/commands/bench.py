"""``deepmd-gnn bench``: how fast model files are on a user's own structure."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepmd_gnn.commands.parsers import add_command, add_json_argument, add_structure_arguments

if TYPE_CHECKING:
    from deepmd_gnn.tools.structures import Structure

_EXAMPLES = """\
examples:
  deepmd-gnn bench mace.pth mace.pt2 -s water.lmp            Python, and LAMMPS if it is installed
  deepmd-gnn bench mace.pth -s POSCAR --ranks 1 2 4          LAMMPS on 1, 2 and 4 MPI ranks
  deepmd-gnn bench mace.pt2 -s my.cif --replicate 2 2 2 --timestep 1 --json

Every line is measured in processes of its own, one after the other. Memory is the resident memory of the largest one.
"""
_HEADER = f"{'file':<28} {'with':<16} {'s/step':>10} {'ns/day':>10} {'atom step/s':>12} {'MB':>8}"


def add_parsers(subparsers: Any) -> None:
    """Add ``bench``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "bench",
        "time model files on a structure",
        _EXAMPLES,
        "Time checkpoints and frozen models on a structure: in Python, and molecular dynamics in LAMMPS. "
        "Runs the program in the file: of strangers' files ask only `deepmd-gnn info`.",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help=".pt, .pth, .pt2 or .pte")
    add_structure_arguments(parser)
    parser.add_argument(
        "--replicate", type=int, nargs=3, default=(1, 1, 1), metavar=("A", "B", "C"), help="time a supercell"
    )
    parser.add_argument(
        "--timestep", type=float, default=0.5, help="fs, for ns/day and LAMMPS (default: 0.5)"
    )
    parser.add_argument(
        "--temperature", type=float, default=300.0, help="K, of the start in LAMMPS (default: 300)"
    )
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1], help="MPI ranks of LAMMPS; 0: without LAMMPS"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed (default: 20)")
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Time the files.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0, or 1 if a measurement failed.

    Raises
    ------
    ValueError
        If an argument or a file is bad.
    """
    from deepmd_gnn.files.summary import choose_model, summarise
    from deepmd_gnn.tools.evaluation import quiet

    if arguments.steps < 1 or arguments.timestep <= 0 or min(arguments.ranks) < 0:
        raise ValueError("--steps and --timestep must be above 0, --ranks not below.")
    with quiet():
        models = [choose_model(summarise(file), arguments.head) for file in arguments.files]
    rows: list[dict[str, Any]] = []
    for file, model in zip(arguments.files, models, strict=True):
        structure = _structure(arguments, model["type_map"])
        if not arguments.json and not rows:
            sys.stdout.write(f"{structure.natoms} atoms: {structure.name}\n\n{_HEADER}\n")
        for row in _measurements(arguments, file, model["head"], structure):
            rows.append(row)
            if not arguments.json:
                sys.stdout.write(_line(row) + "\n")
                sys.stdout.flush()
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    return 1 if any("error" in row for row in rows) else 0


def _structure(arguments: argparse.Namespace, type_map: list[str]) -> "Structure":
    from deepmd_gnn.tools.structures import invented_structure, read_structure

    if arguments.structure is None:
        # The same atoms for all files that have these elements, whatever their order.
        structure = invented_structure(sorted(type_map), 6).with_type_map(type_map)
    else:
        structure = read_structure(arguments.structure, type_map, arguments.frame, arguments.types)
    return structure.repeated(tuple(arguments.replicate))


def _measurements(
    arguments: argparse.Namespace, file: Path, head: str | None, structure: "Structure"
) -> Iterator[dict[str, Any]]:
    from deepmd_gnn.tools import lammps as lammps_program

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield _row(
            arguments, file, "Python", structure, _in_python(file, head, structure, folder, arguments.steps)
        )
        programs = lammps_program.find_programs()
        # Atoms that were made up would fly apart.
        still = arguments.structure is None
        for ranks in filter(None, arguments.ranks):
            how = f"LAMMPS, {ranks} rank{'s' * (ranks > 1)}"
            obstacle = programs.obstacle(file.suffix, ranks)
            if obstacle:
                yield _row(arguments, file, how, structure, {"not_run": obstacle})
                continue
            try:
                speed = lammps_program.speed(
                    file,
                    structure.in_lammps_orientation(),
                    ranks,
                    folder / str(ranks),
                    programs,
                    steps=arguments.steps,
                    timestep=1e-9 if still else arguments.timestep / 1000,
                    temperature=arguments.temperature,
                )
                found: dict[str, Any] = {"seconds": speed.seconds, "memory_mb": speed.memory_mb}
            except lammps_program.LammpsError as error:
                found = {"error": str(error)}
            yield _row(arguments, file, how, structure, found)


def _in_python(
    file: Path, head: str | None, structure: "Structure", folder: Path, calls: int
) -> dict[str, Any]:
    arrays = {"coord": structure.coord, "types": structure.types}
    if structure.cell is not None:
        arrays["cell"] = structure.cell
    np.savez(folder / "structure.npz", **arrays)  # type: ignore[arg-type]
    request = {
        "file": str(file),
        "head": head,
        "structure": str(folder / "structure.npz"),
        "type_map": structure.type_map,
        "calls": calls,
    }
    done = subprocess.run(
        [sys.executable, "-m", "deepmd_gnn.tools.timing"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"error": lines[-1]}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _row(
    arguments: argparse.Namespace, file: Path, how: str, structure: "Structure", found: dict[str, Any]
) -> dict[str, Any]:
    row = {
        "file": str(file),
        "with": how,
        "natoms": structure.natoms,
        "timestep_fs": arguments.timestep,
        **found,
    }
    if "seconds" in found:
        row["ns_per_day"] = 86400 / found["seconds"] * arguments.timestep * 1e-6
        row["atom_steps_per_second"] = structure.natoms / found["seconds"]
    return row


def _line(row: dict[str, Any]) -> str:
    start = f"{Path(row['file']).name:<28} {row['with']:<16} "
    if "seconds" not in row:
        return start + ("failed: " + row["error"] if "error" in row else "not run: " + row["not_run"])
    numbers = f"{row['seconds']:>10.4g} {row['ns_per_day']:>10.3g} {row['atom_steps_per_second']:>12.4g}"
    return f"{start}{numbers} {row['memory_mb']:>8.0f}"
