"""What goes wrong around a model: files, disks, signals, memory. Nothing is lost silently, and messages name the cause."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, ended_by, interruptible, run_dp, working_directory
from helpers import assert_close, random_frame, tiny_model
from lammps_cases import STRONG
from lammps_runner import run_lammps
from tolerances import NATIVE, RANKS
from training_data import composition_frames, write_system

from deepmd_gnn.cli import main
from deepmd_gnn.files.archives import FileError
from deepmd_gnn.files.whole_file import whole_file
from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.tools.structures import Structure

pytestmark = pytest.mark.usefixtures("preloaded")
UNUSUAL = "my mödel, 50 % 模型"


def python(code, *arguments, **options):
    """A process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    save_checkpoint(tiny_model(**STRONG), path)
    return path


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("kind", ["pt", "pth"])
def test_half_written_files_are_refused(kind, fraction, checkpoint, model_files, tmp_path):
    whole = checkpoint if kind == "pt" else model_files(".pth")["two_layers"]
    path = tmp_path / f"half.{kind}"
    path.write_bytes(whole.read_bytes()[: int(fraction * whole.stat().st_size)])
    with pytest.raises(FileError, match="is a truncated archive" if fraction else "is empty"):
        DeepPot(str(path))
    assert main(["info", str(path)]) == 1
    assert main(["check", str(path)]) == 1


def test_damaged_bytes_are_noticed(checkpoint, tmp_path):
    """A flipped bit inside the archive's directory or pickle; the zip format has checksums."""
    data = bytearray(checkpoint.read_bytes())
    place = data.index(b"type_map")
    data[place : place + 8] = b"tpye_map"
    (tmp_path / "m.pt").write_bytes(data)
    assert main(["info", str(tmp_path / "m.pt")]) == 1


@pytest.mark.lammps
def test_lammps_refuses_a_half_written_file(model_files, tmp_path):
    path = tmp_path / "half.pth"
    path.write_bytes(model_files(".pth")["two_layers"].read_bytes()[:5000])
    result = run_water(tmp_path, path)
    assert result.returncode != 0
    assert "PytorchStreamReader failed" in result.output


@pytest.mark.slow
@pytest.mark.lammps
def test_unusual_paths(tmp_path):
    """Training, freezing, testing, checking and LAMMPS in a folder with spaces and letters beyond ASCII."""
    folder = tmp_path / UNUSUAL
    folder.mkdir()
    system = write_system(folder / "the data", composition_frames(6, 2, 0, box_length=4.5))
    config = base_input([system], None, steps=1)
    config["training"]["stat_file"] = str(folder / "the statistics.hdf5")
    run_dp(folder, "train", config)
    run_dp(folder, "freeze", None, "-o", "the model.pth")
    run_dp(folder, "test", None, "-m", str(folder / "the model.pth"), "-s", system, "-n", "1")
    assert main(["check", str(folder / "the model.pth")]) == 0
    # LAMMPS replaces letters beyond ASCII in its input, but not in the folder where it runs.
    run_water(folder, "the model.pth").check()


# --- disks -------------------------------------------------------------------------------------------------------

