"""Many systems at a time with TorchSim: a model `mace.pth` and a structure `crystal.xyz`."""

import ase.io
import numpy as np
import torch_sim as ts

from deepmd_gnn import TorchSimModel

model = TorchSimModel("mace.pth")
crystal = ase.io.read("crystal.xyz")
systems = [crystal.repeat(2), crystal.repeat((2, 2, 1)), crystal.repeat(2)]
for seed, atoms in enumerate(systems):
    atoms.rattle(0.05, seed=seed)
results = model(ts.initialize_state(systems, model.device, model.dtype))  # energy, forces, stress
# TorchSim 0.3 has functions where later ones have an Integrator.
langevin = ts.Integrator.nvt_langevin if hasattr(ts, "Integrator") else ts.integrators.nvt_langevin
final = ts.integrate(systems, model, integrator=langevin, n_steps=5, temperature=300, timestep=0.0005)  # ps

# Check: ASE's calculator, one after the other.
from deepmd.calculator import DP  # noqa: E402

calculator, begin = DP("mace.pth"), 0
for k, atoms in enumerate(systems):
    atoms.calc = calculator
    forces = results["forces"][begin : begin + len(atoms)].cpu().numpy()
    np.testing.assert_allclose(results["energy"][k].item(), atoms.get_potential_energy(), rtol=1e-11)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-11)
    np.testing.assert_allclose(results["stress"][k].cpu().numpy(), atoms.get_stress(voigt=False), atol=1e-11)
    begin += len(atoms)
