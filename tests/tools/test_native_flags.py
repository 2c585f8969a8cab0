"""Every flag of native MACE has a fate; calls become inputs that DeePMD-kit accepts, with native's values."""

import re
import runpy

import pytest
from deepmd.utils.argcheck import normalize
from documented import ROOT
from mace.tools.arg_parser import build_default_arg_parser
from training_data import composition_frames, write_system

from deepmd_gnn.config.mace import MaceConfig
from deepmd_gnn.datasets.summary import summarise_folder
from deepmd_gnn.tools.native_flags import ALIASES, FLAGS, is_switch
from deepmd_gnn.tools.native_options import as_list, read_native_options
from deepmd_gnn.tools.native_translation import DEFAULTS, data_arguments, fates_by_kind, translate


def native_actions():
    return [action for action in build_default_arg_parser()._actions if action.dest != "help"]


def test_all_flags_of_native_are_known():
    actions = {action.option_strings[0][2:]: action for action in native_actions()}
    assert FLAGS.keys() == actions.keys()
    assert {name for name, action in actions.items() if action.nargs == 0} == {
        name for name in FLAGS if is_switch(name)
    }
    aliases = {other[2:]: name for name, action in actions.items() for other in action.option_strings[1:]}
    assert aliases == ALIASES


def test_defaults_are_natives():
    actions = {action.option_strings[0][2:]: action.default for action in native_actions()}
    # Native has None for these and sets them later (check_args).
    later = {"num_channels": 128, "max_L": 1}
    assert {name: later.get(name, actions[name]) for name in DEFAULTS} == DEFAULTS


def test_page_is_current():
    page = runpy.run_path(str(ROOT / "docs/make_native_flags.py"))["page"]
    assert (ROOT / "docs/native_flags.md").read_text() == page(), "run python docs/make_native_flags.py"


@pytest.fixture
def data(tmp_path):
    write_system(tmp_path / "data/train", composition_frames(5, 12, 1))
    write_system(tmp_path / "data/valid", composition_frames(5, 3, 2))
    return summarise_folder(tmp_path / "data")


CALL = """mace_run_train --name="a" --train_file=t.xyz --valid_fraction=0.05 --E0s='{1: -1.0, 8: -5.0}' --r_max=4.5 \\
  --hidden_irreps='16x0e + 16x1o' --max_ell 2 --batch_size=4 --lr 0.005 --max_num_epochs=10 --swa --start_swa=8 --ema \\
  --default_dtype=float32 --stage_two_energy_weight=500 --amsgrad --energy_key=dft_energy --pair_repulsion --clip_grad=None"""


def test_a_call(data):
    options = read_native_options(CALL)
    choices, fates = translate(options, data)
    model, loss, training = (choices.values[name] for name in ("model", "loss", "training"))
    assert (model["r_max"], model["hidden_irreps"], model["precision"]) == (4.5, "16x0e + 16x1o", "float32")
    assert model["atomic_energies"] == {"H": -1.0, "O": -5.0}
    assert model["pair_repulsion"] is True
    assert (loss["start_pref_e"], loss["limit_pref_e"], loss["start_pref_f"], loss["start_pref_v"]) == (
        1.0,
        500.0,
        100.0,
        0.0,
    )
    assert "though the data have" in choices.reasons["loss"]["start_pref_v"]
    assert training["numb_steps"] == 10 * 3
    assert training["enable_ema"] is True
    assert training["change_bias_after_training"] is False
    assert training["gradient_max_norm"] == 0.0
    assert choices.values["learning_rate"]["start_lr"] == 0.005
    kinds = {fate.flag: fate.fate for fate in fates}
    assert kinds.keys() == options.keys()
    assert kinds["swa"] == kinds["swa_energy_weight"] == "replaced"
    assert kinds["amsgrad"] == kinds["name"] == "dropped"
    assert kinds["r_max"] == kinds["energy_key"] == "translated"
    assert all(fate.why for fate in fates)
    assert sum(len(members) for _, members in fates_by_kind(fates)) == len(fates)
    settings = normalize(choices.values)
    MaceConfig(**{k: v for k, v in settings["model"].items() if k in MaceConfig.__dataclass_fields__})
    arguments = data_arguments(options)
    assert (arguments["keys"], arguments["valid_fraction"], arguments["seed"]) == (
        {"energy": "dft_energy"},
        0.05,
        123,
    )


def test_defaults_of_a_call(data):
    """What a call does not name is what native does, not our recipe."""
    choices, _ = translate({"train_file": "x.xyz"}, data)
    model = choices.values["model"]
    assert (model["num_channels"], model["max_L"], model["max_ell"], model["precision"]) == (
        128,
        1,
        3,
        "float64",
    )
    assert model["interaction_first"] == "RealAgnosticInteractionBlock"
    assert choices.values["training"]["training_data"]["batch_size"] == 10
    assert choices.values["training"]["numb_steps"] == 2048
    assert choices.values["loss"]["limit_pref_e"] == 1.0


