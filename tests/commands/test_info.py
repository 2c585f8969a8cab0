"""`deepmd-gnn info` on real files says what the model in memory says."""

import json
from importlib.metadata import version

import pytest
import torch
from deepmd.main import main as dp
from deepmd_run import base_input, run_dp, working_directory
from helpers import TINY, tiny_model
from lammps_cases import MODELS, STRONG, freeze
from training_data import composition_frames, write_system

from deepmd_gnn import __version__
from deepmd_gnn.cli import main
from deepmd_gnn.files.summary import summarise
from deepmd_gnn.mace import MaceModel

pytestmark = pytest.mark.slow

RICH = {
    "precision": "float32",
    "interaction": "RealAgnosticDensityResidual",
    "radial_type": "gaussian",
    "distance_transform": "Agnesi",
    "pair_repulsion": True,
    "correlation": [2, 1],
    "num_channels": None,
    "max_L": None,
    "hidden_irreps": "4x0e + 4x1o",
    "apply_cutoff": False,
    "type_map": ["H", "C", "O"],
    "atomic_energies": {"H": -1.0, "C": -2.0, "O": -3.0},
}


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    return write_system(tmp_path_factory.mktemp("data") / "a", composition_frames(6, 4, 0, box_length=4.5))


@pytest.fixture(scope="module")
def trained(system, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    config = base_input([system], None, steps=2)
    config["training"].update(enable_ema=True, ema_decay=0.9)
    run_dp(folder, "train", config)
    return folder


def assert_describes(summary, model, head=None):
    """Everything about the model itself equals what the model in memory has."""
    assert summary["head"] == head
    assert summary["type"] == "mace"
    assert summary["type_map"] == model.get_type_map()
    assert summary["r_max"] == model.get_rcut()
    assert summary["precision"] == str(model.energy_model.dtype).removeprefix("torch.")
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert summary["avg_num_neighbors"] == float(model.energy_model.avg_num_neighbors)
    assert summary["scale"] == float(model.energy_model.scale)
    energies = dict(zip(model.get_type_map(), model.out_bias.flatten().tolist(), strict=True))
    assert summary["atomic_energies"] == energies
    config = model.config.to_dict()
    assert summary["architecture"].items() <= config.items()
    assert {"hidden_irreps", "max_ell", "interaction_first", "gate", "pair_repulsion"} <= set(
        summary["architecture"]
    )


def loaded(path, head="Default"):
    """The model of a checkpoint, built anew."""
    state = torch.load(path, weights_only=True)["model"]
    params = state["_extra_state"]["model_params"]
    section = params.get("model_dict", {head: params})[head]
    model = MaceModel(**{key: value for key, value in section.items() if key != "type"})
    prefix = f"model.{head}."
    model.load_state_dict(
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    )
    return model


def test_checkpoint(trained):
    summary = summarise(trained / "model.ckpt.pt")
    assert_describes(summary["models"][0], loaded(trained / "model.ckpt.pt"))
    assert summary["kind"] == "pt"
    assert summary["training"] == {"step": 2, "optimizer": True, "ema_decay": 0.9}
    assert summary["versions"]["deepmd-gnn"] == __version__
    assert summary["size_bytes"] == (trained / "model.ckpt.pt").stat().st_size
    assert summary["atomic_virial"]
    assert not summary["multi_rank"]


def test_ema_checkpoint(trained):
    summary = summarise(trained / "model_ema.ckpt.pt")
    assert_describes(summary["models"][0], loaded(trained / "model_ema.ckpt.pt"))
    assert summary["training"] == {"step": 2, "optimizer": False, "ema_decay": None}


def test_checkpoint_of_the_exportable_backend(system, tmp_path):
    (tmp_path / "input.json").write_text(json.dumps(base_input([system], None, steps=2)))
    with working_directory(tmp_path):
        dp(["--pt-expt", "train", "input.json", "--log-path", "train.log"])
    summary = summarise(tmp_path / "model.ckpt.pt")
    assert_describes(summary["models"][0], loaded(tmp_path / "model.ckpt.pt"))
    assert summary["training"]["step"] == 2


def test_several_heads(system, tmp_path, capsys):
    config = base_input([system], None, steps=1)
    model = {**config["model"], "type_map": "elements"}
    config["model"] = {
        "shared_dict": {"elements": ["O", "H"]},
        "model_dict": {"one": model, "two": {**model, "precision": "float32", "num_channels": 2}},
    }
    loss, training = config.pop("loss"), config["training"]
    data = {"training_data": training.pop("training_data")}
    config["loss_dict"] = {"one": loss, "two": loss}
    training.update(model_prob={"one": 1.0, "two": 1.0}, data_dict={"one": data, "two": data})
    run_dp(tmp_path, "train", config)
    path = tmp_path / "model.ckpt.pt"
    for summary, head in zip(summarise(path)["models"], ("one", "two"), strict=True):
        assert_describes(summary, loaded(path, head), head)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.index("Head one") < out.index("float64") < out.index("Head two") < out.index("float32")


def test_head_of_another_model(tmp_path, capsys):
    model = tiny_model()
    state = {f"model.water.{name}": value for name, value in model.state_dict().items()}
    heads = {
        "water": json.loads(model.model_def_script),
        "dipole": {"type": "dipole", "type_map": ["O", "H"]},
    }
    state["_extra_state"] = {"model_params": {"model_dict": heads}, "train_infos": {}}
    torch.save({"model": state}, tmp_path / "a.pt")
    water, dipole = summarise(tmp_path / "a.pt")["models"]
    assert_describes(water, model, "water")
    assert dipole == {"head": "dipole", "type": "dipole"}
    assert main(["info", str(tmp_path / "a.pt")]) == 0
    out = capsys.readouterr().out
    assert "dipole, not MACE" in out
    assert "Training step        not recorded" in out


def test_frozen_after_training(trained, tmp_path, capsys):
    run_dp(trained, "freeze", None, "-o", str(tmp_path / "mace.pth"))
    capsys.readouterr()
    assert main(["info", str(tmp_path / "mace.pth"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert_describes(summary["models"][0], loaded(trained / "model.ckpt.pt"))
    assert summary["evaluation"] == "TorchScript"
    assert summary["multi_rank"]
    assert summary["training"] is None
    assert summary["versions"]["deepmd-gnn"] == __version__
    for package in ("deepmd-kit", "torch", "mace-torch"):
        assert summary["versions"][package] == version(package)


@pytest.mark.parametrize("suffix", [".pth", ".pte"])
@pytest.mark.parametrize("options", [None, RICH], ids=["plain", "rich"])
def test_frozen(suffix, options, tmp_path, model_files):
    # By way of serialize, so that no section of an input is at hand.
    given = options or {**STRONG, **MODELS["one_layer"]}
    model = MaceModel.deserialize(tiny_model(**given).serialize()).eval()
    if suffix == ".pte" and options is None:
        path = model_files(suffix)["one_layer"]
    else:
        path = tmp_path / f"mace{suffix}"
        freeze(model, path)
    summary = summarise(path)
    assert_describes(summary["models"][0], model)
    assert summary["versions"]["deepmd-gnn"] == __version__
    assert summary["multi_rank"] == (suffix == ".pth")
    evaluation = {".pth": "TorchScript", ".pte": "exported program, edge list (graph)"}
    assert summary["evaluation"] == evaluation[suffix]
    assert summary["atomic_virial"]


def test_text_names_every_unusual_option(tmp_path, capsys):
    freeze(tiny_model(**RICH), tmp_path / "mace.pth")
    assert main(["info", str(tmp_path / "mace.pth")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in (
        "Type map H C O",
        "Layers 2: RealAgnosticDensity, RealAgnosticDensityResidual",
        "Features 4x0e + 4x1o",
        "Correlation 2 1",
        "4 gaussian functions of Agnesi's distance, cutoff power 5",
        "ZBL repulsion yes",
        "Other options apply_cutoff: False",
        "Precision float32",
        "E0 H -1.000000 eV, C -2.000000 eV, O -3.000000 eV",
        f"Written by deepmd-gnn {__version__}, deepmd-kit",
    ):
        assert words in out, words


def test_excluded_types(tmp_path):
    model = tiny_model(pair_exclude_types=[[0, 1]], atom_exclude_types=[1])
    freeze(model, tmp_path / "mace.pth")
    (summary,) = summarise(tmp_path / "mace.pth")["models"]
    assert summary["pair_exclude_types"] == [["O", "H"]]
    assert summary["atom_exclude_types"] == ["H"]


def test_frozen_before_versions_were_recorded(tmp_path):
    """Files of both formats without versions: still read, and still loaded."""
    model = tiny_model()
    serialized = model.serialize()
    del serialized["@versions"]
    again = MaceModel.deserialize(serialized)
    assert torch.equal(again.out_bias, model.out_bias)
    del model.versions
    freeze(model, tmp_path / "mace.pth")
    assert summarise(tmp_path / "mace.pth")["versions"] is None


def test_file_without_its_input(tmp_path, capsys):
    """Converted files may lack the model section: what the weights say is told, the rest is not invented."""
    model = tiny_model()
    model.model_def_script = "{}"
    freeze(model, tmp_path / "mace.pth")
    (summary,) = summarise(tmp_path / "mace.pth")["models"]
    assert summary["architecture"] is None
    assert summary["r_max"] == TINY["r_max"]
    assert summary["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert main(["info", str(tmp_path / "mace.pth")]) == 0
    assert "Architecture       not recorded" in capsys.readouterr().out


def test_wrong_suffix_is_noticed(trained, tmp_path, capsys):
    """DeePMD-kit goes by the suffix, so a renamed file fails elsewhere with a message about something else."""
    path = tmp_path / "mace.pth"
    path.write_bytes((trained / "model.ckpt.pt").read_bytes())
    assert main(["info", str(path)]) == 0
    assert "name this file .pt, not .pth" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pth", ".pte"])
def test_damaged_file(suffix, tmp_path, capsys, model_files):
    path = tmp_path / f"mace{suffix}"
    content = model_files(suffix)["one_layer"].read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert main(["info", str(path)]) == 1
    assert f"{path}: is a truncated archive" in capsys.readouterr().err
