"""The benchmarks that pages quote still run, in their shortest form; what they measure is not looked at."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from documented import ROOT, copy_example
from shared_files import once

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("preloaded")]
BENCHMARKS = ROOT / "benchmarks"


def run(name, *arguments):
    """Output of a script."""
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_neighbor_search():
    out = run("neighbor_search.py", "--sizes", "60", "--atoms", "60", "--calls", "1")
    assert re.search(r"^\| 60 \| \d+ \|", out, re.MULTILINE)
    assert "search and network" in out


def test_frozen_script():
    out = run("frozen_script.py", "T", "float32", "1", "--turns", "1")
    assert re.search(
        r"^T float32 192 atoms \.pth: \d+ ms, \d+ µs per atom, native / \.pth [\d.]+; first calls",
        out,
        re.MULTILINE,
    )


@pytest.mark.lammps
def test_atomic_virial():
    out = run("atomic_virial.py", "--model", "T", "--steps", "1", "--turns", "1")
    assert [line.split()[0] for line in out.splitlines()] == ["plain", "with", "ratio"]


WITHOUT_CHECK = """
import pathlib, sys
sys.path[:0] = sys.argv[1:3]
import list_check, torch
from helpers import TINY, extended, random_frame, tiny_model
path = pathlib.Path(sys.argv[3])
list_check.freeze(tiny_model(), path, looks=False)
coord, atype, owner, nlist = extended([random_frame()], TINY["r_max"])[1]
# Without a list there are no pairs, which the check would refuse.
out = torch.jit.load(path).forward_lower(coord, atype, torch.full_like(nlist, -1), owner)
assert not out["extended_force"].any()
"""


def test_list_check_freezes_without_the_check(tmp_path):
    """What it takes out is there; in a process of its own, because TorchScript keeps the class that it has compiled."""
    folders = [str(BENCHMARKS), str(ROOT / "tests")]
    command = [sys.executable, "-c", WITHOUT_CHECK, *folders, str(tmp_path / "without.pth")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.lammps
def test_against_native():
    options = ["--model", "T", "--system", "benzene", "--rounds", "1", "--calls", "1", "--steps", "1"]
    out = run("run.py", *options, "--tasks", "native force", "ours force", "ours LAMMPS")
    first, *others = re.findall(r"^\| [^|]+ \| [\d.e+]+ \| ([\d.e-]+) \|", out, re.MULTILINE)
    assert float(first) == 1
    assert len(others) == 2


@pytest.fixture
def frozen(kept, monkeypatch):
    """What ``measure.py freeze`` writes for the smallest model; two benchmarks share it, a minute of compilation each."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))

    def make(path):
        path.mkdir()
        run("measure.py", "freeze", str(path), "T", "float32", "water", "1")

    return once(kept / "benchmark", make) / "model.pt2"


@pytest.mark.lammps
def test_steps(frozen, monkeypatch, capsys):
    import run as benchmark
    import steps

    measure = benchmark.measure

    def without_freeze(task, folder, args):
        if task == "freeze":
            return shutil.copy(frozen, folder)
        return measure(task, folder, args)

    monkeypatch.setattr(benchmark, "measure", without_freeze)
    monkeypatch.setattr(sys, "argv", ["steps.py", "--model", "T", "--steps", "1"])
    steps.main()
    out = capsys.readouterr().out
    rows = re.findall(r"^\| `(\.pt.)` \|((?: [\d.e+]+ \|){6})$", out, re.MULTILINE)
    assert [name for name, _ in rows] == [".pth", ".pt2"]