LIMITED = (
    "import resource, sys\n"
    "from deepmd_gnn.cli import main\n"
    "import deepmd.pt.model.model\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["freeze", "export"])
def test_a_full_disk_leaves_what_was_there(command, checkpoint, tmp_path):
    target = tmp_path / {"freeze": "m.pth", "export": "m.model"}[command]
    if command == "freeze":  # export never replaces a file
        target.write_text("the model of last week")
    done = python(LIMITED, command, checkpoint, "-o", target)
    # torch ends the process when it cannot write TorchScript; other files end with a message.
    assert done.returncode == {"freeze": -signal.SIGABRT, "export": 1}[command]
    if command == "export":
        assert "Is the disk full? What was there before is unchanged." in done.stderr.splitlines()[-1]
        assert not list(tmp_path.iterdir())
    else:
        assert target.read_text() == "the model of last week"


def test_a_file_is_whole_or_absent(tmp_path):
    target = tmp_path / "a.txt"

    def interrupted():
        with whole_file(target) as unfinished:
            unfinished.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert not list(tmp_path.iterdir())
    with whole_file(target) as unfinished:
        unfinished.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    with pytest.raises(FileNotFoundError, match="Create it first"), whole_file(tmp_path / "no" / "a.txt"):
        pass


# --- interruptions -----------------------------------------------------------------------------------------------

SAVE = 5


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "ended by itself"
        assert time.monotonic() < end, "took too long"
        time.sleep(0.05)


def last_step(path):
    lines = [line for line in path.read_text().splitlines() if line and line.strip()[0].isdigit()]
    return int(lines[-1].split()[0]) if lines else 0


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_training_goes_on_from_the_last_save(sent, tmp_path):
    """At most the steps since the last save are lost (test_restart.py: what a restarted run computes)."""
    system = write_system(tmp_path / "data", composition_frames(4, 2, 0, box_length=4.5))
    config = base_input([system], None, steps=100000)
    config["training"].update(save_freq=SAVE, disp_freq=1, max_ckpt_keep=2)
    (tmp_path / "input.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "deepmd", "--pt", "train", "--skip-neighbor-stat", "input.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        open(tmp_path / "log", "w") as log,
        interruptible(command, cwd=tmp_path, stdout=log, stderr=log, env=environment) as child,
    ):
        curve = tmp_path / "lcurve.out"
        wait_for(lambda: curve.exists() and last_step(curve) > 2 * SAVE + 1, child)
        assert ended_by(sent, child) != 0
    reached = last_step(curve)
    # The end was at any moment, but the checkpoint that is there is whole.
    state = torch.load(tmp_path / "model.ckpt.pt", weights_only=True)
    saved = state["model"]["_extra_state"]["train_infos"]["step"]
    assert saved >= 2 * SAVE
    assert reached - saved <= SAVE
    config["training"]["numb_steps"] = saved + 2
    run_dp(tmp_path, "train", config, "--skip-neighbor-stat", "--restart", "model.ckpt.pt")
    state = torch.load(tmp_path / "model.ckpt.pt", weights_only=True)
    assert state["model"]["_extra_state"]["train_infos"]["step"] == saved + 2


# --- molecular dynamics ------------------------------------------------------------------------------------------

WATER = """\
units metal
atom_style atomic
{setup}
read_data water.data
pair_style deepmd "{model}"
pair_coeff * * {types}
neighbor 1.0 bin
timestep {timestep}
velocity all create {temperature} 1
thermo_style custom step pe lx
thermo_modify format float %.15g
{dynamics}
"""


def run_water(folder, model, ranks=1, types="O H", ntypes=2, dynamics="run 0", **options):
    folder.mkdir(exist_ok=True)
    coord, kinds, cell = random_frame(40, 8.0, seed=3, triclinic=False)
    kinds[-1] = ntypes - 1
    names = ["O", "H", "C"][:ntypes]
    Structure(coord, kinds, cell, names, "").write_lammps_data(folder / "water.data")
    settings = {"setup": "", "timestep": 0.0005, "temperature": 300, **options}
    script = WATER.format(model=model, types=types, dynamics=dynamics, **settings)
    return run_lammps(folder, script, ranks)


@pytest.mark.lammps
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"types": "O Fe"}, "element Fe not found in the model"),
        # Flying apart: LAMMPS or the model notices, whichever is first.
        ({"timestep": 1.0, "temperature": 1e6, "dynamics": "fix 1 all nve\nrun 50"}, r"[Ll]ost atoms|NaN or infinite|Non-numeric"),
        # On top of each other.
        ({"dynamics": "set atom 2 x 1.0 y 1.0 z 1.0\nset atom 1 x 1.0 y 1.0 z 1.0\nrun 0"}, "two atoms are at the same place"),
    ],
    ids=["unknown element", "flying apart", "on top of each other"],
)  # fmt: skip
def test_what_lammps_is_told(options, words, model_files, tmp_path):
    result = run_water(tmp_path, model_files(".pth")["two_layers"], **options)
    assert result.returncode != 0
    assert re.search(words, result.output), result.output[-3000:]
    assert "Loop time" not in result.output


@pytest.mark.lammps
@pytest.mark.parametrize(
    ("types", "ntypes", "ignored", "same"),
    [("O", 2, "1 and 2", "O NULL"), ("", 3, "1 and 3", "O H NULL")],
    ids=["too few names", "more types than the model, without names"],
)
def test_types_without_a_name_are_ignored_with_a_warning(types, ntypes, ignored, same, model_files, tmp_path):
    """DeePMD-kit's pair style treats them as NULL; the model is not asked about them."""
    results = [
        run_water(tmp_path / name, model_files(".pth")["two_layers"], types=names, ntypes=ntypes).check()
        for name, names in (("given", types), ("null", same))
    ]
    warning = f"WARNING: Interaction between types {ignored} is set with deepmd, but will be ignored."
    assert warning in results[0].output
    assert warning not in results[1].output
    energies = {re.findall(r"^ +0 +(\S+)", result.output, re.MULTILINE)[-1] for result in results}
    assert len(energies) == 1


