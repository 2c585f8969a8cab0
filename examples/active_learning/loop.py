"""Active learning in one script: a model explores, and configurations about which it is unsure are computed and learned.

``--select`` says how unsure it is: by the disagreement of a committee (``committee``), by its own last layer (``llpr``), or not at all
(``random``). ``python loop.py --rounds 3`` needs nothing but the package with LAMMPS: the reference method is ASE's effective-medium
theory of copper, in place of a density-functional code. Replace :func:`label` for a real one.
"""

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

EXPLORATION = """\
units metal
boundary p p p
atom_style atomic
atom_modify map yes
read_data start.data
mass 1 63.546
pair_style deepmd {models}
pair_coeff * * Cu
timestep 0.002
velocity all create {temperature} {seed}
fix 1 all nvt temp {temperature} {temperature} 0.1
dump 1 all custom {every} trajectory.dump id type x y z
dump_modify 1 sort id
run {steps}
"""


def label(atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    """Reference energy (eV), forces (eV/Å) and virial (eV) of a configuration."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
    return atoms.get_potential_energy(), atoms.get_forces(), virial


def save(configurations: list[Atoms], folder: Path) -> None:
    """Label configurations of one size and write them as a system of DeePMD-kit."""
    (folder / "set.000").mkdir(parents=True)
    labels = [label(atoms) for atoms in configurations]
    arrays = {
        "coord": [atoms.positions.ravel() for atoms in configurations],
        "box": [np.asarray(atoms.cell).ravel() for atoms in configurations],
        "energy": [energy for energy, _, _ in labels],
        "force": [force.ravel() for _, force, _ in labels],
        "virial": [virial.ravel() for _, _, virial in labels],
    }
    for name, values in arrays.items():
        np.save(folder / "set.000" / f"{name}.npy", np.array(values))
    (folder / "type.raw").write_text("0\n" * len(configurations[0]))
    (folder / "type_map.raw").write_text("Cu\n")


def first_configurations(number: int, seed: int) -> list[Atoms]:
    """Copper near its lattice: what one knows before the first simulation."""
    configurations = []
    for index in range(number):
        atoms = bulk("Cu", cubic=True, a=3.6 * (1 + 0.02 * np.sin(index))) * (2, 2, 2)
        atoms.rattle(0.03, seed=seed + index)
        configurations.append(atoms)
    return configurations


def run(command: list[str], folder: Path) -> None:
    """Run a command; its output goes to a log in the folder."""
    with (folder / f"{Path(command[0]).name}.log").open("a") as log:
        subprocess.run(command, cwd=folder, check=True, stdout=log, stderr=subprocess.STDOUT)


def train(folder: Path, systems: list[Path], seed: int, steps: int, valid: Path | None = None) -> Path:
    """Train and freeze one model; members of a committee differ in their seed. With `valid` it knows its uncertainty."""
    folder.mkdir(parents=True)
    settings = json.loads((Path(__file__).parent / "input.json").read_text())
    settings["model"]["seed"] = settings["training"]["seed"] = seed
    settings["training"]["numb_steps"] = steps
    settings["training"]["training_data"]["systems"] = [str(system.resolve()) for system in systems]
    (folder / "input.json").write_text(json.dumps(settings, indent=2))
    run(["dp", "--pt", "train", "--skip-neighbor-stat", "input.json"], folder)
    checkpoint = "model.ckpt.pt"
    if valid is not None:
        data = settings["training"]["training_data"]["systems"]
        checkpoint = "sure.pt"
        run(
            [
                "deepmd-gnn",
                "uncertainty",
                "model.ckpt.pt",
                *data,
                "--valid",
                str(valid.resolve()),
                "-o",
                checkpoint,
            ],
            folder,
        )
    run(["dp", "--pt", "freeze", "-c", checkpoint, "-o", "mace.pth"], folder)
    return folder / "mace.pth"


def explore(folder: Path, models: list[Path], temperature: float, seed: int, steps: int) -> list[Atoms]:
    """Molecular dynamics with the first model; configurations along the trajectory. LAMMPS writes how far the models differ."""
    folder.mkdir()
    write(folder / "start.data", first_configurations(1, seed)[0], format="lammps-data", specorder=["Cu"])
    names = " ".join(str(model.resolve()) for model in models)
    every = max(1, steps // 50)
    if len(models) > 1:
        names += f" out_freq {every} out_file deviation.txt"
    script = EXPLORATION.format(models=names, temperature=temperature, seed=seed, steps=steps, every=every)
    (folder / "in.lammps").write_text(script)
    run(["lmp", "-in", "in.lammps"], folder)
    configurations = read(folder / "trajectory.dump", index=":", format="lammps-dump-text")
    for atoms in configurations:
        atoms.symbols[:] = "Cu"
    return configurations


def committee_deviation(folder: Path) -> np.ndarray:
    """Largest disagreement of the committee about a force in each configuration, eV/Å."""
    return np.loadtxt(folder / "deviation.txt", ndmin=2)[:, 4]


def last_layer_deviation(model: Path, configurations: list[Atoms]) -> np.ndarray:
    """Largest standard deviation of a force in each configuration by the last layer of one model, eV/Å."""
    from deepmd.infer import DeepPot

    from deepmd_gnn import uncertainty

    found = uncertainty(
        DeepPot(str(model)),
        np.array([atoms.positions for atoms in configurations]),
        np.array([atoms.cell.array for atoms in configurations]),
        np.zeros(len(configurations[0]), dtype=int),
        forces=True,
    )
    return found["force_std"].max(axis=(1, 2))


def select(
    deviation: np.ndarray, low: float, high: float, number: int, rng: np.random.Generator
) -> np.ndarray:
    """Choose configurations that are neither well known (below `low`) nor beyond use (above `high`)."""
    candidates = np.flatnonzero((deviation > low) & (deviation < high))
    return np.sort(rng.permutation(candidates)[:number])


def choose(
    options: argparse.Namespace,
    folder: Path,
    model: Path,
    configurations: list[Atoms],
    rng: np.random.Generator,
) -> tuple[np.ndarray, str]:
    """Places of the configurations to compute, by the way that ``--select`` names, and what to print about them."""
    if options.select == "random":
        return np.sort(rng.permutation(len(configurations))[: options.new]), ""
    if options.select == "llpr":
        deviation = last_layer_deviation(model, configurations)
    else:
        deviation = committee_deviation(folder)
    known = np.mean(deviation <= options.low)
    told = f"largest deviation {deviation.max():.3f} eV/Å, {100 * known:.0f} % of the trajectory known, "
    return select(deviation, options.low, options.high, options.new, rng), told


def main(arguments: list[str] | None = None) -> None:
    """Run the loop; arguments by default those of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("run"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--select", choices=["committee", "llpr", "random"], default="committee")
    parser.add_argument("--models", type=int, default=3, help="members of the committee; the others have one")
    parser.add_argument("--training-steps", type=int, default=300)
    parser.add_argument("--md-steps", type=int, default=1000)
    parser.add_argument("--temperature", type=float, default=900.0, help="K")
    parser.add_argument("--low", type=float, default=0.05, help="eV/Å")
    parser.add_argument("--high", type=float, default=2.0, help="eV/Å")
    parser.add_argument("--new", type=int, default=10, help="configurations to compute in a round")
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    systems = [options.folder / "data_0"]
    save(first_configurations(10, seed=100), systems[0])
    valid = None
    if options.select == "llpr":
        valid = options.folder / "valid"
        save(first_configurations(5, seed=200), valid)
    for number in range(options.rounds):
        place = options.folder / f"round_{number}"
        members = options.models if options.select == "committee" else 1
        models = [
            train(place / f"model_{seed}", systems, seed, options.training_steps, valid)
            for seed in range(1, members + 1)
        ]
        configurations = explore(place / "md", models, options.temperature, 1000 + number, options.md_steps)
        chosen, told = choose(options, place / "md", models[0], configurations, rng)
        print(f"round {number}: {told}{len(chosen)} new configurations")
        if not len(chosen):
            break
        systems.append(options.folder / f"data_{number + 1}")
        save([configurations[index] for index in chosen], systems[-1])


if __name__ == "__main__":
    main()
