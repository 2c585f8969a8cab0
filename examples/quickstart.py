"""From real data to molecular dynamics on several ranks, with figures: ``make quickstart``.

Needs the standard library only. Without DeePMD-kit beside the running Python, the first stage installs the package
into ``.venv``.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "water"
VALIDATION = "data/data_3"
NATOMS = 192
TIMESTEP = 0.0005  # ps
THERMO_LINE = re.compile(r"^\s+\d+(\s+-?\d+(\.\d+)?(e[+-]?\d+)?){4}\s*$")
# One float32 evaluation is exact to about this many eV per atom.
SAME_ENERGY = 1e-6


class StageError(Exception):
    """A stage failed; the message is for the user."""


class Stages:
    """Numbers the stages, times them and runs their commands.

    Parameters
    ----------
    folder : Path
        Where commands run and where their logs go.
    total : int
        Number of stages.
    """

    def __init__(self, folder: Path, total: int):
        self.folder, self.total, self.number, self.title = folder, total, 0, ""
        self.start = self.began = time.monotonic()

    def begin(self, title: str) -> None:
        """Announce the next stage."""
        self.number, self.title, self.began = self.number + 1, title, time.monotonic()
        print(f"\n[{self.number}/{self.total}] {title}", flush=True)

    def end(self, *results: str) -> None:
        """Print the results of the stage and its duration."""
        for result in results:
            print(f"      {result}")
        print(f"      done in {time.monotonic() - self.began:.0f} s", flush=True)

    def run(
        self,
        command: list[str],
        log: str,
        report: Callable[[str], str | None] = lambda _: None,
        cwd: Path | None = None,
        ranks: int = 1,
    ) -> list[str]:
        """Run a command, show the lines `report` makes of its output, keep everything in a log.

        Parameters
        ----------
        command : list[str]
            Program and arguments.
        log : str
            Name of the log file in the folder.
        report : callable
            Takes an output line, returns what to show of it or None.
        cwd : Path, optional
            Working directory; the folder unless given.
        ranks : int
            Number of processes that share the cores.

        Returns
        -------
        list[str]
            The lines of the output.

        Raises
        ------
        StageError
            If the command cannot start or fails.
        """
        shown = [Path(word).name if word.endswith(("/dp", "/lmp", "/mpirun")) else word for word in command]
        print(f"      $ {shlex.join(shown)}", flush=True)
        lines: list[str] = []
        try:
            with (
                (self.folder / log).open("w") as file,
                subprocess.Popen(
                    command,
                    cwd=cwd or self.folder,
                    env=environment(ranks),
                    text=True,
                    errors="replace",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                ) as process,
            ):
                for line in process.stdout or ():
                    file.write(line)
                    file.flush()
                    lines.append(line.rstrip("\n"))
                    text = report(lines[-1])
                    if text:
                        print(f"      {time.monotonic() - self.began:4.0f} s  {text}", flush=True)
        except OSError as error:
            raise StageError(f"{shown[0]} does not start: {error}") from error
        if process.returncode:
            tail = "\n".join("    " + line for line in lines[-15:])
            raise StageError(
                f"exit code {process.returncode} from\n    {shlex.join(command)}\n"
                f"  Its log is {self.folder / log} and ends with\n{tail}"
            )
        return lines


def environment(ranks: int) -> dict[str, str]:
    """Environment of a command: at most two threads, which do not spin when cores are shared."""
    threads = str(max(1, min(2, os.cpu_count() or 1) // ranks))
    return {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "DP_INTRA_OP_PARALLELISM_THREADS": threads,
        "DP_INTER_OP_PARALLELISM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
    }


def training_report(steps: int) -> Callable[[str], str | None]:
    """Summarise the training log: a line about every tenth of the run."""
    shown = [-steps]

    def report(line: str) -> str | None:
        if "MACE " in line:
            return line.split("MACE ", 1)[1]
        match = re.search(r"Batch\s+(\d+): val: .*rmse_e = (\S+), rmse_f = (\S+)", line)
        if match is None or (int(match[1]) - shown[0] < steps / 10 and int(match[1]) < steps):
            return None
        shown[0] = int(match[1])
        energy, force = 1000 * float(match[2]), 1000 * float(match[3])
        return f"step {match[1]:>4} of {steps}: validation force {force:5.0f} meV/Å, energy {energy:6.1f} meV/atom"

    return report


def test_errors(lines: Iterable[str]) -> tuple[float, float]:
    """Energy (meV/atom) and force (meV/Å) errors, root mean square, that ``dp test`` printed."""
    found: dict[str, float] = {}
    for line in lines:
        match = re.search(r"(Energy RMSE/Natoms|Force\s+RMSE)\s*:\s*(\S+)", line)
        if match:
            found[match[1].split()[0]] = 1000 * float(match[2])
    if len(found) < 2:
        raise StageError("dp test printed no energy and force errors; see test.log")
    return found["Energy"], found["Force"]


def thermo(lines: Iterable[str]) -> list[tuple[float, ...]]:
    """Rows (step, temperature, potential, kinetic, total energy) of a LAMMPS log, each step once."""
    rows = [tuple(float(word) for word in line.split()) for line in lines if THERMO_LINE.match(line)]
    if not rows:
        raise StageError("LAMMPS printed no energies")
    if any(value != value for row in rows for value in row):
        raise StageError("the energies of the molecular dynamics are not numbers")
    return list({row[0]: row for row in rows}.values())


def drift(rows: list[tuple[float, ...]], first: int) -> str:
    """Describe the total energy from step `first` on: slope by least squares, and scatter about the mean."""
    points = [(row[0] * TIMESTEP, 1000 * row[4] / NATOMS) for row in rows if row[0] >= first]
    mean_t = sum(t for t, _ in points) / len(points)
    mean_e = sum(e for _, e in points) / len(points)
    spread = sum((t - mean_t) ** 2 for t, _ in points)
    slope = sum((t - mean_t) * (e - mean_e) for t, e in points) / spread if spread else 0.0
    scatter = (sum((e - mean_e) ** 2 for _, e in points) / len(points)) ** 0.5
    return f"without thermostat, total energy: drift {slope:+.3f} meV/atom/ps, scatter {scatter:.3f} meV/atom"


def install(stages: Stages) -> Path:
    """Folder of the programs ``dp`` and ``lmp``; installs them if this Python has none."""
    own = Path(sys.executable).parent
    if (own / "dp").exists() and (own / "lmp").exists():
        stages.end(f"found in {own}")
        return own

    def report(line: str) -> str | None:
        return line if line.startswith(("Installing collected", "Successfully installed deepmd")) else None

    stages.run(
        ["make", "--no-print-directory", "install"],
        "install.log",
        lambda line: (report(line) or "")[:100] or None,
        ROOT,
    )
    stages.end()
    return ROOT / ".venv" / "bin"


def prepare(folder: Path, steps: int | None) -> int:
    """Copy the example, change the number of steps; returns that number."""
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run"))
    settings = json.loads((folder / "input.json").read_text())
    if steps is not None:
        settings["training"]["numb_steps"] = steps
        (folder / "input.json").write_text(json.dumps(settings, indent=2) + "\n")
    return int(settings["training"]["numb_steps"])


def train_and_test(stages: Stages, programs: Path, steps: int) -> None:
    """Stages train, freeze and test."""
    dp, compiled = [str(programs / "dp"), "--pt"], [str(programs / "dp"), "--pt-expt"]
    stages.begin(f"Train a small MACE model of liquid water, {steps} steps")
    stages.run([*dp, "train", "--skip-neighbor-stat", "input.json"], "train.log", training_report(steps))
    stages.end()

    stages.begin("Freeze it to one compiled file for Python, C++ and LAMMPS (a minute or two)")
    stages.run([*compiled, "freeze", "-o", "mace.pt2"], "freeze.log")
    stages.end(f"mace.pt2: {(stages.folder / 'mace.pt2').stat().st_size / 1e6:.1f} MB")

    stages.begin("Test it on 80 frames it was not trained on")
    lines = stages.run(
        [*compiled, "test", "-m", "mace.pt2", "-s", VALIDATION, "-n", "80", "-d", "test"], "test.log"
    )
    energy, force = test_errors(lines)
    stages.end(f"root mean square error: energy {energy:.2f} meV/atom, force {force:.0f} meV/Å")


def molecular_dynamics(stages: Stages, programs: Path, ranks: int, md_steps: tuple[int, int]) -> list:
    """One stage of LAMMPS on `ranks` ranks; returns the thermodynamic rows."""
    stages.begin(f"Molecular dynamics, 64 molecules, on {ranks} MPI rank{'s' * (ranks > 1)}")
    equilibrate, steps = md_steps
    command = [str(programs / "mpirun"), "-n", str(ranks), str(programs / "lmp"), "-in", "in.lammps"]
    arguments = ["-var", "equilibrate", str(equilibrate), "-var", "steps", str(steps)]
    arguments += ["-log", f"md_{ranks}.lammps"]

    shown = set()

    def report(line: str) -> str | None:
        words = line.split()
        if not THERMO_LINE.match(line) or int(words[0]) % 100 or words[0] in shown:
            return None
        shown.add(words[0])
        return f"step {words[0]:>4}: {float(words[1]):4.0f} K, total energy {float(words[4]):.5f} eV"

    lines = stages.run([*command, *arguments], f"md_{ranks}.log", report, ranks=ranks)
    rows = thermo(lines)
    loops = [float(line.split()[3]) for line in lines if line.startswith("Loop time of")]
    stages.end(
        f"{1000 * sum(loops) / (equilibrate + steps):.0f} ms per step",
        drift(rows, equilibrate),
    )
    return rows


def compare(one: list[tuple[float, ...]], two: list[tuple[float, ...]]) -> None:
    """Print and check the potential energies of one and two ranks."""
    differences = [abs(a[2] - b[2]) / NATOMS for a, b in zip(one, two, strict=True)]
    print(f"      potential energy at step 0: {one[0][2]:.7f} eV on 1 rank, {two[0][2]:.7f} eV on 2 ranks")
    print(
        f"      largest difference: {differences[0]:.1e} eV/atom at step 0, {max(differences):.1e} over the whole run"
        " (float32 model; trajectories amplify rounding)"
    )
    if differences[0] > SAME_ENERGY:
        raise StageError(f"one and two ranks disagree by {differences[0]:.1e} eV/atom, allowed {SAME_ENERGY}")


def arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "quickstart", help="folder for everything")
    parser.add_argument("--steps", type=int, help="training steps (default: as in examples/water/input.json)")
    parser.add_argument(
        "--md-steps", type=int, nargs=2, default=(100, 300), metavar=("NVT", "NVE"), help="MD steps"
    )
    return parser.parse_args()


def quickstart(stages: Stages, options: argparse.Namespace) -> Path:
    """All stages; returns the folder of the programs."""
    steps = prepare(stages.folder, options.steps)
    stages.begin("Install deepmd_gnn, DeePMD-kit and LAMMPS")
    programs = install(stages)
    train_and_test(stages, programs, steps)
    rows = [molecular_dynamics(stages, programs, ranks, tuple(options.md_steps)) for ranks in (1, 2)]
    compare(*rows)
    stages.begin("Figures")
    stages.run([str(programs / "python"), str(ROOT / "examples" / "plot.py"), str(stages.folder)], "plot.log")
    stages.end(*(str(path) for path in sorted(stages.folder.glob("*.png"))))
    return programs


def main() -> int:
    """Run the stages; returns the exit code."""
    options = arguments()
    folder = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    stages = Stages(folder, 7)
    try:
        programs = quickstart(stages, options)
    except StageError as error:
        print(f"\nStage {stages.number}, '{stages.title}', failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    minutes, seconds = divmod(round(time.monotonic() - stages.start), 60)
    print(f"\nFinished in {minutes} min {seconds} s. Model, logs and figures are in {folder}.")
    print(
        "A few minutes of training give a rough model; examples/water/README.md says how to train a better one."
    )
    print("Next:")
    if programs == ROOT / ".venv" / "bin":
        print("  source .venv/bin/activate      # dp, deepmd-gnn, lmp and mpirun")
    print("  docs/getting_started.md        # the same step by step, with your own data")
    return 0


if __name__ == "__main__":
    sys.exit(main())
