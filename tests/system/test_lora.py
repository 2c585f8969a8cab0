"""Fine-tuning with adapters of low rank, as a user runs it: both trainers, a restart, and a frozen file."""

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, run_dp
from helpers import tiny_model
from training_data import composition_frames, write_system

from deepmd_gnn.native.conversion import save_checkpoint

pytestmark = pytest.mark.slow
KEY = "model.Default."
# Compiled in seconds.
SMALL = {"max_L": 0, "max_ell": 1, "correlation": 1, "num_interactions": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("lora")
    write_system(root / "data", composition_frames(6, 4, 0, box_length=4.5))
    save_checkpoint(tiny_model(seed=9, **SMALL), root / "start.pt")
    return root


def training(folder, steps, **settings):
    config = base_input([str(folder / "data")], None, steps=steps, lr=0.01)
    config["model"] |= {**SMALL, "lora": {"rank": 2}}
    config["training"] |= {"save_freq": steps, "disp_freq": 1, "seed": 1, **settings}
    return config


def tensors(path):
    return torch.load(path, weights_only=True)["model"]


@pytest.mark.parametrize(
    ("backend", "settings"),
    [("--pt", {}), ("--pt-expt", {}), ("--pt-expt", {"enable_compile": True})],
    ids=["pt", "pt_expt", "compiled"],
)
def test_fine_tuning(backend, settings, folder, tmp_path, monkeypatch):
    """Only adapted weights change; whoever reads the checkpoint has them whole; a restart goes on with the adapters."""
    # The compiled step up to the C++ code of its kernels, which takes most of a minute: see test_exportable_workflow.py.
    compiler, graphs = torch.compile, []

    def without_code(graph, *, backend, dynamic, options):
        graphs.append(graph)
        return compiler(graph, backend="aot_eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", without_code)
    config = training(folder, 2, **settings)
    run_dp(tmp_path, "train", config, "--finetune", str(folder / "start.pt"), backend=backend)
    assert bool(graphs) == bool(settings)
    before, after = tensors(folder / "start.pt"), tensors(tmp_path / "model.ckpt.pt")
    adapted = [name for name in after if name.startswith(f"{KEY}adapters.right")]
    assert adapted
    changed = {
        name
        for name in before
        if torch.is_tensor(before[name]) and not torch.equal(before[name], after[name])
    }
    left = {name for name in changed if name.endswith(".weight")}
    assert left
    for name in left:
        key = name.removeprefix(KEY).split(".", 1)[1].removesuffix(".weight").replace(".", "-")
        assert f"{KEY}adapters.right.{key}" in adapted
    if settings:  # to compile once is enough
        return
    config = training(folder, 3, **settings)
    run_dp(tmp_path, "train", config, "--restart", "model.ckpt.pt", backend=backend)
    again = tensors(tmp_path / "model.ckpt.pt")
    for name in adapted:
        assert torch.equal(*(values[name.replace("right", "base")] for values in (after, again)))
        assert not torch.equal(after[name], again[name])


def test_frozen(folder, tmp_path):
    """The frozen file knows nothing of adapters and has the checkpoint's numbers; so has a plain model that goes on."""
    run_dp(tmp_path, "train", training(folder, 2), "--init-model", str(folder / "start.pt"))
    run_dp(tmp_path, "freeze", None, "-c", "model.ckpt.pt", "-o", "x.pth")
    frozen = torch.jit.load(str(tmp_path / "x.pth"))
    assert not [name for name, _ in frozen.named_parameters() if "adapters" in name]
    rng = np.random.default_rng(1)
    coord, cell, kinds = rng.random((1, 18)) * 4.5, np.eye(3).reshape(1, 9) * 4.5, [0, 1, 0, 1, 1, 0]
    results = [DeepPot(str(tmp_path / name)).eval(coord, cell, kinds) for name in ("x.pth", "model.ckpt.pt")]
    for frozen_value, value in zip(*results, strict=True):
        np.testing.assert_allclose(frozen_value, value, rtol=0, atol=1e-11)  # the file reads radial tables
    start = DeepPot(str(folder / "start.pt")).eval(coord, cell, kinds)
    assert abs(start[1] - results[0][1]).max() > 1e-6
    config = training(folder, 1)
    del config["model"]["lora"]
    config["learning_rate"] |= {"start_lr": 1e-14, "stop_lr": 1e-15}
    config["training"] |= {"save_ckpt": "plain"}
    run_dp(tmp_path, "train", config, "--init-model", "model.ckpt.pt")
    assert not [name for name in tensors(tmp_path / "plain.pt") if "adapters" in name]
    plain = DeepPot(str(tmp_path / "plain.pt")).eval(coord, cell, kinds)
    np.testing.assert_allclose(plain[1], results[0][1], rtol=0, atol=1e-9)


def test_from_scratch_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="--finetune or --init-model"):
        run_dp(tmp_path, "train", training(folder, 1))
