"""A trained model in Python: DeepPot, `dp` commands, ASE and dpdata, from checkpoint and frozen file."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, run_dp, working_directory
from helpers import assert_close, random_frame
from tolerances import FINITE_DIFFERENCE, NATIVE
from training_data import composition_frames, write_system

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with data, a checkpoint after two steps and its frozen file; the model has ``sel`` 1."""
    root = tmp_path_factory.mktemp("python")
    system = write_system(root / "data", composition_frames(8, 6, 0, box_length=5.0))
    config = base_input([system], None, steps=2)
    config["model"]["sel"] = 1
    run_dp(root, "train", config)
    run_dp(root, "freeze", None, "-o", "mace.pth")
    return root


@pytest.fixture(scope="module", params=["mace.pth", "model.ckpt.pt"])
def file(request, folder):
    return str(folder / request.param)


@pytest.fixture(scope="module")
def eager(folder):
    """The same weights in a plain model object."""
    from deepmd.pt.model.model import get_model

    state = torch.load(folder / "model.ckpt.pt", weights_only=True)["model"]
    model = get_model(state["_extra_state"]["model_params"])
    model.load_state_dict(
        {k.removeprefix("model.Default."): v for k, v in state.items() if k.startswith("model.Default.")}
    )
    return model.eval()


FRAMES = {
    "triclinic": random_frame(natoms=14, box_length=6.0, seed=3),
    "cell smaller than r_max": random_frame(natoms=3, box_length=2.9, seed=4, spacing=0.9),
    "dense beyond sel": random_frame(natoms=30, box_length=6.0, seed=5),
    "free": (*random_frame(natoms=9, box_length=5.0, seed=6)[:2], None),
}


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("backend", ["native", "vesin", "auto"])
def test_deep_pot(file, eager, name, backend):
    coord, atype, cell = FRAMES[name]
    outputs = DeepPot(file, nlist_backend=backend).eval(
        coord[None], None if cell is None else cell[None], atype, atomic=True
    )
    box = None if cell is None else torch.tensor(cell[None])
    expected = eager(torch.tensor(coord[None]), torch.tensor(atype[None]), box, do_atomic_virial=True)
    for key, value in zip(("energy", "force", "virial", "atom_energy", "atom_virial"), outputs, strict=True):
        assert_close(value.reshape(-1), expected[key].numpy().reshape(-1), NATIVE["float64"], key)


def test_many_frames(file):
    frames = composition_frames(8, 40, 7, box_length=5.0)
    coord, cell, atype = np.stack([f[0] for f in frames]), np.stack([f[2] for f in frames]), frames[0][1]
    potential = DeepPot(file, auto_batch_size=100)
    together = potential.eval(coord, cell, atype)
    for k in (0, 17, 39):
        alone = potential.eval(coord[k : k + 1], cell[k : k + 1], atype)
        for whole, part in zip(together, alone, strict=True):
            assert_close(whole[k], part[0], NATIVE["float64"])


def test_interface(file):
    potential = DeepPot(file)
    assert potential.get_type_map() == ["O", "H"]
    assert potential.get_rcut() == 4.0
    assert potential.get_ntypes() == 2


