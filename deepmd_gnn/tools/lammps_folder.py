"""A folder that LAMMPS runs as it is: data file, input file and model."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase.data import chemical_symbols

from deepmd_gnn.config.mm_types import element_of
from deepmd_gnn.datasets.distances import CLOSEST, shortest_distance
from deepmd_gnn.datasets.frames import Frame
from deepmd_gnn.files.whole_file import whole_file
from deepmd_gnn.tools.lammps import RUNNABLE
from deepmd_gnn.tools.structures import Structure

RUNS = ("nvt", "npt", "nve", "minimize")
DATA_FILE, INPUT_FILE = "structure.data", "in.lammps"
_HEAD = """\
# {what} of {name}: {natoms} atoms
# Units: Å, eV, ps, K, bar. {ranks}:
{memory}#   OMP_NUM_THREADS=1 lmp -in {input}
{several}units       metal
atom_style  atomic
atom_modify map yes          # needed by a .pt2 on one rank, harmless otherwise
boundary    {boundary}
box         tilt large
read_data   {data}

pair_style  deepmd {model}
pair_coeff  * * {names}
neighbor    {skin} bin

thermo      {thermo}
"""
# Atoms of a rank from which DeePMD-kit's temporary arrays are larger than what the C library keeps between steps: docs/performance.md.
LARGE = 6000
_MEMORY = f"""\
#   export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=67108864
# (keeps memory between steps: faster with more than {LARGE} atoms on a rank, and takes a third more of it)
"""
_DYNAMICS = """\
thermo_style custom step temp pe etotal press vol
timestep    {timestep:g}
velocity    all create {temperature:g} {seed} mom yes rot yes dist gaussian loop geom
{fix}
"""
_DUMP = """\
dump        1 all custom {dump} trajectory.lammpstrj id element x y z
dump_modify 1 element {names} sort id
"""
_MINIMIZE = """\
thermo_style custom step pe fmax press vol
{relax}min_style   cg
minimize    0.0 1e-3 {steps} {evaluations}   # until no force is above 1e-3 eV/Å
"""
_FIX = {
    "nve": "fix         1 all nve",
    "nvt": "fix         1 all nvt temp {temperature:g} {temperature:g} {damp_t:g}",
    "npt": "fix         1 all npt temp {temperature:g} {temperature:g} {damp_t:g} iso {pressure:g} {pressure:g} {damp_p:g}",
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What LAMMPS is to do."""

    kind: str = "nvt"
    """One of :data:`RUNS`."""
    temperature: float = 300.0
    """K."""
    pressure: float = 1.0
    """bar."""
    timestep: float | None = None
    """fs; None: 0.5 with hydrogen, else 1."""
    steps: int = 1000
    seed: int = 4928459
    relax_cell: bool = False
    """Of a minimisation."""
    values: tuple[float, ...] = ()
    """Quantities of the frame that the energy depends on, such as the charge."""
    one_rank: bool = False
    """Whether the model refuses several ranks."""


