"""Labels, relaxation and databases with dpdata: a model `mace.pth` and a structure `crystal.xyz`."""

import ase.io
import dpdata
import numpy as np

atoms = ase.io.read("crystal.xyz").repeat(2)
atoms.rattle(0.05, seed=1)
system = dpdata.System(atoms, fmt="ase/structure")
labeled = system.predict("mace.pth", driver="dp")  # energies, forces and virials
driver = dpdata.driver.Driver.get_driver("dp")("mace.pth")
relaxed = system.minimize(driver=driver, minimizer="ase", fmax=1e-3, max_steps=200)
labeled.to("deepmd/npy", "labeled")  # "systems": ["labeled"]
labeled.to("lmdb", "labeled.lmdb", overwrite=True)  # "systems": "labeled.lmdb", a string and no list

# Check: ASE's calculator.
from deepmd.calculator import DP  # noqa: E402

atoms.calc = DP("mace.pth")
virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
np.testing.assert_allclose(labeled["energies"][0], atoms.get_potential_energy(), rtol=1e-9)
np.testing.assert_allclose(labeled["forces"][0], atoms.get_forces(), atol=1e-6)
np.testing.assert_allclose(labeled["virials"][0], virial, atol=1e-6)
assert relaxed["energies"][0] < labeled["energies"][0]
assert len(dpdata.LabeledSystem("labeled.lmdb", fmt="lmdb")) == 1
