"""The page for users of ASE: its code runs as it is written, and its statements about signs, units and deviations hold."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.units import GPa
from deepmd.infer import DeepPot
from tolerances import FINITE_DIFFERENCE, IMPORTED

from deepmd_gnn import convert

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
SOURCES = {
    "a": "v0.3.6_mace02_com1_swa.model",
    "b": "v0.3.6_mace01_swa_compiled.model",
    "c": "v0.2.0_model_run-1234_swa.model",
}
KEEP = """
results = {k: v for k, v in globals().items() if isinstance(v, (float, np.ndarray))}
for name, values in (("native", native), ("ours", ours)):
    results |= {f"{name}_{k}": v for k, v in zip(("energy", "force", "stress"), values)}
np.savez("results.npz", **results)
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "ase.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A folder in which the page's code has run."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "MACE.model").write_bytes((DATA / SOURCES["a"]).read_bytes())
    for name, source in SOURCES.items():
        convert(DATA / source, folder / f"{name}.pth", elements=["H", "C", "O"])
    structures = ase.io.read(DATA / "ref_structures.extxyz", ":")
    ase.io.write(folder / "structure.extxyz", structures[10])
    ase.io.write(folder / "molecules.extxyz", structures[:3])
    write_system(folder / "system", structures[10])
    for command in "".join(blocks("sh")).splitlines():
        program, *arguments = shlex.split(command)
        run(folder, [shutil.which(program), *arguments])
    (folder / "page.py").write_text("\n".join(blocks("python")) + KEEP)
    run(folder, [sys.executable, "page.py"])
    return folder, np.load(folder / "results.npz")


def run(folder, command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def write_system(folder, atoms):
    (folder / "set.000").mkdir(parents=True)
    np.save(folder / "set.000" / "coord.npy", atoms.positions.reshape(1, -1))
    np.save(folder / "set.000" / "box.npy", atoms.cell.array.reshape(1, 9))
    types = [["H", "C", "O"].index(symbol) for symbol in atoms.get_chemical_symbols()]
    (folder / "type.raw").write_text("\n".join(map(str, types)))
    (folder / "type_map.raw").write_text("H\nC\nO\n")


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("preloaded")]


def test_one_line_replacement(page):
    for key in ("energy", "force", "stress"):
        assert np.abs(page[1][f"ours_{key}"] - page[1][f"native_{key}"]).max() <= IMPORTED[key], key


def test_descriptors_are_natives(page):
    """All of them, and the invariant ones by the page's slices; each with another of the frames of the page."""
    from mace.calculators import MACECalculator

    folder, results = page
    native = MACECalculator(model_paths=str(folder / "MACE.model"), device="cpu", default_dtype="float64")
    atoms = ase.io.read(folder / "structure.extxyz")
    for seed, (name, options) in enumerate((("features", {"invariants_only": False}), ("invariants", {}))):
        frame = atoms.copy()
        frame.rattle(0.05, seed=seed)
        expected = native.get_descriptors(frame, **options)
        found = results[name][seed]
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max(), name
    channels = results["last_layer"].shape[-1]
    assert np.array_equal(results["last_layer"], results["invariants"][..., -channels:])


def test_sign_and_unit_of_the_stress(page):
    folder, results = page
    stress = results["stress"]
    scale = np.abs(stress).max()
    np.testing.assert_allclose(stress, results["numerical"], rtol=0, atol=10 * FINITE_DIFFERENCE * scale)
    volume = ase.io.read(folder / "structure.extxyz").get_volume()
    np.testing.assert_allclose(
        results["cell_virial"].ravel()[[0, 4, 8, 5, 2, 1]], -volume * stress, rtol=1e-12
    )
    assert results["pressure"] * GPa == pytest.approx(-np.mean(stress[:3]))


def test_committee(page):
    folder, results = page
    atoms = ase.io.read(folder / "structure.extxyz")
    types = [["H", "C", "O"].index(symbol) for symbol in atoms.get_chemical_symbols()]
    each = [
        DeepPot(str(folder / f"{k}.pth")).eval(atoms.positions[None], atoms.cell.array[None], types)
        for k in "abc"
    ]
    energies, forces = np.array([e[0, 0] for e, _, _ in each]), np.array([f[0] for _, f, _ in each])
    np.testing.assert_allclose(results["energies"], energies, rtol=0, atol=1e-9)
    assert results["energy_deviation"] == pytest.approx(energies.std())
    spread = np.sqrt(((forces - forces.mean(0)) ** 2).mean(0).sum(-1))
    np.testing.assert_allclose(results["force_deviation"], spread, rtol=1e-9)
    assert results["largest_force_deviation"] == pytest.approx(spread.max())
    line = np.loadtxt(folder / "model_devi.out")
    np.testing.assert_allclose(line, results["deviation"][0], rtol=1e-5)
    assert line[7] == pytest.approx(energies.std() / len(atoms), rel=1e-5)


def test_many_structures(page):
    """The last block's padded molecules, one by one."""
    folder, results = page
    model = DeepPot(str(folder / "mace.pth"))
    for k, atoms in enumerate(ase.io.read(folder / "molecules.extxyz", ":")):
        types = [["H", "C", "O"].index(symbol) for symbol in atoms.get_chemical_symbols()]
        energy, force, _ = model.eval(atoms.positions[None], None, types)
        assert abs(results["energy"][k, 0] - energy[0, 0]) <= IMPORTED["energy"]
        assert np.abs(results["force"][k, : len(atoms)] - force[0]).max() <= IMPORTED["force"]
        assert not results["force"][k, len(atoms) :].any()
    assert results["features"].shape[:2] == (4, 48)
    assert results["atom_energy"].shape == (4, 48, 1)


def test_slab_with_a_gap(page):
    """Periodic in two directions: native leaves out the images in the third, here they are out of reach."""
    import torch
    from deepmd.calculator import DP
    from native_models import native_evaluation

    folder, _ = page
    atoms = ase.io.read(folder / "structure.extxyz")
    atoms.pbc = (True, True, False)
    atoms.center(vacuum=2.5, axis=2)
    atoms.calc = DP(str(folder / "mace.pth"))
    original = torch.load(folder / "MACE.model", map_location="cpu", weights_only=False)
    expected = native_evaluation(
        original, atoms.positions, atoms.get_chemical_symbols(), atoms.cell.array, pbc=[True, True, False]
    )
    assert abs(atoms.get_potential_energy() - expected["energy"]) <= IMPORTED["energy"]
    assert np.abs(atoms.get_forces() - expected["force"]).max() <= IMPORTED["force"]
