"""Our `.pt2` against symmetrix-xl 0.1.1 and native MACE: energy, forces and stress through ASE, on the same weights.

``python benchmarks/symmetrix_xl.py --models S --precisions float32`` installs symmetrix-xl in an environment of its own in the cache folder,
writes one native file per model, lets each program prepare it, compares energies and forces, and prints a Markdown table. The calculators live in
processes of their own with one thread each and take turns; what was prepared is kept, with what it cost.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "deepmd_gnn_benchmarks"
PACKAGE = "symmetrix-xl==0.1.1"
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "DP_INTRA_OP_PARALLELISM_THREADS": "1",
    "DP_INTER_OP_PARALLELISM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "DEVICE": "cpu",
    "SYMMETRIX_BACKEND": "cpu",
}
LABELS = {
    "native": "native MACE, `MACECalculator`",
    "theirs, list anew": "symmetrix-xl, list built anew",
    "theirs": "symmetrix-xl, list reused (its default)",
    "ours": "`.pt2`, list built anew",
}
# Of energies relative to the energy, and of forces relative to the largest component. E0 are zero, and the energies of the atoms cancel in part,
# which leaves single precision fewer digits.
TOLERANCES = {"float32": (1e-5, 1e-4), "float64": (1e-6, 1e-5)}


def environment(folder):
    """Install symmetrix-xl beside this environment, whose packages it sees; this environment is not changed.

    Parameters
    ----------
    folder : pathlib.Path
        Cache folder.

    Returns
    -------
    pathlib.Path
        Folder of the programs.
    """
    place = folder / "venv"
    programs = place / "bin"
    if not (programs / "symmetrix_extract_mace").exists():
        shutil.rmtree(place, ignore_errors=True)
        venv.create(place, with_pip=True)
        shared = sysconfig.get_paths()["purelib"]
        own = sysconfig.get_paths(vars={"base": str(place), "platbase": str(place)})["purelib"]
        Path(own, "shared.pth").write_text(f"{shared}\n", encoding="utf-8")
        # It needs numpy, scipy, ase, torch and mace-torch, which are here.
        subprocess.run([programs / "python", "-m", "pip", "install", "-q", "--no-deps", PACKAGE], check=True)
    return programs


def spent(command, log, **variables):
    """Run a command; what it and its children cost.

    Parameters
    ----------
    command : list[str]
        Program and arguments.
    log : pathlib.Path
        For what it prints.
    **variables : str
        Of the environment.

    Returns
    -------
    dict[str, float]
        ``cpu_seconds``, and ``peak_mb`` of the largest process.
    """
    with log.open("w") as file:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **ONE_THREAD, **variables},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[:4]} failed ({process.returncode}):\n{log.read_text()[-3000:]}")
    return {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": usage.ru_maxrss / 1024}


def prepare(folder, programs, model, precision, system):
    """Write the native file, and let both programs make of it what they evaluate.

    Parameters
    ----------
    folder : pathlib.Path
        Cache folder.
    programs : pathlib.Path
        See :func:`environment`.
    model, precision, system : str
        See ``workload.py``.

    Returns
    -------
    dict[str, str]
        File of each kind of calculator.
    str
        Folder with the structure and ``prepared.json``: per program the costs of :func:`spent` from the native file to a calculator that
        has been opened, with empty caches.
    """
    import ase.io
    import workload

    place = folder / f"{system}_{model}_{precision}"
    place.mkdir(parents=True, exist_ok=True)
    native, ours, theirs = (place / name for name in ("native.model", "ours.pt2", "theirs.json"))
    files = {"native": native, "ours": ours, "theirs": theirs, "theirs, list anew": theirs}
    record = place / "prepared.json"
    if record.exists():
        return files, place
    from deepmd_gnn import export_native

    structure = place / "structure.xyz"
    ase.io.write(structure, workload.system(system).atoms)
    export_native(workload.our_model(model, precision, workload.system(system)), str(native))
    inductor = str(place / "inductor")
    shutil.rmtree(inductor, ignore_errors=True)
    convert = [sys.executable, "-m", "deepmd_gnn", "convert", native, "-o", ours, "--precision", precision]
    costs = {"ours": [spent(convert, place / "ours.log", TORCHINDUCTOR_CACHE_DIR=inductor)]}
    shutil.rmtree(inductor, ignore_errors=True)
    extract = [programs / "symmetrix_extract_mace", "--model", native, "--output", theirs]
    compiled = place / "theirs"
    shutil.rmtree(compiled, ignore_errors=True)
    costs["theirs"] = [spent(extract, place / "extract.log")]
    for kind, python in (("ours", sys.executable), ("theirs", programs / "python")):
        start = [python, HERE / "ase_worker.py", kind, files[kind], structure, precision]
        costs[kind].append(spent(start, place / f"{kind}_start.log", SYMMETRIX_JIT_CACHE=str(compiled)))
    total = {
        kind: {
            "cpu_seconds": sum(part["cpu_seconds"] for part in parts),
            "peak_mb": max(part["peak_mb"] for part in parts),
        }
        for kind, parts in costs.items()
    }
    record.write_text(json.dumps(total, indent=1), encoding="utf-8")
    return files, place


class Worker:
    """A calculator in a process of its own."""

    def __init__(self, python, kind, file, place, precision):
        """Start it and wait until it is ready."""
        self.log = (place / f"{kind}_worker.log").open("w")
        self.kind = kind
        self.process = subprocess.Popen(
            [
                str(python),
                str(HERE / "ase_worker.py"),
                kind,
                str(file),
                str(place / "structure.xyz"),
                precision,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **ONE_THREAD, "SYMMETRIX_JIT_CACHE": str(place / "theirs")},
        )
        self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.kind!r} ended; its messages are in {self.log.name}")
        return json.loads(line)

    def evaluate(self, number):
        """Answer of ``ase_worker.py`` for the geometry with this number."""
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


def deviations(answers):
    """Largest differences from the first program.

    Parameters
    ----------
    answers : dict[str, dict]
        Per kind, see ``ase_worker.py``; one geometry.

    Returns
    -------
    dict[str, tuple[float, float]]
        Per kind: difference of energies relative to the energy, and of forces relative to the largest component.
    """
    first = next(iter(answers.values()))
    scale = max(abs(value) for row in first["forces"] for value in row)
    found = {}
    for kind, answer in answers.items():
        force = max(
            abs(a - b)
            for rows in zip(answer["forces"], first["forces"], strict=True)
            for a, b in zip(*rows, strict=True)
        )
        found[kind] = abs(answer["energy"] - first["energy"]) / abs(first["energy"]), force / scale
    return found


def check_same(answers, tolerances):
    """Refuse to time programs that do not evaluate the same model.

    Parameters
    ----------
    answers : dict[str, dict]
        As for :func:`deviations`.
    tolerances : tuple[float, float]
        Of energy and forces, see :func:`deviations`.

    Raises
    ------
    RuntimeError
        With the program and its deviations.
    """
    for kind, found in deviations(answers).items():
        if any(not value <= limit for value, limit in zip(found, tolerances, strict=True)):
            raise RuntimeError(
                f"not the same model: {kind} deviates by {found[0]:.1e} of the energy and {found[1]:.1e} of the largest "
                f"force, allowed are {tolerances}"
            )


def measure(workers, turns, calls):
    """Let the programs take turns.

    Parameters
    ----------
    workers : dict[str, Worker]
        Open ones, which have evaluated once.
    turns : int
        How many.
    calls : int
        Evaluations of each program per turn, one of native MACE.

    Returns
    -------
    list[dict[str, float]]
        Per turn and kind the median of CPU seconds.
    dict[str, float]
        Peak memory of each process in MB.
    """
    rounds, peaks = [], {}
    for turn in range(turns):
        rounds.append({})
        for kind, worker in workers.items():
            numbers = range(1 + turn * calls, 1 + turn * calls + (1 if kind == "native" else calls))
            answers = [worker.evaluate(number) for number in numbers]
            rounds[-1][kind] = statistics.median(answer["seconds"] for answer in answers)
            peaks[kind] = answers[-1]["peak_mb"]
    return rounds, peaks


def summarise(rounds, peaks, prepared):
    """Medians over the turns.

    Parameters
    ----------
    rounds, peaks :
        See :func:`measure`.
    prepared : dict[str, dict]
        See :func:`prepare`.

    Returns
    -------
    dict[str, dict[str, float]]
        Per kind: ``ms``, ``ratio`` (median of the ratios to ours within a turn), ``peak_mb``, and ``prepare_s`` and ``prepare_mb`` where the
        program prepares something.
    """
    summary = {}
    for kind in rounds[0]:
        row = {
            "ms": 1e3 * statistics.median(turn[kind] for turn in rounds),
            "ratio": statistics.median(turn[kind] / turn["ours"] for turn in rounds),
            "peak_mb": peaks[kind],
        }
        if kind in prepared:
            row |= {
                "prepare_s": prepared[kind]["cpu_seconds"],
                "prepare_mb": prepared[kind]["peak_mb"],
            }
        summary[kind] = row
    return summary


def table(title, summary):
    """Format a summary as Markdown."""
    lines = [
        f"| {title} | ms CPU | of ours | peak MB | to prepare, s CPU | MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind, row in summary.items():
        prepared = f"{row['prepare_s']:.0f} | {row['prepare_mb']:.0f}" if "prepare_s" in row else " |"
        lines.append(
            f"| {LABELS[kind]} | {row['ms']:.3g} | {row['ratio']:.3g} | {row['peak_mb']:.0f} | {prepared} |"
        )
    return "\n".join(lines)


def compare(programs, model, precision, system, args):
    """Prepare, check and measure one case, and print its table."""
    print(f"preparing {model}, {precision}, {system}", file=sys.stderr, flush=True)
    files, place = prepare(args.folder, programs, model, precision, system)
    pythons = dict.fromkeys(LABELS, programs / "python") | dict.fromkeys(("native", "ours"), sys.executable)
    kinds = [kind for kind in LABELS if kind != "native" or not args.no_native]
    workers = {}
    try:
        for kind in kinds:
            workers[kind] = Worker(pythons[kind], kind, files[kind], place, precision)
        # The first evaluation is not timed.
        answers = {kind: worker.evaluate(0) for kind, worker in workers.items()}
        for kind, found in deviations(answers).items():
            print(f"{kind}: deviations {found[0]:.1e}, {found[1]:.1e}", file=sys.stderr, flush=True)
        check_same(answers, TOLERANCES[precision])
        rounds, peaks = measure(workers, args.turns, args.calls)
    finally:
        for worker in workers.values():
            worker.close()
    prepared = json.loads((place / "prepared.json").read_text(encoding="utf-8"))
    print(table(f"{model}, {precision}, {system}", summarise(rounds, peaks, prepared)), flush=True)


def main():
    """Compare all cases that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=["S", "M", "T"], default=["S", "M"])
    parser.add_argument("--precisions", nargs="+", choices=list(TOLERANCES), default=list(TOLERANCES))
    parser.add_argument("--systems", nargs="+", choices=["water", "copper", "benzene"], default=["water"])
    parser.add_argument("--turns", type=int, default=5, help="turns of all programs")
    parser.add_argument("--calls", type=int, default=5, help="evaluations per turn; one of native MACE")
    parser.add_argument("--no-native", action="store_true", help="leave native MACE out")
    parser.add_argument("--folder", type=Path, default=CACHE, help="cache folder")
    args = parser.parse_args()
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    programs = environment(args.folder)
    for precision in args.precisions:
        for model in args.models:
            for system in args.systems:
                compare(programs, model, precision, system, args)


if __name__ == "__main__":
    main()