@pytest.mark.parametrize(
    ("options", "section", "key", "value"),
    [
        ({"loss": "virials", "virials_weight": "2"}, "loss", "start_pref_v", 2.0),
        ({"loss": "forces_only"}, "loss", "start_pref_e", 0.0),
        ({"E0s": "average"}, "model", "atomic_energies", "auto"),
        ({"E0s": "e0.json"}, "model", "atomic_energies", "e0.json"),
        ({"scaling": "no_scaling"}, "model", "scale", 1.0),
        ({"std": "0.7"}, "model", "scale", 0.7),
        ({"compute_avg_num_neighbors": "False", "avg_num_neighbors": "9"}, "model", "avg_num_neighbors", 9.0),
        ({"atomic_numbers": "[8, 1]"}, "model", "type_map", ["O", "H"]),
        ({"model": "ScaleShiftMACE"}, "model", "interaction_first", "RealAgnosticResidualInteractionBlock"),
        ({"optimizer": "adamw", "weight_decay": 1e-3}, "optimizer", "weight_decay", 1e-3),
        ({"radial_MLP": "[32, 32]"}, "model", "radial_MLP", [32, 32]),
    ],
)
def test_values(options, section, key, value, data):
    choices, _ = translate(options, data)
    assert choices.values[section][key] == value
    normalize(choices.values)


def test_stress_becomes_a_weight_of_virials(data):
    """(stress error)² · w = (virial error per atom)² · w / (volume per atom)²."""
    choices, _ = translate({"loss": "stress", "stress_weight": 100.0}, data)
    assert choices.values["loss"]["start_pref_v"] == pytest.approx(
        100 / data.train.volume_per_atom**2, rel=1e-3
    )


def test_flags_whose_fate_depends_on_others(data):
    _, fates = translate(
        {"apply_cutoff": "True", "interaction": "RealAgnosticResidualNonLinearInteractionBlock"}, data
    )
    assert fates[0].fate == "replaced"
    _, fates = translate(
        {"virials_weight": 1.0, "avg_num_neighbors": 3.0, "swa_energy_weight": 5.0, "no_such": 1}, data
    )
    assert [fate.fate for fate in fates] == ["dropped", "dropped", "dropped", "unknown"]
    for options, words in (
        ({"model": "PolarMACE"}, "only MACE and ScaleShiftMACE"),
        ({"loss": "dipole"}, "dipoles are not learned"),
        ({"lr": "fast"}, "--lr: 'fast'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            translate(options, data)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lora": "True"}, {"rank": 4, "alpha": 1.0}),
        ({"lora": "True", "lora_rank": "8", "lora_alpha": "2"}, {"rank": 8, "alpha": 2.0}),
        ({"lora": "False", "lora_rank": "8"}, None),
    ],
)
def test_adapters(options, expected, data):
    """Native's defaults; of a foundation only."""
    section = {"type": "mace", "type_map": ["O", "H"], "r_max": 5.0}
    choices, fates = translate({**options, "foundation_model": "x.model"}, data, section)
    assert choices.values["model"].get("adapters") == expected
    assert next(fate for fate in fates if fate.flag == "lora").target == "model.adapters"
    choices, fates = translate(options, data)
    assert "adapters" not in choices.values["model"]
    assert {fate.why for fate in fates} == {"without a foundation model there is nothing to adapt"}


def test_architecture_of_a_foundation_model(data):
    section = {"type": "mace", "type_map": ["O", "H"], "r_max": 6.0, "num_channels": 4}
    choices, fates = translate({"r_max": 4.5, "foundation_model": "x.model"}, data, section)
    assert choices.values["model"] == section
    assert fates[0].fate == "dropped"
    assert fates[0].why == "the foundation model has its own architecture"


def test_files(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "r_max: 5.5\nstage_two: true\nE0s:\n  1: -1.0\ntrain_file: [a.xyz, b.xyz]\n"
    )
    options = read_native_options(str(tmp_path / "a.yaml"))
    assert options == {"r_max": 5.5, "swa": True, "E0s": {1: -1.0}, "train_file": ["a.xyz", "b.xyz"]}
    assert as_list(options["train_file"]) == as_list("['a.xyz', 'b.xyz']") == ["a.xyz", "b.xyz"]
    (tmp_path / "run.sh").write_text(
        f"#!/bin/bash\n# mine\nexport A=1\npython /x/run_train.py --config={tmp_path}/a.yaml --r_max 4 > log\n"
    )
    options = read_native_options(str(tmp_path / "run.sh"))
    assert (options["r_max"], options["swa"]) == ("4", True)
    for text, words in (
        ("nothing.yaml", "no such file"),
        ("echo --", "no flags"),
        ('mace_run_train --a="', "cannot be read as a command line"),
    ):
        with pytest.raises(ValueError, match=words):
            read_native_options(text)
    (tmp_path / "b.yaml").write_text("just words\n")
    with pytest.raises(ValueError, match="is no list of flags"):
        read_native_options(str(tmp_path / "b.yaml"))
