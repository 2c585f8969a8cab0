"""Path integrals: i-PI moves the beads, a calculator of ASE gives the forces. A model `mace.pth`, a structure `crystal.xyz`."""

import subprocess
import time
from pathlib import Path

import ase.io
import numpy as np
from ase.calculators.socketio import SocketClient
from deepmd.calculator import DP

ADDRESS = f"mace{time.time_ns()}"  # i-PI makes the socket /tmp/ipi_…
Path("input.xml").write_text(f"""
<simulation verbosity='low'>
  <output prefix='pimd'>
    <properties stride='1' filename='out'> [ step, potential{{electronvolt}} ] </properties>
  </output>
  <total_steps>4</total_steps>
  <prng><seed>1</seed></prng>
  <ffsocket name='mace' mode='unix' pbc='false'><address>{ADDRESS}</address></ffsocket>
  <system>
    <initialize nbeads='2'>
      <file mode='ase'> crystal.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces><force forcefield='mace'></force></forces>
    <ensemble><temperature units='kelvin'> 300 </temperature></ensemble>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> 0.25 </timestep>
        <thermostat mode='pile_g'><tau units='femtosecond'> 25 </tau></thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
""")
server = subprocess.Popen(["i-pi", "input.xml"])
while not Path(f"/tmp/ipi_{ADDRESS}").exists() and server.poll() is None:
    time.sleep(0.2)
time.sleep(1)
atoms = ase.io.read("crystal.xyz")  # the same atoms in the same order
atoms.calc = DP("mace.pth")
SocketClient(unixsocket=ADDRESS).run(atoms, use_stress=True)
server.wait()

# Check: both beads begin where the file has the atoms.
steps = np.loadtxt("pimd.out")
expected = DP("mace.pth").get_potential_energy(ase.io.read("crystal.xyz"))
print(f"potential energy {steps[0, 1]:.8f} eV by i-PI, {expected:.8f} eV by ASE")
assert len(steps) == 5
assert abs(steps[0, 1] - expected) < 1e-5
