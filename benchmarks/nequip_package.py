"""CPU time of ``"type": "nequip"`` against the package nequip 0.6 on the same weights and edges.

``python benchmarks/nequip_package.py --size small --precision float32`` prints a Markdown table. It needs the extra ``nequip``. The
package evaluates a ready graph, scripted and frozen as it is deployed; ours are steps of LAMMPS, neighbour lists included. Every
measurement runs in its own process on one thread; the tasks take turns, and ratios are medians of those within a turn.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import lammps_step
import torch
import workload

SIZES = {
    "small": {"num_layers": 2, "l_max": 1},
    # The defaults of the model section.
    "default": {},
}
DEFAULTS = {
    "num_layers": 4,
    "l_max": 2,
    "parity": True,
    "num_features": 32,
    "nonlinearity_type": "gate",
    "num_basis": 8,
    "BesselBasis_trainable": True,
    "PolynomialCutoff_p": 6,
    "invariant_layers": 2,
    "invariant_neurons": 64,
    "use_sc": True,
}
LABELS = {
    "package": "package, energy and forces of a ready graph",
    ".pth": "MD step, LAMMPS with `.pth`, skin 2 Å",
    ".pt2": "MD step, LAMMPS with `.pt2`, skin 2 Å",
}


def options(size, structure):
    """Options that the package and our model section share."""
    statistics_of_data = {"r_max": structure.r_max, "avg_num_neighbors": structure.avg_num_neighbors}
    return {**DEFAULTS, **SIZES[size], **statistics_of_data}


def package_model(size, precision, structure):
    """The package's model with random weights, in eval mode."""
    torch.serialization.add_safe_globals([slice])
    from nequip.model import model_from_config
    from nequip.utils import Config

    kinds = structure.type_map
    builders = ["SimpleIrrepsConfig", "EnergyModel", "PerSpeciesRescale", "ForceOutput", "RescaleEnergyEtc"]
    config = {
        **options(size, structure),
        "num_types": len(kinds),
        "type_names": kinds,
        "chemical_symbols": kinds,
        "default_dtype": "float64",
        "model_dtype": precision,
        "model_debug_mode": False,
        "per_species_rescale_shifts": None,
        "per_species_rescale_scales": None,
        "global_rescale_scale": 1.0,
        "model_builders": builders,
    }
    torch.set_default_dtype(torch.float64)  # noqa: TID251 - the package builds in the default dtype
    torch.manual_seed(1)
    return model_from_config(Config.from_dict(config), initialize=True).eval()


def our_model(size, precision, structure, weights):
    """Our model with the weights of the package."""
    from deepmd_gnn.nequip import NequipModel

    model = NequipModel(structure.type_map, **options(size, structure), precision=precision)
    model.take_package_weights(weights)
    return model.eval()


def package_call(model, structure):
    """Energy in eV and largest force in eV/Å of a ready graph, by the scripted and frozen model."""
    from e3nn.util.jit import script
    from nequip.data import AtomicData, AtomicDataDict

    data = AtomicData.from_points(
        pos=torch.tensor(structure.atoms.get_positions()),
        r_max=structure.r_max,
        cell=torch.tensor(structure.atoms.cell.array),
        pbc=structure.periodic,
    )
    data[AtomicDataDict.ATOM_TYPE_KEY] = torch.as_tensor(structure.types).reshape(-1, 1)
    ready = AtomicData.to_AtomicDataDict(data)
    frozen = torch.jit.freeze(script(model))
    return lambda: frozen(dict(ready))


def task(name, folder, args):
    """What the process of one task does; returns plain values."""
    workload.use_one_thread()
    structure = workload.system(args.system)
    if name == "prepare":
        model = package_model(args.size, args.precision, structure)
        torch.save(model.state_dict(), folder / "weights.pt")
        return {}
    if name == "package":
        model = package_model(args.size, args.precision, structure)
        call, seconds = package_call(model, structure), []
        for _ in range(3 + args.calls):
            before = sum(os.times()[:2])
            out = call()
            seconds.append(sum(os.times()[:2]) - before)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds": seconds[3:], "energy": float(out["total_energy"].detach()), "peak_mb": peak}
    model = our_model(args.size, args.precision, structure, torch.load(folder / "weights.pt"))
    before = sum(os.times()[:4])
    if name == "freeze .pth":
        torch.jit.script(model).save(str(folder / "model.pth"))
    else:
        from deepmd.pt_expt.utils import serialization

        data = {"model": model.serialize(), "model_def_script": {}}
        serialization.deserialize_to_file(str(folder / "model.pt2"), data)
    return {"seconds": [sum(os.times()[:4]) - before]}


def measured(name, folder, args):
    """Result of a task in a process of its own."""
    command = [sys.executable, __file__, "--task", name, "--folder", str(folder)]
    for key in ("size", "precision", "system", "calls"):
        command += [f"--{key}", str(getattr(args, key))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--precision", choices=workload.DTYPES, default="float32")
    parser.add_argument("--system", choices=workload.SYSTEMS, default="water")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--files", nargs="+", choices=[".pth", ".pt2"], default=[".pt2"])
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(task(args.task, args.folder, args)))
        return
    structure = workload.system(args.system)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured("prepare", folder, args)
        for suffix in args.files:
            frozen = measured(f"freeze {suffix}", folder, args)
            print(f"{suffix}: frozen in {frozen['seconds'][0]:.0f} s of CPU", file=sys.stderr, flush=True)
        rounds = []
        for turn in range(args.rounds):
            results = {"package": measured("package", folder, args)}
            for suffix in args.files:
                results[suffix] = lammps_step.run_lammps(folder, structure, args.steps, f"model{suffix}")
            print(f"turn {turn + 1}: {results}", file=sys.stderr, flush=True)
            rounds.append(
                {key: (statistics.median(r["seconds"]), r["peak_mb"]) for key, r in results.items()}
            )
            tolerance = 1e-8 if args.precision == "float64" else 1e-4
            for suffix in args.files:
                difference = abs(results[suffix]["energy"] - results["package"]["energy"])
                if difference > tolerance * abs(results["package"]["energy"]):
                    raise RuntimeError(f"{suffix}: other energies than the package: {results}")
    print(f"| {args.size}, {args.precision} | ms CPU | of the package | peak MB |\n|---|---:|---:|---:|")
    for key in rounds[0]:
        seconds, peak = (statistics.median(values) for values in zip(*(r[key] for r in rounds), strict=True))
        ratio = statistics.median(r[key][0] / r["package"][0] for r in rounds)
        print(f"| {LABELS[key]} | {1000 * seconds:.0f} | {ratio:.2g} | {peak:.0f} |")


if __name__ == "__main__":
    main()