def test_frozen_file_needs_no_plugin(folder):
    """Neither this package, nor MACE, nor e3nn: only torch and the host's operators."""
    code = (
        "import sys; [sys.modules.__setitem__(n, None) for n in ('deepmd_gnn', 'mace', 'e3nn')]; "
        "import glob, os, torch, importlib.util; "
        "lib = os.path.join(os.path.dirname(importlib.util.find_spec('deepmd').origin), 'lib', 'libdeepmd_op_pt.so'); "
        "import mpich_preload; torch.ops.load_library(lib); "
        "m = torch.jit.load('mace.pth'); "
        "x = torch.tensor([[[0., 0, 0], [1, 0, 0]]], dtype=torch.float64); "
        "print(m(x, torch.tensor([[0, 1]]))['energy'].item())"
    )
    (folder / "mpich_preload.py").write_text(
        "import ctypes, glob, os, sys\n"
        "ctypes.CDLL(glob.glob(os.path.join(sys.prefix, 'lib', 'libmpi.so.[0-9]*'))[0], ctypes.RTLD_GLOBAL)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert out.returncode == 0, out.stderr
    expected = (
        DeepPot(str(folder / "mace.pth")).eval(np.array([[[0.0, 0, 0], [1, 0, 0]]]), None, [0, 1])[0].item()
    )
    assert float(out.stdout.split()[-1]) == pytest.approx(expected, abs=1e-10)


def test_dp_test(folder, file):
    run_dp(folder, "test", None, "-m", file, "-s", str(folder / "data"), "-n", "6", "-d", "detail")
    energy = np.loadtxt(folder / "detail.e.out")
    force = np.loadtxt(folder / "detail.f.out")
    assert energy.shape == (6, 2)
    assert force.shape == (48, 6)
    coord = np.load(folder / "data/set.000/coord.npy").reshape(6, -1, 3)
    cell = np.load(folder / "data/set.000/box.npy")
    atype = np.loadtxt(folder / "data/type.raw", dtype=int)
    assert_close(energy[:, 1], DeepPot(file).eval(coord, cell, atype)[0].ravel(), 1e-7)


def test_show(folder, file, caplog):
    caplog.set_level("INFO", logger="deepmd")
    with working_directory(folder):
        from deepmd.main import main as dp

        dp(["--pt", "show", file, "type-map", "observed-type", "size", "--log-path", "show.log"])
    text = (folder / "show.log").read_text()
    assert "['O', 'H']" in text
    assert "observed types" in text.lower()


def test_model_deviation(folder, file, tmp_path):
    run_dp(
        folder,
        "model-devi",
        None,
        "-m",
        file,
        str(folder / "mace.pth"),
        "-s",
        str(folder / "data"),
        "-o",
        str(tmp_path / "devi.out"),
    )
    table = np.loadtxt(tmp_path / "devi.out", ndmin=2)
    assert len(table) == 6
    assert np.abs(table[:, 1:]).max() < 1e-9  # the same model twice


def test_change_bias(folder, file, tmp_path):
    suffix = file.rsplit(".", 1)[1]
    out = tmp_path / f"changed.{suffix}"
    run_dp(folder, "change-bias", None, file, "-s", str(folder / "data"), "-o", str(out))
    coord = np.load(folder / "data/set.000/coord.npy").reshape(6, -1, 3)
    cell, label = (
        np.load(folder / "data/set.000/box.npy"),
        np.load(folder / "data/set.000/energy.npy").ravel(),
    )
    atype = np.loadtxt(folder / "data/type.raw", dtype=int)
    before, after = (DeepPot(str(f)).eval(coord, cell, atype) for f in (file, out))
    assert abs((after[0].ravel() - label).mean()) < 1e-6
    np.testing.assert_allclose(after[1], before[1], atol=1e-10)


def test_set_bias(folder, file, tmp_path):
    suffix = file.rsplit(".", 1)[1]
    out = tmp_path / f"set.{suffix}"
    run_dp(folder, "change-bias", None, file, "-b", "-3.0", "-1.0", "-o", str(out))
    energy = DeepPot(str(out)).eval(np.zeros((1, 1, 3)), None, [1])[0]
    assert energy.item() == -1.0


def test_eval_desc(folder, file, eager):
    run_dp(folder, "eval-desc", None, "-m", file, "-s", str(folder / "data"), "-o", "desc")
    found = np.load(next((folder / "desc").rglob("*.npy")))
    coord = torch.tensor(np.load(folder / "data/set.000/coord.npy").reshape(6, -1, 3))
    cell = torch.tensor(np.load(folder / "data/set.000/box.npy"))
    atype = torch.tensor(np.loadtxt(folder / "data/type.raw", dtype=int)).repeat(6, 1)
    expected = eager.forward_embedding(coord, atype, cell)["descriptor"].numpy()
    assert_close(found, expected, 1e-6)


def test_ase_calculator(file):
    from ase import Atoms
    from deepmd.calculator import DP

    coord, atype, cell = FRAMES["triclinic"]
    atoms = Atoms([("O", "H")[t] for t in atype], positions=coord, cell=cell, pbc=True, calculator=DP(file))
    stress = atoms.get_stress(voigt=False)
    h = 1e-4
    for a, b in ((0, 0), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] = strain[b, a] = h / 2 if a != b else h
        energies = []
        for sign in (1, -1):
            strained = atoms.copy()
            strained.calc = atoms.calc
            strained.set_cell(cell @ (np.eye(3) + sign * strain), scale_atoms=True)
            energies.append(strained.get_potential_energy())
        numeric = (energies[0] - energies[1]) / (2 * h) / atoms.get_volume()
        assert stress[a, b] == pytest.approx(numeric, abs=FINITE_DIFFERENCE * max(1.0, np.abs(stress).max()))


def test_dpdata_driver(folder, file):
    import dpdata
    from deepmd.driver import DPDriver  # noqa: F401 - registers the driver

    system = dpdata.System(str(folder / "data"), fmt="deepmd/npy")
    predicted = system.predict(file, driver="dp")
    coord, cell, atype = system["coords"], system["cells"], np.array(system["atom_types"])
    assert_close(predicted["energies"], DeepPot(file).eval(coord, cell, atype)[0].ravel(), NATIVE["float64"])


def test_portable_round_trip(folder, tmp_path):
    """Serialised and rebuilt, the model gives the same numbers."""
    from deepmd.pt.model.model.model import BaseModel

    state = torch.load(folder / "model.ckpt.pt", weights_only=True)["model"]
    from deepmd.pt.model.model import get_model

    model = get_model(state["_extra_state"]["model_params"])
    model.load_state_dict(
        {k.removeprefix("model.Default."): v for k, v in state.items() if k.startswith("model.Default.")}
    )
    twin = BaseModel.deserialize(model.serialize()).eval()
    coord, atype, cell = FRAMES["triclinic"]
    args = torch.tensor(coord[None]), torch.tensor(atype[None]), torch.tensor(cell[None])
    np.testing.assert_array_equal(twin(*args)["force"].numpy(), model.eval()(*args)["force"].numpy())


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing"])
def test_damaged_files_are_refused(folder, tmp_path, damage):
    path = tmp_path / "damaged.pth"
    if damage == "truncated":
        content = (folder / "mace.pth").read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        path.write_text(json.dumps({"not": "a model"}))
    with pytest.raises(
        Exception, match="(?i)zip|archive|not exist|no such file|cannot be opened|PytorchStreamReader"
    ):
        DeepPot(str(path))
