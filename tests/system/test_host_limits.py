"""Limits of DeePMD-kit that the pages describe: they are still there, and the ways around them work."""

import re

import numpy as np
import pytest
from helpers import random_frame
from lammps_runner import run_lammps

from deepmd_gnn.tools.structures import Structure

pytestmark = pytest.mark.lammps

HEAD = "units metal\natom_style atomic\natom_modify map yes\nread_data water.data\n"
HYBRID = """\
pair_style hybrid/overlay deepmd {model} lj/cut 6.0
pair_coeff * * deepmd O H
pair_coeff * * lj/cut 0.05 1.0
compute s all centroid/stress/atom NULL pair
compute r all reduce sum c_s[1] c_s[2] c_s[3]
compute k all pressure NULL pair
variable pair_pressure equal -(c_r[1]+c_r[2]+c_r[3])/(3*vol)
thermo_style custom step c_k v_pair_pressure
thermo_modify format float %.15g
run 0
"""


def water(folder, third=0):
    """A data file; the last `third` atoms have a type of their own."""
    coord, kinds, cell = random_frame(40, 8.0, seed=3, triclinic=False)
    kinds[len(kinds) - third :] = 2 if third else kinds[len(kinds) - third :]
    Structure(coord, kinds, cell, ["O", "H", "C"][: 3 if third else 2], "").write_lammps_data(
        folder / "water.data"
    )


def pressures(folder, model, ranks):
    result = run_lammps(folder, HEAD + HYBRID.format(model=model), ranks).check()
    return [float(word) for word in re.findall(r"^ +0 +(\S+) +(\S+)", result.output, re.MULTILINE)[-1]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".pth", ".pt2"])
def test_pressure_of_hybrid_styles(kind, model_files, tmp_path):
    """With a .pt2 on one rank LAMMPS' own number is wrong, and the sum over atoms is right."""
    water(tmp_path)
    model = model_files(kind)["two_layers"]
    one, two = (pressures(tmp_path, model, ranks) for ranks in (1, 2))
    assert two == pytest.approx([two[1]] * 2, rel=1e-9)
    assert one[1] == pytest.approx(two[1], rel=1e-9)
    assert (abs(one[0] - two[0]) < 1e-6 * abs(two[0])) == (kind == ".pth")


def test_deviation_of_atoms_that_the_models_do_not_see(model_files, tmp_path):
    water(tmp_path, third=10)
    files = model_files(".pth")
    style = (
        f"pair_style deepmd {files['two_layers']} {files['three_layers']} out_freq 1 out_file md.out atomic\n"
    )
    run_lammps(tmp_path, HEAD + style + "pair_coeff * * O H NULL\nrun 0\n").check()
    (row,) = np.loadtxt(tmp_path / "md.out", ndmin=2)
    _, _, _, _, largest, smallest, average, *atoms = row
    assert np.count_nonzero(np.array(atoms) == 0) == 10
    assert smallest == 0
    assert largest == pytest.approx(max(atoms))
    assert average == pytest.approx(np.mean(atoms))  # diluted by the ten


def test_read_restart_needs_the_pair_style_again(model_files, tmp_path):
    water(tmp_path)
    style = f"pair_style deepmd {model_files('.pth')['two_layers']}\n"
    first = HEAD + style + "pair_coeff * * O H\nrun 0\nwrite_restart r.bin\n"
    run_lammps(tmp_path, first).check()
    for again, works in ((style, True), ("", False)):
        result = run_lammps(tmp_path, f"read_restart r.bin\n{again}pair_coeff * * O H\nrun 0\n")
        assert (result.returncode == 0) == works
        assert ("Loop time" in result.output) == works
