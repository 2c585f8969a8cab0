"""Files of the package nequip 0.6: converted to its numbers, nothing executed, named where something is not possible here."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from documented import ROOT
from helpers import assert_close, our_results
from tolerances import NATIVE

from deepmd_gnn import convert, load_mace
from deepmd_gnn.cli import main
from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.files.native_file import NotConvertible
from deepmd_gnn.files.nequip_package import UNREADABLE, read_package_file
from deepmd_gnn.native.description import HeadError
from deepmd_gnn.native.heads import convert_heads
from deepmd_gnn.native.nequip_weights import build, check_weights
from deepmd_gnn.native.package_nequip import describe_package, load_package_nequip
from deepmd_gnn.nequip import NequipModel

DATA = ROOT / "tests/data/nequip/files"
SOURCES = {"trained": DATA / "trained", "deployed": DATA / "deployed.pth"}
EXACT = NATIVE["float64"]


def assert_package_numbers(model, name):
    with np.load(DATA / "reference.npz") as file:
        frame = {key: file[f"frame/{key}"] for key in ("coord", "atype", "cell")}
        types = [model.get_type_map().index(["O", "H"][kind]) for kind in frame["atype"]]
        found = our_results(model, frame["coord"], types, frame["cell"])
        for key in ("energy", "force"):
            assert_close(found[key], file[f"{name}/{key}"], EXACT, key)


@pytest.mark.parametrize("name", SOURCES)
def test_numbers_of_the_package(name):
    """Both non-linearities, with and without self-connection and normalisation; statistics of the data and given ones."""
    model, head = load_package_nequip(SOURCES[name])
    assert isinstance(model, NequipModel)
    assert (model.type_map, head) == (["H", "O"], "Default")
    assert_package_numbers(model, name)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
def test_converted_file_has_them(suffix, tmp_path, capsys):
    output = tmp_path / f"new{suffix}"
    assert main(["convert", str(SOURCES["trained"]), "-o", str(output), "--elements", "O,H"]) == 0
    assert "from best_model.pth, head Default, sha256" in capsys.readouterr().out
    if suffix == ".pth":
        model = torch.jit.load(output)
    else:
        section = json.loads((tmp_path / "new.json").read_text())["model"]
        assert section["type"] == "nequip"
        assert section["avg_num_neighbors"] == pytest.approx(9.2777777777)
        state = torch.load(output, weights_only=True)["model"]
        model = NequipModel(**{key: value for key, value in section.items() if key != "type"})
        model.load_state_dict(
            {k.removeprefix("model.Default."): v for k, v in state.items() if "_extra" not in k}
        )
        model.eval()
    assert_package_numbers(model, "trained")


def test_choices():
    model, _ = load_package_nequip(SOURCES["trained"], elements=["O"], precision="float32", sel=7)
    assert (model.type_map, model.config.precision, model.sel) == (["O"], "float32", 7)
    with pytest.raises(ValueError, match="'precision' is 'float16'"):
        load_package_nequip(SOURCES["trained"], precision="float16")
    with pytest.raises(HeadError, match="no head 'b'"):
        load_package_nequip(SOURCES["trained"], head="b")
    assert load_package_nequip(ROOT / "tests/data/plugin/0.2.0_nequip.pt") is None
    with pytest.raises(NotConvertible, match="is a model of nequip 0.6: .deepmd-gnn convert. "):
        load_mace(SOURCES["deployed"])


def test_weights_that_are_built():
    """E0 is the package's shift and what its network gives a lone atom, and the plugin's own shift besides."""
    file = read_package_file(SOURCES["trained"])
    description = describe_package(file)
    config = NequipConfig(**description.options, seed=1)
    check_weights("FILE", file.state, 2, config)
    models = [
        build(file.state, shifts, ["H", "O"], config, None) for shifts in (None, torch.tensor([1.0, -2.0]))
    ]
    lone = models[0].energy_model.lone_energies()
    given = torch.tensor([description.options["atomic_energies"][name] for name in "HO"], dtype=torch.float64)
    assert_close(models[0].get_out_bias().flatten().numpy(), (given + lone).detach().numpy(), EXACT)
    moved = models[1].get_out_bias() - models[0].get_out_bias()
    assert_close(moved.flatten().numpy(), np.array([1.0, -2.0]), EXACT)
    with pytest.raises(NotConvertible, match="FILE: what the file says of itself does not fit"):
        check_weights("FILE", file.state, 3, config)


def test_one_head(tmp_path):
    with pytest.raises(NotConvertible, match="has one head"):
        convert_heads(SOURCES["deployed"], tmp_path / "new.pt")


@pytest.mark.parametrize(("name", "words"), [("trained", "weights of a training"), ("deployed", "deployed")])
def test_info(name, words, capsys):
    assert main(["info", str(SOURCES[name])]) == 0
    shown = capsys.readouterr().out
    assert f"model of the package nequip 0.6.2, {words}" in shown
    assert "Type map             H O" in shown
    assert "deepmd-gnn convert " in shown


def copied(tmp_path, change=None, weights=None):
    """The folder of the training with another configuration and other weights."""
    folder = shutil.copytree(SOURCES["trained"], tmp_path / "training")
    config = read_package_file(folder).config
    if change is not None:
        config.update(change)
        (folder / "config.yaml").write_text(
            yaml.safe_dump({key: value for key, value in config.items() if value != "REMOVED"})
        )
    if weights is not None:
        state = torch.load(folder / "best_model.pth", weights_only=True)
        state.update(weights)
        torch.save(state, folder / "best_model.pth")
    return folder


BUILDERS = ["SimpleIrrepsConfig", "EnergyModel", "PerSpeciesRescale", "ForceOutput", "RescaleEnergyEtc"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resnet": True}, "'resnet' is True and not False"),
        ({"nonlinearity_scalars": {"e": "ssp", "o": "tanh"}}, "'nonlinearity_scalars' is .*ssp"),
        ({"nonlinearity_gates": {"e": "abs"}}, "'nonlinearity_gates' is .*abs"),
        ({"edge_sh_normalize": False}, "'edge_sh_normalize' is False"),
        ({"model_builders": [*BUILDERS, "PairPotential"]}, "model_builders have 'PairPotential'"),
        ({"model_builders": None}, "model_builders are None"),
        (
            {"layer1_convnet_invariant_neurons": 4},
            "the option 'layer1_convnet_invariant_neurons' .4. of a part",
        ),
        ({"BesselBasis_num_basis": 4}, "the option 'BesselBasis_num_basis'"),
        ({"feature_irreps_hidden": "4x0e + 2x1o"}, "feature_irreps_hidden.*one multiplicity"),
        ({"nequip_version": "0.7.1"}, "was written by nequip 0.7.1; files of nequip 0.6"),
        ({"type_names": ["H", "Water"], "type_to_chemical_symbol": None}, "has the types .*Water"),
        (
            {"type_names": ["H", "O", "C"], "num_types": 3},
            "per_species_rescale has 2 values, but there are 3 elements",
        ),
        ({"avg_num_neighbors": "auto"}, "lacks a number as avg_num_neighbors"),
        ({"avg_num_neighbors": "REMOVED"}, "lacks a number as avg_num_neighbors"),
        ({"r_max": "REMOVED"}, "lacks r_max"),
        ({"num_layers": 10**9}, "2 layers, but num_layers asks for 1000000000"),
        (
            {"invariant_neurons": "REMOVED", "invariant_layers": 3},
            "3 layers, but invariant_layers asks for 4",
        ),
        ({"use_sc": False}, "weights 'layer0_convnet.conv.sc.weight', which it should not have"),
        ({"nonlinearity_type": "norm"}, "ask for"),
    ],
)
def test_refused(change, words, tmp_path, capsys):
    folder = copied(tmp_path, change)
    with pytest.raises(NotConvertible, match=words):
        convert(folder, tmp_path / "new.pt")
    assert not (tmp_path / "new.pt").exists()
    assert main(["info", str(folder)]) == 0
    assert "Convertible          no: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"model.shift_by": torch.tensor(2.5)}, "global_rescale_shift adds 2.5 eV to every structure"),
        (
            {"model.model.func.per_species_rescale.scales": torch.tensor([1.0, 2.0])},
            "scales differ between the elements",
        ),
        (
            {"model.model.func.pair_potential.qqr2exesquare": torch.ones(1)},
            "weights 'pair_potential.qqr2exesquare', which it should not have",
        ),
    ],
)
def test_refused_weights(weights, words, tmp_path):
    with pytest.raises(NotConvertible, match=words):
        convert(copied(tmp_path, weights=weights), tmp_path / "new.pt")


def test_the_weights_are_not_written_over(tmp_path):
    """The folder stands for a file in it."""
    folder = copied(tmp_path)
    weights = (folder / "best_model.pth").read_bytes()
    with pytest.raises(ValueError, match="best_model.pth"):
        convert(folder, folder / "best_model.pth")
    assert (folder / "best_model.pth").read_bytes() == weights


def test_values_that_are_objects_of_python(tmp_path):
    """Nothing is divided where the number is null; what cannot be read is not taken for that."""
    folder = copied(tmp_path)
    text = (folder / "config.yaml").read_text()
    line = next(part for part in text.splitlines() if part.startswith("avg_num_neighbors:"))
    for value, possible in (("null", True), ("!!python/tuple [1.0]", False)):
        (folder / "config.yaml").write_text(text.replace(line, f"avg_num_neighbors: {value}"))
        file = read_package_file(folder)
        if possible:
            assert describe_package(file).options["avg_num_neighbors"] == 1.0
        else:
            with pytest.raises(NotConvertible, match="lacks a number as avg_num_neighbors"):
                describe_package(file)


def test_nothing_is_executed(tmp_path):
    """Objects of Python in the configuration and in the weights are no values."""
    target = tmp_path / "ran"
    folder = copied(tmp_path)
    bad = f"\nseed: !!python/object/apply:os.system ['touch {target}']\n"
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text().replace("\nseed: 1\n", bad))
    assert read_package_file(folder).config["seed"] == UNREADABLE

    class Bad:
        def __reduce__(self):
            return (open, (str(target), "w"))

    state = torch.load(folder / "best_model.pth", weights_only=True)
    torch.save({**state, "more": Bad()}, folder / "best_model.pth")
    assert describe_package(read_package_file(folder)).type_map == ["H", "O"]
    assert not target.exists()
