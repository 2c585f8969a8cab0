"""Files of the other plugin deepmd-gnn (0.1 and 0.2): converted to its numbers, named by every command, nothing executed."""

import json
import zipfile

import numpy as np
import pytest
import torch
from deepmd.pt.model.model import get_model
from documented import ROOT
from tolerances import IMPORTED

from deepmd_gnn import convert, load_mace
from deepmd_gnn.cli import main
from deepmd_gnn.files.archives import FileError
from deepmd_gnn.files.backend_guard import check_file
from deepmd_gnn.files.native_file import NotConvertible
from deepmd_gnn.files.plugin_file import read_plugin_file
from deepmd_gnn.native.description import HeadError
from deepmd_gnn.native.plugin import describe_plugin
from deepmd_gnn.native.plugin_nequip import load_plugin_nequip
from deepmd_gnn.native.summary import summarise_plugin
from deepmd_gnn.nequip import NequipModel

DATA = ROOT / "tests/data/plugin"
FILES = sorted(path.name for path in DATA.glob("*.pt*"))
NEQUIP = [name for name in FILES if "nequip" in name]
# eV, eV/Å: rounding of single precision, in which the plugin computes all of it.
SINGLE = 1e-6


def results(model, cell):
    with np.load(DATA / "reference.npz") as file:
        coord, box = torch.tensor(file["coord"]), torch.tensor(file["box"])
    types = ["O", "H", "H"] + (["OW", "HW", "HW"] if "OW" in model.type_map else ["O", "H", "H"]) * 2
    atype = torch.tensor([[model.type_map.index(name) for name in types]] * len(coord))
    found = model(coord, atype, box if cell else None)
    return {key: found[key].detach().numpy().ravel() for key in ("energy", "force", "virial")}


def assert_plugins_numbers(model, name):
    with np.load(DATA / "reference.npz") as file:
        for cell, prefix in ((True, ""), (False, "free_")):
            for key, value in results(model, cell).items():
                expected = file[f"{name}/{prefix}{key}"].ravel()
                single = max(SINGLE, np.finfo(np.float32).eps * np.abs(expected).max())  # of the whole energy
                limit = single if "float32" in name else IMPORTED[key]
                assert np.abs(value - expected).max() < limit, (key, prefix)


@pytest.mark.parametrize("name", [name for name in FILES if name not in NEQUIP])
def test_numbers_of_the_plugin(name, caplog):
    """Also of MM types (DPRc), ZBL, Agnesi's transform, another gate, ``std``: energies, forces and virials with and without cell."""
    model = load_mace(DATA / name)
    assert_plugins_numbers(model, name)
    assert float(model.energy_model.avg_num_neighbors) == {"0.2.0_float32.pt": 8.0}.get(name, 20.0)  # its sel
    assert model.config.apply_cutoff
    assert "nearest neighbours of each atom (sel)" in caplog.text


@pytest.mark.parametrize("name", ["0.2.0_zbl.pt", "0.1.4.pth"])
def test_converted_checkpoint_keeps_numbers(name, tmp_path, capsys):
    assert main(["convert", str(DATA / name), "-o", str(tmp_path / "new.pt")]) == 0
    assert f"from {name}, head Default" in capsys.readouterr().out
    content = torch.load(tmp_path / "new.pt", weights_only=True)["model"]
    model = load_mace(DATA / name)
    model.load_state_dict(
        {k.removeprefix("model.Default."): v for k, v in content.items() if "_extra" not in k}
    )
    assert_plugins_numbers(model, name)
    assert json.loads((tmp_path / "new.json").read_text())["model"]["avg_num_neighbors"] == 20.0


