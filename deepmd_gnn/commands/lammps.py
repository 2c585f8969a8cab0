"""``deepmd-gnn lammps``: a folder that LAMMPS runs as it is."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepmd_gnn.commands.parsers import add_command

if TYPE_CHECKING:
    from deepmd_gnn.tools.structures import Structure

_EXAMPLES = """\
examples:
  deepmd-gnn lammps POSCAR mace.pt2 -o md                      NVT at 300 K
  deepmd-gnn lammps water.xyz mace.pth -o md --run npt --temperature 330 --pressure 1
  deepmd-gnn lammps my.cif mace.pt2 -o relaxed --run minimize --relax-cell
  deepmd-gnn lammps data/valid/H8C5O2 mace.pt2 -o md --frame 3

Next: cd md && lmp -in in.lammps, or mpirun -n 2 lmp -in in.lammps
"""


def add_parsers(subparsers: Any) -> None:
    """Add ``lammps``.

    Parameters
    ----------
    subparsers : Any
        What :meth:`argparse.ArgumentParser.add_subparsers` returned.
    """
    parser = add_command(
        subparsers,
        "lammps",
        "write data and input files for LAMMPS",
        _EXAMPLES,
        "Write a folder with a data file, an input file and a copy of the model, which LAMMPS runs as they are, on one rank or "
        "several. Types are those of the model, in its order.",
    )
    parser.add_argument("structure", type=Path, help="a file that ASE reads, a LAMMPS data file or a folder of DeePMD-kit")  # fmt: skip
    parser.add_argument("model", type=Path, help="frozen model (.pt2 or .pth)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="new folder")
    parser.add_argument("--run", choices=("nvt", "npt", "nve", "minimize"), default="nvt", help="default: %(default)s")  # fmt: skip
    parser.add_argument("--temperature", type=float, default=300.0, metavar="K", help="default: %(default)s")
    parser.add_argument("--pressure", type=float, default=1.0, metavar="BAR", help="default: %(default)s")
    parser.add_argument("--timestep", type=float, metavar="FS", help="default: 0.5 with hydrogen, else 1")
    parser.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--relax-cell", action="store_true", help="minimise: the cell as well")
    parser.add_argument("--replicate", type=int, nargs=3, default=[1, 1, 1], metavar=("NX", "NY", "NZ"), help="copies along each cell vector")  # fmt: skip
    parser.add_argument("--frame", type=int, default=0, help="frame of a file with several, from 0 (default: 0)")  # fmt: skip
    parser.add_argument("--types", nargs="+", metavar="TYPE", help="names of types 1, 2, … of a LAMMPS data file (default: the model's)")  # fmt: skip
    parser.add_argument("--fparam", type=float, nargs="+", metavar="VALUE", help="charge, spin or what else the energy depends on (default: the model's)")  # fmt: skip
    parser.add_argument("--seed", type=int, default=4928459, help="of the velocities (default: %(default)s)")
    parser.set_defaults(func=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the folder.

    Parameters
    ----------
    arguments : argparse.Namespace
        Parsed arguments.

    Returns
    -------
    int
        0.
    """
    from deepmd_gnn.files.summary import choose_model, summarise
    from deepmd_gnn.tools.evaluation import quiet
    from deepmd_gnn.tools.lammps_folder import INPUT_FILE, Run, write_lammps_folder

    for name, value in (("--temperature", arguments.temperature), ("--timestep", arguments.timestep), ("--steps", arguments.steps), ("--seed", arguments.seed)):  # fmt: skip
        if value is not None and not value > 0:
            raise ValueError(f"{name} {value:g} must be above 0.")
    if min(arguments.replicate) < 1:
        raise ValueError(f"--replicate {' '.join(map(str, arguments.replicate))} must be 1 or more.")
    if arguments.relax_cell and arguments.run != "minimize":
        raise ValueError("--relax-cell belongs to --run minimize; --run npt lets the cell move in dynamics.")
    with quiet():
        model = choose_model(summarise(arguments.model), None)
    structure = _structure(arguments, model["type_map"]).repeated(tuple(arguments.replicate))
    charged = bool((model["architecture"] or {}).get("use_coulomb_term"))  # one rank only
    what = Run(
        arguments.run,
        arguments.temperature,
        arguments.pressure,
        arguments.timestep,
        arguments.steps,
        arguments.seed,
        arguments.relax_cell,
        _values(arguments.fparam, model["architecture"]),
        one_rank=charged,
    )
    notes = write_lammps_folder(arguments.output, structure, arguments.model, what)
    sys.stdout.writelines(f"Note: {note}\n" for note in notes)
    sys.stdout.write(
        f"{arguments.output}: {structure.natoms} atoms, types {' '.join(model['type_map'])}\n"
        f"Next: cd {arguments.output} && lmp -in {INPUT_FILE}"
        f"{'' if charged else f' (or mpirun -n 2 lmp -in {INPUT_FILE})'}\n"
    )
    return 0


def _values(given: list[float] | None, architecture: dict[str, Any] | None) -> tuple[float, ...]:
    """Quantities of the frame for the pair style; none for models without."""
    from deepmd_gnn.config.charges import quantities_in

    wanted = quantities_in(architecture or {})
    names = ", ".join(one.name for one in wanted)
    if given is None:
        lacking = [one.name for one in wanted if one.default is None]
        if lacking:
            raise ValueError(f"--fparam is needed: the energy of the model depends on {names}, and {', '.join(lacking)} has no default.")  # fmt: skip
        return tuple(one.stand_in for one in wanted)
    if architecture is None:  # a file that does not say
        return tuple(given)
    if len(given) != len(wanted):
        raise ValueError(f"--fparam has {len(given)} values, but the energy of the model depends on {names or 'none'}.")  # fmt: skip
    for one, value in zip(wanted, given, strict=True):
        if not one.accepts(value):
            raise ValueError(f"--fparam: {one.name} is {value:g}, but must be {one.allowed}.")
    return tuple(given)


def _structure(arguments: argparse.Namespace, type_map: list[str]) -> "Structure":
    """One frame of a file, or of everything in a data folder."""
    from itertools import islice

    import numpy as np
    from ase.data import chemical_symbols

    from deepmd_gnn.datasets.sources import is_deepmd, read_frames
    from deepmd_gnn.tools.structures import Structure, read_structure

    path, number = arguments.structure, arguments.frame
    if not is_deepmd(path):
        return read_structure(path, type_map, number, arguments.types)
    frame = next(islice(read_frames(path), max(number, 0), None), None)
    if frame is None or number < 0:
        raise ValueError(f"{path}: has no frame {number}; they are counted from 0.")
    names = [chemical_symbols[one] for one in frame.numbers]
    unknown = sorted(set(names) - set(type_map))
    if unknown:
        raise ValueError(f"{path}: has atoms of {', '.join(unknown)}, but the model knows only {', '.join(type_map)}.")  # fmt: skip
    types, periodic = np.array([type_map.index(name) for name in names]), any(frame.pbc)
    cell = frame.cell if periodic else None
    return Structure(frame.positions, types, cell, list(type_map), frame.source, periodic)
