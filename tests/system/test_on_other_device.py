"""The README's commands on a device that does not mix with the CPU: they run there, with the CPU's numbers."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, run_dp
from helpers import tiny_model
from host_device import host_on_other_device
from other_device import DEVICE, to_cpu
from training_data import composition_frames, write_system

from deepmd_gnn import export_native, load_mace
from deepmd_gnn.host import frozen_check
from deepmd_gnn.native.conversion import save_checkpoint

pytestmark = pytest.mark.slow
DEVICES = ("cpu", "other")


@contextlib.contextmanager
def computing_on(device):
    with contextlib.ExitStack() as stack:
        if device == "other":
            stack.enter_context(host_on_other_device(stack.enter_context(pytest.MonkeyPatch.context())))
        yield


def configuration(system, steps, **model):
    """All frames in every batch, so that their order does not matter; validated; statistics from the data."""
    config = base_input([system], [system], steps=steps, batch_size=4)
    config["training"].update(disp_freq=1, disp_avg=False, save_freq=steps)
    config["training"]["validation_data"]["batch_size"] = 4
    config["model"].update(model)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data, and a folder for each device with a model trained there for three steps."""
    root = tmp_path_factory.mktemp("devices")
    system = write_system(root / "data", composition_frames(6, 4, 0, box_length=4.5))
    for device in DEVICES:
        (root / device).mkdir()
        with computing_on(device):
            run_dp(root / device, "train", configuration(system, 3))
    return root, system


def on_both(root, command):
    """Run a function of a folder on both devices."""
    results = []
    for device in DEVICES:
        with computing_on(device):
            results.append(command(root / device))
    return results


def curve(folder):
    return np.loadtxt(folder / "lcurve.out", skiprows=2)


def state(checkpoint):
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    content = content.get("model", content)
    return {name: value.numpy() for name, value in content.items() if name != "_extra_state"}


def assert_same(first, second):
    """Rounding differs: DeePMD-kit asks for a fused optimiser on devices."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        first, second = list(first.values()), list(second.values())
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)


def test_train(trained):
    root, _ = trained
    curves = [curve(root / device) for device in DEVICES]
    assert_same(*curves)
    on_cpu, on_other = (state(root / device / "model.ckpt.pt") for device in DEVICES)
    assert_same(on_cpu, on_other)
    assert on_cpu["model.Default.fitting_net.scale"] != 1.0  # the statistics of the forces
    name = "descriptor.products.0.linear.weight"
    assert not np.allclose(on_cpu[f"model.Default.{name}"], tiny_model().state_dict()[name])


def test_restart(trained):
    root, system = trained

    def restart(folder):
        (folder / "restarted").mkdir()
        arguments = ("--restart", "../model.ckpt.pt")
        run_dp(folder / "restarted", "train", configuration(system, 4), *arguments)
        return curve(folder / "restarted")

    assert_same(*on_both(root, restart))


@pytest.mark.parametrize("elements", [["O", "H"], ["H", "C", "O"]], ids=["same", "others"])
def test_finetune(elements, trained):
    root, system = trained

    def finetune(folder):
        target = folder / "".join(elements)
        target.mkdir()
        config = configuration(system, 1, type_map=elements)
        run_dp(target, "train", config, "--finetune", "../model.ckpt.pt")
        return state(target / "model.ckpt.pt")

    assert_same(*on_both(root, finetune))


def test_change_bias(trained):
    root, system = trained

    def change(folder):
        run_dp(folder, "change-bias", None, "model.ckpt.pt", "-s", system, "-o", "changed.pt")
        return state(folder / "changed.pt")

    on_cpu, on_other = on_both(root, change)
    assert_same(on_cpu, on_other)
    before = state(root / "cpu/model.ckpt.pt")
    assert not np.allclose(on_cpu["model.Default.out_bias"], before["model.Default.out_bias"])


def test_freeze(trained):
    """Frozen on either device and evaluated on either: one file."""
    root, system = trained
    on_both(root, lambda folder: run_dp(folder, "freeze", None, "-o", "frozen.pth"))
    inputs = [np.load(f"{system}/set.000/{name}.npy") for name in ("coord", "box")]
    inputs.append(np.loadtxt(f"{system}/type.raw", dtype=int))
    results = []
    for frozen_on in DEVICES:
        for device in DEVICES:
            with computing_on(device):
                results.append(DeepPot(str(root / frozen_on / "frozen.pth")).eval(*inputs, atomic=True))
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.parametrize("kind", ["checkpoint", "frozen"])
def test_test(kind, trained):
    root, system = trained

    def test(folder):
        name = "model.ckpt.pt"
        if kind == "frozen":
            name = "tested.pth"
            run_dp(folder, "freeze", None, "-o", name)
        run_dp(folder, "test", None, "-m", name, "-s", system, "-d", kind)
        return [np.loadtxt(folder / f"{kind}.{what}.out") for what in ("e", "f", "v")]

    assert_same(*on_both(root, test))


def test_eval_desc(trained):
    root, system = trained

    def evaluate(folder):
        run_dp(folder, "eval-desc", None, "-m", "model.ckpt.pt", "-s", system, "-o", "desc")
        (file,) = (folder / "desc").glob("*.npy")
        return [np.load(file)]

    assert_same(*on_both(root, evaluate))


def test_exportable_trainer(trained):
    root, system = trained

    def train(folder):
        target = folder / "exportable"
        target.mkdir()
        run_dp(target, "train", configuration(system, 2), backend="--pt-expt")
        return state(target / "model.ckpt.pt")

    assert_same(*on_both(root, train))


def test_native_files(trained):
    """To native MACE and back."""
    root, _ = trained

    def there_and_back(folder):
        export_native(folder / "model.ckpt.pt", folder / "native.model")
        save_checkpoint(load_mace(folder / "native.model"), folder / "imported.pt")
        return state(folder / "imported.pt")

    assert_same(*on_both(root, there_and_back))


@pytest.mark.parametrize("change", [0.0, 1e-3])
def test_frozen_file_is_compared_there(change, monkeypatch):
    """A ``.pt2`` is evaluated on the device it is compiled for; the file itself cannot be run here."""
    model = tiny_model()
    data = model.serialize()

    def answer(file, inputs, device):
        assert torch.device(device) == DEVICE
        here = [to_cpu(value) for value in inputs]
        found = model.forward_common_lower_graph(*here, do_atomic_virial=True)
        force = found["energy_derv_r"].squeeze(1) + change
        return {frozen_check.ONE_RANK: {"atom_energy": found["energy"], "force": force}}

    monkeypatch.setattr(frozen_check, "evaluated", answer)
    refused = pytest.raises(RuntimeError, match="gives other numbers") if change else contextlib.nullcontext()
    with computing_on("other"), refused:
        frozen_check.check_file(Path("model.pt2"), data)