@pytest.mark.parametrize("name", NEQUIP)
def test_numbers_of_its_nequip(name, tmp_path, caplog):
    """Both non-linearities, with and without parity and self-connection, fixed Bessel functions, MM types; by a checkpoint."""
    convert(DATA / name, tmp_path / "new.pt")
    assert "nearest neighbours of each atom (sel)" in caplog.text
    state = torch.load(tmp_path / "new.pt", weights_only=True)["model"]
    model = get_model(dict(state["_extra_state"]["model_params"]))
    model.load_state_dict(
        {k.removeprefix("model.Default."): v for k, v in state.items() if "_extra" not in k}
    )
    model.eval()
    assert isinstance(model, NequipModel)
    assert_plugins_numbers(model, name)
    assert float(model.energy_model.avg_num_neighbors) == {"0.2.0_nequip_float32.pth": 16.0}.get(name, 20.0)
    assert json.loads((tmp_path / "new.json").read_text())["model"]["type"] == "nequip"


def test_nequip_with_another_order_and_in_double_precision():
    name = "0.2.0_nequip_mm.pth"
    model, head = load_plugin_nequip(DATA / name, elements=["HW", "H", "O", "OW"])
    assert (model.type_map, head) == (["HW", "H", "O", "OW"], "Default")
    assert_plugins_numbers(model, name)
    name = "0.2.0_nequip_float32.pth"
    model, _ = load_plugin_nequip(DATA / name, precision="float64", sel=7)
    assert (model.config.precision, model.sel) == ("float64", 7)
    assert_plugins_numbers(model, name)
    assert load_plugin_nequip(DATA / "0.1.0.pt") is None
    with pytest.raises(NotConvertible, match="is a NequIP model of deepmd-gnn 0.x"):
        load_mace(DATA / name)


def test_info_of_nequip(capsys):
    assert main(["info", str(DATA / "0.2.0_nequip_mm.pth")]) == 0
    shown = capsys.readouterr().out
    assert "(deepmd-gnn 0.x, frozen model, nequip)" in shown
    assert "the root of 20 (avg_num_neighbors)" in shown
    assert "2, norm" in shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, params: params.pop("irreps_edge_sh") and None, "has not got irreps_edge_sh"),
        (lambda _, params: params.update(sel="auto"), "has not got a number as sel"),
        (lambda state, _: state.update({"model.Default.e0": torch.zeros(3)}), "has not got e0 of its types"),
        (lambda _, params: params.update(feature_irreps_hidden="4x0e + 2x1o"), "one multiplicity"),
        (lambda _, params: params.update(num_layers=10**9), "2 layers, but num_layers asks for 1000000000"),
        (
            lambda _, params: params.update(invariant_layers=10**9),
            "3 layers, but invariant_layers asks for 1000000001",
        ),
        (lambda _, params: params.update(num_basis=5), "num_basis.* ask for"),
        (
            lambda state, _: state.update({"model.Default.model.model.zbl.weight": torch.ones(2)}),
            "weights 'zbl.weight', which it should not have",
        ),
    ],
)
def test_refused_nequip(change, words, tmp_path, capsys):
    path = changed(tmp_path, change, "0.2.0_nequip.pt")
    with pytest.raises(NotConvertible, match=words):
        convert(path, tmp_path / "new.pt")
    assert not (tmp_path / "new.pt").exists()
    assert main(["info", str(path)]) == 0
    assert "Convertible          no: " in capsys.readouterr().out


def test_frozen_file_and_checkpoint_say_the_same():
    """The options of a checkpoint are from its input, those of a frozen file from its modules."""
    (_, kept), (_, frozen) = (
        describe_plugin(name, read_plugin_file(DATA / name), None) for name in ("0.1.0.pt", "0.1.4.pth")
    )
    for key, value in {**kept.options, "correlation": [2, 2]}.items():
        if key != "atomic_energies":  # fitted by two versions
            assert frozen.options[key] == value, key
    assert frozen.neighbors == kept.neighbors == [20.0, 20.0]


def test_fewer_types():
    model = load_mace(DATA / "0.2.0_mm.pth", elements=["HW", "O", "H", "OW"])
    assert model.type_map == ["HW", "O", "H", "OW"]
    assert_plugins_numbers(model, "0.2.0_mm.pth")


