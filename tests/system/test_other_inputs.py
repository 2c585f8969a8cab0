"""A file's weights and an input that is not theirs, through the commands that a user types."""

import json
import logging

import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, run_dp
from helpers import TINY, tiny_model
from training_data import composition_frames, write_system

from deepmd_gnn.native.conversion import save_checkpoint

pytestmark = pytest.mark.slow
ELEMENTS = ["O", "H"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data, a checkpoint and a frozen file of the same weights."""
    root = tmp_path_factory.mktemp("inputs")
    write_system(root / "data", composition_frames(6, 2, 0, box_length=4.5))
    save_checkpoint(tiny_model(seed=9), root / "start.pt")
    run_dp(root, "freeze", None, "-c", "start.pt", "-o", "start.pth")
    return root


def training(folder, **options):
    config = base_input([str(folder / "data")], None, steps=1, lr=1e-14)
    config["model"].update(options)
    return config


@pytest.mark.parametrize("backend", ["--pt", "--pt-expt"])
@pytest.mark.parametrize("start", ["--init-model", "--finetune", "--restart", "--init-frz-model"])
def test_another_architecture_is_refused(folder, tmp_path, start, backend):
    frozen = start == "--init-frz-model"
    if frozen and backend == "--pt-expt":
        pytest.skip("not an option of this backend")
    file = str(folder / ("start.pth" if frozen else "start.pt"))
    message = r"'r_max' is 4.0 in the file and 3.0 in the model section; 'gate' is 'silu' .* and 'tanh'"
    with pytest.raises(ValueError, match=message):
        run_dp(
            tmp_path,
            "train",
            training(folder, r_max=3.0, gate="tanh"),
            start,
            file,
            "--skip-neighbor-stat",
            backend=backend,
        )


@pytest.mark.parametrize("start", ["--init-model", "--init-frz-model"])
def test_reordered_elements_keep_their_energy(folder, tmp_path, start, caplog):
    file = str(folder / ("start.pth" if "frz" in start else "start.pt"))
    with caplog.at_level(logging.WARNING):
        run_dp(tmp_path, "train", training(folder, type_map=["H", "O"]), start, file, "--skip-neighbor-stat")
    assert "from the file's order ['O', 'H'] into ['H', 'O']" in (tmp_path / "train.log").read_text()
    coord, types, cell = composition_frames(8, 1, 900, box_length=5.0)[0]
    before = DeepPot(str(folder / "start.pt")).eval(coord[None], cell[None], types)
    after = DeepPot(str(tmp_path / "model.ckpt.pt")).eval(coord[None], cell[None], 1 - types)
    assert after[0].item() == pytest.approx(before[0].item(), abs=1e-7)
    run_dp(tmp_path, "freeze", None, "-o", "m.pth")
    assert DeepPot(str(tmp_path / "m.pth")).eval(coord[None], cell[None], 1 - types)[
        0
    ].item() == pytest.approx(after[0].item())


def test_a_checkpoint_that_contradicts_itself_is_refused(folder, tmp_path):
    """As older versions wrote it after --init-model with another cutoff: constants and options differ."""
    content = torch.load(folder / "start.pt", weights_only=True)
    content["model"]["_extra_state"]["model_params"]["r_max"] = 3.0
    state = content["model"]
    for name in ("descriptor.options", "fitting_net.options"):
        del state[f"model.Default.{name}"]
    torch.save(content, tmp_path / "model.pt")
    for use in (
        lambda: DeepPot(str(tmp_path / "model.pt")),
        lambda: run_dp(tmp_path, "freeze", None, "-c", "model.pt", "-o", "m.pth"),
        lambda: run_dp(tmp_path, "freeze", None, "-c", "model.pt", "-o", "m.pte", backend="--pt-expt"),
        lambda: run_dp(tmp_path, "change-bias", None, "model.pt", "-b", "1", "2", "-o", "n.pt"),
    ):
        with pytest.raises(ValueError, match=r"'r_max' is 4.0 in the file and 3.0 in the model section"):
            use()


def test_portable_files_are_compared(folder, tmp_path):
    run_dp(tmp_path, "convert-backend", None, str(folder / "start.pth"), "m.yaml")
    text = (tmp_path / "m.yaml").read_text()
    assert "r_max: 4.0" in text
    (tmp_path / "m.yaml").write_text(text.replace("r_max: 4.0", "r_max: 3.0"))
    with pytest.raises(ValueError, match="'r_max' is 4.0 in the file and 3.0 in the model section"):
        run_dp(tmp_path, "convert-backend", None, "m.yaml", "n.pth")


def test_a_new_readout_may_differ(folder, tmp_path):
    """What is not taken from the checkpoint is not compared."""
    config = training(folder, gate="tanh", MLP_irreps="6x0e")
    arguments = ("--finetune", str(folder / "start.pt"), "--skip-neighbor-stat")
    with pytest.raises(ValueError, match="'MLP_irreps' is '4x0e' in the file"):
        run_dp(tmp_path, "train", config, *arguments)
    run_dp(tmp_path, "train", config, *arguments, "--model-branch", "RANDOM")
    assert json.loads((tmp_path / "input.json").read_text())["model"]["r_max"] == TINY["r_max"]
