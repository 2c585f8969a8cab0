"""A long run on two ranks: energy is conserved and memory does not grow. 20 000 steps are ``make soak``."""

import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_model
from lammps_cases import freeze
from lammps_runner import run_lammps

from deepmd_gnn.tools.structures import Structure

TIMESTEP = 0.00005  # ps
LENGTH = 6.2
SCRIPT = """\
units metal
atom_style atomic
read_data water.data
pair_style deepmd mace.pth
pair_coeff * * O H
neighbor 1.0 bin
minimize 0 1e-3 200 400
reset_timestep 0
velocity all create 300 1 mom yes
timestep {timestep}
thermo_style custom step temp etotal
thermo_modify format float %.12g
thermo 50
fix 1 all nve
run {steps}
"""


class Memory(threading.Thread):
    """Sums the resident memory of the processes that run in a folder, until it is stopped."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.samples, self.stopped = str(folder), [], threading.Event()

    def run(self):
        while not self.stopped.wait(0.5):
            total = 0
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    if str((process / "cwd").readlink()) == self.folder:
                        text = (process / "status").read_text()
                        total += int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024
                except (OSError, TypeError):  # it has ended meanwhile
                    continue
            self.samples.append(total)


def water(folder):
    """Eight molecules, and a smooth model in float64 with ZBL, so that atoms keep apart whatever the weights say."""
    model = tiny_model(
        scale=20.0, r_max=3.0, num_channels=2, max_ell=1, pair_repulsion=True, precision="float64"
    )
    freeze(model, folder / "mace.pth")
    centers = np.array(list(np.ndindex(2, 2, 2))) * LENGTH / 2
    molecule = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    coord = (centers[:, None] + molecule + 0.5).reshape(-1, 3)
    structure = Structure(coord, np.tile([0, 1, 1], 8), np.eye(3) * LENGTH, ["O", "H"], "water")
    structure.write_lammps_data(folder / "water.data")
    return len(coord)


@pytest.mark.lammps
@pytest.mark.slow
@pytest.mark.parametrize("steps", [400, pytest.param(20000, marks=pytest.mark.soak)])
def test_energy_and_memory(steps, tmp_path, record_property):
    natoms = water(tmp_path)
    memory = Memory(tmp_path)
    memory.start()
    begin = time.monotonic()
    result = run_lammps(
        tmp_path, SCRIPT.format(timestep=TIMESTEP, steps=steps), ranks=2, timeout=3600
    ).check()
    seconds = time.monotonic() - begin
    memory.stopped.set()
    memory.join()
    # After the minimisation.
    log = result.output.rpartition("Per MPI rank memory")[2]
    rows = re.findall(r"^ +(\d+) +(\S+) +(-\S+)$", log, re.MULTILINE)
    table = np.array(rows, dtype=float)
    assert len(table) == steps // 50 + 1
    energy = table[:, 2] / natoms
    drift = np.polyfit(table[:, 0] * TIMESTEP, energy, 1)[0]
    samples = np.array(memory.samples)[np.array(memory.samples) > 100]
    grown = np.median(samples[-5:]) / np.median(samples[len(samples) // 2 :][:5]) - 1
    found = {
        "drift (eV/atom/ps)": drift,
        "scatter (eV/atom)": energy.std(),
        "temperature (K)": table[:, 1].mean(),
        "memory (MB)": samples[-1],
        "growth in the second half": grown,
        "seconds": seconds,
    }
    for name, value in found.items():
        record_property(name, f"{value:.3g}")
        print(f"{name}: {value:.3g}")
    assert energy.std() < 5e-4
    if steps >= 20000:
        assert abs(drift) < 1e-5
        assert abs(grown) < 0.01