@pytest.mark.parametrize(("name", "kind"), [("0.1.0.pt", "checkpoint"), ("0.2.0_mm.pth", "frozen model")])
def test_commands_name_it(name, kind, capsys):
    assert main(["info", str(DATA / name)]) == 0
    shown = capsys.readouterr().out
    assert f"model of another plugin (deepmd-gnn 0.x, {kind}, mace)" in shown
    assert "20 (avg_num_neighbors)" in shown
    assert f"deepmd-gnn convert {name} -o " in shown
    assert main(["check", str(DATA / name)]) == 1
    refused = capsys.readouterr().err
    assert (
        f"is a {kind} of deepmd-gnn 0.x, the other plugin of this name, and intact. Convert it first"
        in refused
    )
    assert "damaged" not in refused
    with pytest.raises(FileError, match="mace model: .*the other plugin of this name"):
        check_file(DATA / name)  # what dp loads


def changed(tmp_path, change, name="0.1.0.pt"):
    """A checkpoint with another content."""
    content = torch.load(DATA / name, weights_only=True)
    content = change(content["model"], content["model"]["_extra_state"]["model_params"]) or content
    torch.save(content, tmp_path / "x.pt")
    return tmp_path / "x.pt"


def test_branches(tmp_path):
    def two(state, params):
        weights = {k: v for k, v in state.items() if k.startswith("model.Default.")}
        both = {f"model.{head}.{k[14:]}": v.clone() for head in "ab" for k, v in weights.items()}
        both["model.b.model.atomic_energies_fn.atomic_energies"] += 1
        return {
            "model": {**both, "_extra_state": {"model_params": {"model_dict": {"a": params, "b": params}}}}
        }

    path = changed(tmp_path, two)
    first, second = (results(load_mace(path, head=head), True)["energy"] for head in "ab")
    np.testing.assert_allclose(second - first, 9, rtol=1e-12)
    with pytest.raises(HeadError, match=r"2 branches: a, b. Choose one with --head"):
        convert(path, tmp_path / "new.pt")
    with pytest.raises(HeadError, match="no branch 'c'"):
        load_mace(path, head="c")
    assert summarise_plugin(path)["heads"] == ["a", "b"]


def test_exclusions_that_it_does_not_obey(tmp_path, caplog):
    path = changed(tmp_path, lambda _, params: params.update(pair_exclude_types=[[0, 1]]))
    model = load_mace(path)
    assert model.pair_exclude_types == []
    assert "has pair_exclude_types, which deepmd-gnn 0.x does not obey" in caplog.text


def cueq(state, params):
    state["model.Default.model.products.0.symmetric_contractions.weight"] = torch.ones(2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, params: params.update(type="nequip"), "has not got num_layers, .* which NequIP models of"),
        (
            lambda _, params: params.update(type="mace and x"),
            "is a model of type mace and x of deepmd-gnn 0.x",
        ),
        (lambda _, params: params.update(sel="auto"), "has sel = 'auto'.*freeze the checkpoint there"),
        (lambda _, params: params.update(type_map=["O"]), "names 1 types, but has weights of 2"),
        (lambda _, params: params.update(max_ell=3), "does not fit its weights"),
        (lambda state, _: state.pop("model.Default.model.scale_shift.scale") * 0 and None, "Not converted"),
        (cueq, "cuEquivariance's layout"),
    ],
)
def test_refused(change, words, tmp_path, capsys):
    path = changed(tmp_path, change)
    with pytest.raises(NotConvertible, match=words):
        convert(path, tmp_path / "new.pt")
    assert not (tmp_path / "new.pt").exists()
    if "fit" not in words:  # info does not build a network
        assert main(["info", str(path)]) == 0
        assert "Convertible          no: " in capsys.readouterr().out


def test_damaged_is_called_damaged(tmp_path, capsys):
    data = bytearray((DATA / "0.1.0.pt").read_bytes())
    with zipfile.ZipFile(DATA / "0.1.0.pt") as archive:
        largest = max(archive.infolist(), key=lambda member: member.compress_size)
    data[largest.header_offset + 200] ^= 1
    (tmp_path / "x.pt").write_bytes(data)
    assert main(["convert", str(tmp_path / "x.pt"), "-o", str(tmp_path / "new.pt")]) == 1
    assert "is damaged" in capsys.readouterr().err