@pytest.mark.lammps
def test_cpus(frozen, monkeypatch, capsys):
    import cpus

    monkeypatch.setattr(cpus, "freeze", lambda folder, cpu, args: shutil.copy(frozen, folder / f"{cpu}.pt2"))
    monkeypatch.setattr(
        sys, "argv", ["cpus.py", "--model", "T", "--steps", "4", "--rounds", "1", "--cpus", "generic"]
    )
    cpus.main()
    assert re.search(r"^\| generic \| [\d.e+]+ \| 1 \| -?\d", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.lammps
def test_many_ranks(frozen, monkeypatch, capsys):
    import many_ranks

    options = [
        "--model",
        "T",
        "--file",
        str(frozen),
        "--cells",
        "2",
        "2",
        "2",
        "--grids",
        "2,2,2",
        "--steps",
        "1",
        "--no-weak",
    ]
    monkeypatch.setattr(sys, "argv", ["many_ranks.py", *options])
    many_ranks.main()
    (row,) = re.findall(
        r"^\| 8 \| 192 \| (\d+) \|.*\| 24 \| ([\d.]+) \|$", capsys.readouterr().out, re.MULTILINE
    )
    # Two times four components of two channels, two times three coordinates.
    assert float(row[1]) == pytest.approx(int(row[0]) * (2 * 8 * 4 + 2 * 3 * 8) / 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("copies", "grid", "part"),
    [
        ((6, 6, 7), (4, 4, 4), ((3, 3, 7), (2, 2, 4))),
        ((2, 2, 2), (2, 2, 2), ((2, 1, 1), (2, 1, 1))),
        ((3, 3, 3), (1, 1, 1), ((3, 3, 3), (1, 1, 1))),
    ],
)
def test_part_that_repeats_itself(copies, grid, part, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from many_ranks import repeated_part

    assert repeated_part(copies, grid) == part


def test_ghosts_of_exchanges(monkeypatch):
    """What six exchanges send in all is what all ranks see outside of themselves."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from many_ranks import exchanged

    lengths, grid, reach = np.array([8.0, 5.0, 7.0]), (2, 1, 3), 2.0
    positions = np.random.default_rng(0).random((40, 3)) * lengths
    images = [positions + np.array(place) * lengths for place in np.ndindex(5, 5, 5)]
    size, seen = lengths / np.array(grid), 0
    for place in np.ndindex(grid):
        low = 2 * lengths + size * place
        near = [((one >= low - reach) & (one < low + size + reach)).all(axis=1).sum() for one in images]
        seen += sum(near)
    assert exchanged(positions, lengths, grid, reach).sum() == seen - len(positions)
    with pytest.raises(ValueError, match="thinner than cutoff and skin"):
        exchanged(positions, lengths, (2, 1, 4), reach)


def test_finetune():
    out = run("finetune.py", "--frames", "5", "--test-frames", "2", "--steps", "1", "--starts", "imported")
    assert re.findall(r"^\| 1 \| (\w+) \|", out, re.MULTILINE) == ["imported"]


def test_forgetting():
    own = str(BENCHMARKS.parent / "examples" / "acac" / "data" / "valid_300K")
    options = ["--frames", "5", "--test-frames", "2", "--steps", "2", "--seeds", "1", "--own-frames", "2"]
    out = run("forgetting.py", "--own", own, *options, "--starts", "adapters")
    row = next(line for line in out.splitlines() if line.startswith("| adapters |"))
    assert all(float(cell.split()[0]) > 0 for cell in row.split("|")[2:8])


def test_adapters():
    out = run(
        "adapters.py",
        "--channels",
        "2",
        "--max-l",
        "0",
        "--atoms",
        "8",
        "--frames",
        "1",
        "--ranks",
        "1",
        "--turns",
        "1",
    )
    rows = re.findall(
        r"^\| ([a-z][^|]+) \| (\d+) \| [\d.]+ \| [\d.]+ \| [\d.]+ ± [\d.]+ \| \d+ \|", out, re.MULTILINE
    )
    assert [name for name, _ in rows] == ["all weights", "rank 1", "one matrix"]
    assert int(rows[0][1]) > int(rows[1][1]) > int(rows[2][1])


def test_uncertainty(tmp_path):
    """Two committees of two, with the calibration plot."""
    data = str(copy_example("acac", tmp_path, frames=5) / "data")
    figure, kept = tmp_path / "plot.png", tmp_path / "kept.json"
    options = [
        "--steps",
        "1",
        "--channels",
        "1",
        "--members",
        "2",
        "--frames",
        "3",
        "--seeds",
        "2",
        "--bins",
        "2",
    ]
    out = run(
        "uncertainty.py", "acac", "--data", data, *options, "--json", str(kept), "--figure", str(figure)
    )
    assert len(re.findall(r"^\| forces, LLPR \| -?[\d.]+ ± [\d.]+ \|", out, re.MULTILINE)) == 2
    first, second = (one["test_600K"]["forces"]["committee"]["bins"] for one in json.loads(kept.read_text()))
    assert np.shape(first) == (2, 2)
    assert first != second
    assert figure.stat().st_size > 1000


def test_active_learning(tmp_path):
    """One round that chooses by the last layer of one model."""
    figure, kept = tmp_path / "curves.png", tmp_path / "kept.json"
    options = [
        "--seeds",
        "1",
        "--ways",
        "LLPR",
        "--labels",
        "5",
        "6",
        "--pool",
        "8",
        "--tests",
        "2",
        "--members",
        "1",
    ]
    short = ["--steps", "1", "--channels", "1", "--json", str(kept), "--figure", str(figure)]
    out = run("active_learning.py", *options, *short)
    assert re.findall(r"^\| (\d+) \| LLPR \|", out, re.MULTILINE) == ["5", "6"]
    rows = json.loads(kept.read_text())
    assert [(row["labels"], row["hot"] <= row["labels"] - 5) for row in rows] == [(5, True), (6, True)]
    assert figure.stat().st_size > 1000


def test_training(tmp_path, monkeypatch, capsys):
    """Both programs on five frames, and the table of their errors."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import training
    import training_sets

    monkeypatch.setattr(training_sets, "EXAMPLES", copy_example("acac", tmp_path, frames=5).parent)
    monkeypatch.setattr(training_sets.Acac, "steps", 2)
    monkeypatch.setattr(
        sys, "argv", ["training.py", "acac", "--seeds", "1", "--folder", str(tmp_path / "runs")]
    )
    training.main()
    lines = capsys.readouterr().out.splitlines()
    assert "| | native | ours |" in lines
    assert sum(line.startswith("| test 600K") for line in lines) == 2


@pytest.mark.lammps
def test_growth(frozen, monkeypatch, capsys):
    """One size of the smallest model."""
    import growth

    options = ["--model", "T", "--sizes", "1", "--rounds", "1", "--steps", "4"]

    def instead_of_freeze(folder, args):
        assert (args.model, args.precision, args.kernels) == (
            "T",
            "float32",
            True,
        )  # what the file was made with
        shutil.copy(frozen, folder)
        return frozen.name

    monkeypatch.setattr(growth, "freeze", instead_of_freeze)
    monkeypatch.setattr(sys, "argv", ["growth.py", *options])
    growth.main()
    out = capsys.readouterr().out
    assert re.search(r"^\| 192 \| \d+ \| \d+ \| \d+ \|", out, re.MULTILINE)
    assert re.search(r"^\| 1536 \| \d+ \| \d+ \| [\d.]+ \|$", out, re.MULTILINE)


def test_gpu_check_reports_what_did_not_run(tmp_path):
    """As far as it goes without a GPU: a part that fails or has no time left does not stop the others."""
    parts = ["environment", "native", "memory"]
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu_check.py"),
        str(tmp_path),
        "--seconds",
        "12",
        "--only",
        *parts,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    rows = json.loads((tmp_path / "gpu_check.json").read_text(encoding="utf-8"))
    assert {row["part"] for row in rows} == set(parts)
    assert rows[-1]["value"] in ("took too long", "no time left")
    assert "| part | what | value |" in done.stdout


def test_symmetrix_xl(monkeypatch, tmp_path, capsys):
    """All but the programs: turns, ratios, table, and that different numbers are refused before any is timed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import symmetrix_xl as benchmark

    seconds = {"native": 4.0, "theirs, list anew": 0.3, "theirs": 0.2, "ours": 0.1}
    asked = []

    class Worker:
        def __init__(self, python, kind, file, place, precision):
            self.kind = kind

        def evaluate(self, number):
            asked.append((self.kind, number))
            numbers = {"energy": -1.0 + wrong.get(self.kind, 0.0), "forces": [[0.5, 0.0, -2.0]]}
            return {"seconds": seconds[self.kind] * (1 + number), "peak_mb": 500.0, **numbers}

        def close(self):
            pass

    def prepare(folder, programs, *case):
        costs = {"ours": {"cpu_seconds": 70.4, "peak_mb": 1100.0}}
        (folder / "prepared.json").write_text(json.dumps(costs), encoding="utf-8")
        return dict.fromkeys(benchmark.LABELS, "file"), folder

    monkeypatch.setattr(benchmark, "Worker", Worker)
    monkeypatch.setattr(benchmark, "prepare", prepare)
    monkeypatch.setattr(benchmark, "environment", lambda folder: folder)
    options = ["--models", "S", "--precisions", "float64", "--turns", "2", "--calls", "1"]
    monkeypatch.setattr(sys, "argv", ["symmetrix_xl.py", *options, "--folder", str(tmp_path)])
    wrong = {"theirs": 1e-5}
    with pytest.raises(RuntimeError, match=r"not the same model: theirs deviates by 1\.0e-05 of the energy"):
        benchmark.main()
    assert {number for _, number in asked} == {0}

    wrong = {"theirs": 1e-8}
    asked.clear()
    benchmark.main()
    assert [kind for kind, number in asked if number == 2] == list(seconds)
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", capsys.readouterr().out, re.MULTILINE))
    assert rows[benchmark.LABELS["ours"]] == "250 | 1 | 500 | 70 | 1100"
    assert rows[benchmark.LABELS["theirs"]] == "500 | 2 | 500 |  |"


def test_geometries_keep_within_a_skin(monkeypatch):
    """The same in every process, another one for each number, and so near that a list with a skin of 0.5 Å stays valid."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ase_worker

    positions = np.zeros((100, 3))
    first, again, other = (ase_worker.geometry(positions, number) for number in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).all()
    assert np.linalg.norm(first, axis=1).max() < 0.25