def write_lammps_folder(folder: Path, structure: Structure, model: Path, run: Run) -> list[str]:
    """Write the folder.

    Parameters
    ----------
    folder : Path
        Must not exist, or be empty.
    structure : Structure
        With the model's type map.
    model : Path
        Frozen model; is copied.
    run : Run
        What to do.

    Returns
    -------
    list[str]
        What the user should know.

    Raises
    ------
    ValueError
        If the folder has files, the model is of another kind, or the run needs a cell that is not there.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already. Give another name, or remove it first.")
    if model.suffix not in RUNNABLE:
        raise ValueError(
            f"{model}: LAMMPS runs frozen models, {' and '.join(RUNNABLE)}. Freeze it: `deepmd-gnn freeze {model} -o mace.pt2`."
        )
    needs_cell = run.kind == "npt" or run.relax_cell
    if needs_cell and not structure.periodic:
        raise ValueError(f"{structure.name}: has no periodic cell, which NPT and a relaxation of the cell need. Take nvt.")  # fmt: skip
    if structure.natoms == 1 and run.kind != "minimize":
        advice = "Repeat it: --replicate 3 3 3." if structure.periodic else "Take minimize."
        raise ValueError(f"{structure.name}: has one atom, which alone has no temperature. {advice}")
    notes = _doubts(structure)
    if needs_cell:
        notes.append("the pressure is right only if the model was trained on virials")
    folder.mkdir(parents=True, exist_ok=True)
    # Without periodicity a cell only holds the atoms; a box of their size leaves no rank without any.
    boxed = _right_handed(structure) if structure.periodic else replace(structure, cell=None)
    turned = boxed.in_lammps_orientation()
    turned.write_lammps_data(folder / DATA_FILE)
    name = f"{'_'.join(model.stem.split())}{model.suffix}"  # LAMMPS' words have no spaces
    with whole_file(folder / name) as unfinished:
        shutil.copy(model, unfinished)  # with its permissions
    (folder / INPUT_FILE).write_text(_script(turned, name, run))
    return notes


def _doubts(structure: Structure) -> list[str]:
    cell = np.zeros((3, 3)) if structure.cell is None else structure.cell
    numbers = np.zeros(structure.natoms, dtype=int)
    flags = (structure.periodic,) * 3
    distance = shortest_distance(Frame(structure.name, 0, numbers, structure.coord, cell, flags))
    if distance is None:
        return []
    return [f"two atoms are {distance:.2g} Å apart (below {CLOSEST} Å): minimise first, or mend the structure"]  # fmt: skip


def _right_handed(structure: Structure) -> Structure:
    """The same lattice; LAMMPS' lower triangular cell would mirror a left-handed one."""
    if structure.cell is None or np.linalg.det(structure.cell) > 0:
        return structure
    return replace(structure, cell=structure.cell[[0, 2, 1]])


def _script(structure: Structure, model: str, run: Run) -> str:
    names = " ".join(structure.type_map)
    present = {element_of(structure.type_map[kind]) for kind in structure.types}
    timestep = run.timestep if run.timestep is not None else 0.5 if chemical_symbols[1] in present else 1.0
    every = max(1, run.steps // 100)
    text = _HEAD.format(
        what={"minimize": "Minimisation"}.get(run.kind, run.kind.upper()),
        name=Path(structure.name).name,
        natoms=structure.natoms,
        input=INPUT_FILE,
        memory=_MEMORY if structure.natoms > LARGE else "",
        ranks="One rank" if run.one_rank else "One rank or several",
        several="" if run.one_rank else f"#   OMP_NUM_THREADS=1 mpirun -n 2 lmp -in {INPUT_FILE}\n",
        boundary="p p p" if structure.periodic else "m m m",
        data=DATA_FILE,
        model=" ".join(
            [model, *(["fparam"] if run.values else []), *(f"{value:.15g}" for value in run.values)]
        ),
        names=names,
        skin="1.0",
        thermo=1 if run.kind == "minimize" else every,
    )
    if run.kind == "minimize":
        relax = f"fix         1 all box/relax tri {run.pressure:g} vmax 0.001\n" if run.relax_cell else ""
        text += "\n" + _MINIMIZE.format(relax=relax, steps=run.steps, evaluations=10 * run.steps)
    else:
        fix = _FIX[run.kind].format(
            temperature=run.temperature, pressure=run.pressure, damp_t=0.1 * timestep, damp_p=timestep
        )  # fmt: skip
        text += _DYNAMICS.format(
            timestep=timestep / 1000, temperature=run.temperature, seed=run.seed, fix=fix
        )
        elements = " ".join(element_of(name) for name in structure.type_map)
        text += _DUMP.format(dump=every, names=elements) + f"run         {run.steps}\n"
    return text + "write_data  final.data\n"