@pytest.mark.lammps
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_cell_that_shrinks_below_the_cutoff(ranks, model_files, tmp_path):
    """All images count: at the end, a cell of 3 Å has the energy that Python finds with a cutoff of 4 Å."""
    model = model_files(".pth")["two_layers"]
    dynamics = (
        "group some id > 6\ndelete_atoms group some\nreset_atoms id\n"
        "fix 1 all deform 1 x final 0 3 y final 0 3 z final 0 3 remap x\nneigh_modify every 1 delay 0\n"
        "dump 1 all custom 30 end.txt id type x y z\ndump_modify 1 sort id format float %.17g\nthermo 30\nrun 30\n"
        # What deform does at the end of the last step is not in the energy of that step.
        "unfix 1\nundump 1\ndump 1 all custom 1 end.txt id type x y z\ndump_modify 1 sort id format float %.17g\nrun 0"
    )
    result = run_water(tmp_path, model, ranks, dynamics=dynamics).check()
    energy, length = (
        float(word) for word in re.findall(r"^ +30 +(\S+) +(\S+)", result.output, re.MULTILINE)[-1]
    )
    assert length == pytest.approx(3.0)
    block = (tmp_path / "end.txt").read_text().split("ITEM: TIMESTEP\n")[-1].splitlines()
    table = np.array([line.split() for line in block[8:]], dtype=float)
    types, coord = table[:, 1].astype(int) - 1, table[:, 2:5]
    expected = DeepPot(str(model)).eval(coord[None], np.eye(3)[None] * length, types)[0][0, 0]
    assert abs(energy - expected) < RANKS["float64"]


def test_atoms_far_apart_cost_nothing():
    """Fragments that flew away: no grid over empty space, energies of lone atoms."""
    model = tiny_model(**STRONG)
    coord, types, _ = random_frame(12, 6.0)
    here = model(torch.tensor(coord[None]), torch.tensor(types[None]), None)["energy"]
    far = np.vstack([coord, [[1e7, 0, 0], [0, -3e8, 5.0], [1e9, 1e9, 1e9]]])
    out = model(torch.tensor(far[None]), torch.tensor([[*types, 0, 1, 1]]), None)
    assert_close(out["energy"].detach().numpy(), here.detach().numpy() - 5.0 - 2 * 1.25, NATIVE["float64"])


# --- memory ------------------------------------------------------------------------------------------------------

STARVED = """
import resource, sys
from deepmd_gnn.tools.evaluation import load_evaluation
from deepmd_gnn import cli
from unittest.mock import patch
def load(path, head=None):
    evaluate = load_evaluation(path, head)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, -1))
    return evaluate
with patch("deepmd_gnn.tools.evaluation.load_evaluation", load):
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_out_of_memory_is_said(model_files, tmp_path):
    coord, kinds, cell = random_frame(40, 8.0, seed=3, triclinic=False)
    Structure(coord, kinds, cell, ["O", "H"], "").repeated((6, 6, 6)).write_lammps_data(
        tmp_path / "large.data"
    )
    file = model_files(".pth")["two_layers"]
    done = python(STARVED, "check", file, "-s", tmp_path / "large.data", "--ranks", "0")
    assert done.returncode == 1, done.stderr[-1000:]
    assert "deepmd-gnn: error: out of memory. It grows with the number of edges" in done.stderr


# --- hostile files -----------------------------------------------------------------------------------------------


class Hostile:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("command", ["info", "check", "bench", "export", "convert", "freeze"])
def test_no_command_runs_the_code_of_a_pickle(command, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    trap = tmp_path / "executed"
    torch.save({"model": Hostile(trap)}, tmp_path / "m.pt")
    with open(tmp_path / "plain.pt", "wb") as file:
        pickle.dump(Hostile(trap), file)
    for name in ("m.pt", "plain.pt"):
        arguments = [command, str(tmp_path / name)]
        if command in ("export", "convert", "freeze"):
            arguments += ["-o", str(tmp_path / ("out.model" if command == "export" else "out.pth"))]
        with working_directory(tmp_path):
            assert main(arguments) == 1
    assert not trap.exists()
