"""One table of tolerances; never loosen one in place."""

# Relative to the largest reference value, by network precision: same weights, other code path or native MACE.
NATIVE = {"float64": 1e-10, "float32": 1e-5}
# Absolute, eV and eV/Å: ranks against one rank against Python.
RANKS = {"float64": 1e-8, "float32": 1e-5}
# Relative: central finite differences of float64 energies.
FINITE_DIFFERENCE = 1e-6
# Relative to the largest component of each parameter's gradient: double backward, float64.
TRAINING_GRADIENT = 1e-9
# Relative: loss of a batch and its gradients against native MACE; absolute: weights after one step of the optimiser.
LOSS = 1e-8
# Relative: numbers that the host prints with seven digits.
PRINTED = 1e-6
# A lower bound, eV and eV/Å: how far results must be off when something is taken out that a test is about.
NOTICEABLE = 1e-4
# Absolute, eV and eV/Å: an imported or exported float64 model against native MACE.
IMPORTED = {"energy": 1e-9, "force": 1e-9, "virial": 1e-9, "stress": 1e-10}
