"""An ASE calculator in a process of its own: ``python ase_worker.py KIND MODEL STRUCTURE PRECISION``.

Every line of the input is the number of a geometry; the answer is a line of JSON: CPU seconds of energy, forces and stress, the numbers
themselves and the peak memory in MB. The first line of the output says that the calculator is ready. It imports no more than the program needs.
"""

import argparse
import json
import resource
import sys
import time

import ase.io
import numpy as np

# Å; small against the skin of a neighbour list (0.5 Å), so that whoever keeps its list may do so, as in molecular dynamics.
AMPLITUDE = 0.02


def calculator(kind, model, precision):
    """Make one of the calculators as its documentation says.

    Parameters
    ----------
    kind : str
        ``"ours"``, ``"theirs"`` (symmetrix-xl), ``"theirs, list anew"`` or ``"native"``.
    model : str
        File.
    precision : str
        ``"float32"`` or ``"float64"``; our file has one already.

    Returns
    -------
    ase.calculators.calculator.Calculator
    """
    if kind == "ours":
        from deepmd.calculator import DP

        return DP(model)
    if kind == "native":
        from mace.calculators import MACECalculator

        return MACECalculator(model_paths=model, device="cpu", default_dtype=precision)
    from symmetrix import Symmetrix

    return Symmetrix(model, dtype=precision, **({"neighbor_skin": 0.0} if kind.endswith("anew") else {}))


def geometry(positions, number):
    """Positions near the given ones, other ones for every number, the same in every process.

    Parameters
    ----------
    positions : numpy.ndarray
        (natom, 3) in Å.
    number : int
        Which.

    Returns
    -------
    numpy.ndarray
        (natom, 3) in Å.
    """
    return positions + AMPLITUDE * np.random.default_rng(number).uniform(-1.0, 1.0, positions.shape)


def peak_mb():
    """Peak of the resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind")
    parser.add_argument("model")
    parser.add_argument("structure")
    parser.add_argument("precision")
    args = parser.parse_args()
    # What libraries print goes elsewhere.
    answers, sys.stdout = sys.stdout, sys.stderr
    atoms = ase.io.read(args.structure)
    start = atoms.get_positions()
    atoms.calc = calculator(args.kind, args.model, args.precision)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        atoms.set_positions(geometry(start, int(line)))
        before = time.process_time()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        stress = atoms.get_stress() if atoms.pbc.all() else np.zeros(6)
        seconds = time.process_time() - before
        numbers = {"energy": float(energy), "forces": forces.tolist(), "stress": stress.tolist()}
        print(json.dumps({"seconds": seconds, **numbers, "peak_mb": peak_mb()}), file=answers, flush=True)


if __name__ == "__main__":
    main()
