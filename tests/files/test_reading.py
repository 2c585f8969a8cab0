"""What is read from files of every kind without running what they hold."""

import io
import json
import os
import sys
import zipfile
from types import ModuleType

import numpy as np
import pytest
import torch

from deepmd_gnn.files import import_order, opening
from deepmd_gnn.files.archives import FileError, opened
from deepmd_gnn.files.import_order import allow_e3nn_constants, import_mace, is_importing_model
from deepmd_gnn.files.model_files import ModelFileError, file_kind, read_model_file
from deepmd_gnn.files.native_file import (
    NativeModule,
    NotConvertible,
    irreps_of,
    irreps_text,
    read_native,
    refuse,
)
from deepmd_gnn.files.programs import check_program
from deepmd_gnn.files.safe_pickle import TorchFile

SECTION = {"type": "mace", "type_map": ["O", "H"], "r_max": 4.0}
FLAG = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def archive(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(f"m/{name}", content if isinstance(content, bytes | str) else json.dumps(content))
    return path


# --- model files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [["Default"], ["water", "ice"]])
def test_checkpoints(heads, tmp_path):
    """Weights of each branch under the names of the model, with what the trainer noted."""
    many = len(heads) > 1
    sections = {name: {**SECTION, "info": {"versions": {"torch": "2.11"}}} for name in heads}
    extra = {
        "model_params": {"model_dict": sections} if many else sections["Default"],
        "train_infos": {"step": 12},
    }
    state = {"_extra_state": extra}
    for number, name in enumerate(heads):
        state[f"model.{name}.descriptor.w"] = torch.full((2, 3), float(number))
        state[f"model.{name}.out_bias"] = torch.zeros(1)
    torch.save({"model": state, "ema": {"decay": 0.9}}, tmp_path / "m.pt")
    found = read_model_file(tmp_path / "m.pt")
    assert found.kind == "pt"
    assert found.training == {"step": 12, "optimizer": False, "ema_decay": 0.9}
    assert found.versions == {"torch": "2.11"}
    assert [model.head for model in found.models] == (heads if many else [None])
    for number, model in enumerate(found.models):
        assert model.section["r_max"] == 4.0
        assert model.state.keys() == {"energy_model.w", "out_bias"}
        np.testing.assert_array_equal(model.state["energy_model.w"], np.full((2, 3), number))


class Frozen(torch.nn.Module):
    def __init__(self, script):
        super().__init__()
        self.model_def_script = script
        self.versions = {"torch": "2.11"}
        self.energy_model = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.energy_model(x)


def test_torchscript(tmp_path):
    model = Frozen(json.dumps(SECTION))
    torch.jit.script(model).save(str(tmp_path / "m.pth"))
    found = read_model_file(tmp_path / "m.pth")
    assert (found.kind, found.versions) == ("pth", {"torch": "2.11"})
    assert found.models[0].section == SECTION
    np.testing.assert_array_equal(
        found.models[0].state["energy_model.weight"], model.energy_model.weight.detach().numpy()
    )


def exported(variables):
    return {
        "data/aotinductor/model/x.so": b"",
        "extra/metadata.json": {"do_atomic_virial": True, "has_comm_artifact": True},
        "extra/model.json": {"model": {**SECTION, "@variables": variables, "@kernels": {"tables": []}}},
        "extra/forward_lower_with_comm.pt2": b"",
        "x/.wrapper_metadata.json": {"AOTI_DEVICE_KEY": "cpu"},
    }


def test_compiled_files(tmp_path):
    members = exported({"descriptor.w": {"value": [[1.0, 2.0]], "dtype": "float32"}})
    members.pop("extra/forward_lower_with_comm.pt2")
    found = read_model_file(archive(tmp_path / "m.pt2", members))
    assert (found.kind, found.with_comm, found.compiled_for) == ("pt2", False, {"AOTI_DEVICE_KEY": "cpu"})
    assert found.metadata["do_atomic_virial"]
    assert found.kernels == {"tables": []}
    assert found.models[0].section == SECTION
    weight = found.models[0].state["energy_model.w"]
    assert weight.dtype == np.float32
    assert weight.tolist() == [[1.0, 2.0]]


def test_values_of_other_types_are_refused(tmp_path):
    """A single one can have any size."""
    members = exported({"w": {"value": "x", "dtype": "U1000000000"}})
    members.pop("extra/forward_lower_with_comm.pt2")
    with pytest.raises(ModelFileError, match=r"m.pt2: looks like a .*compiled.*values of type 'U1000000000'"):
        read_model_file(archive(tmp_path / "m.pt2", members))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["data.pkl", "constants.pkl"], "pth"),
        (["data.pkl"], "pt"),
        (["models/model.json", "data.pkl"], "pte"),
        (["data/aotinductor/a", "models/model.json"], "pt2"),
        (["notes.txt"], None),
    ],
)
def test_kinds_are_told_by_the_content(names, kind, tmp_path):
    with opened(archive(tmp_path / "m", dict.fromkeys(names, "x"))) as file:
        if kind is not None:
            assert file_kind(file) == kind
            return
        with pytest.raises(ModelFileError, match="is a zip archive, but not a PyTorch one"):
            file_kind(file)


# --- programs ---------------------------------------------------------------------------------------------------


def tensor_table(**entry):
    return {"config": {"w": {"use_pickle": False, "path_name": "weight_0", **entry}}}


def saved(content, tmp_path):
    torch.save(content, tmp_path / "part")
    return (tmp_path / "part").read_bytes()


def looked_at(path):
    with opened(path) as file:
        check_program(file)


def test_programs_of_plain_tensors(tmp_path):
    inner = archive(tmp_path / "inner", {"x_weights_config.json": tensor_table()}).read_bytes()
    members = {
        "x_constants_config.json": tensor_table(),
        "data/sample_inputs/model.pt": saved((torch.zeros(2), {"a": 1}), tmp_path),
        "data/weights/empty.pt": b"",
        "extra/other.pt2": inner,
        "elsewhere/x.pt": b"not looked at",
    }
    looked_at(archive(tmp_path / "m.pte", members))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("case", ["pickled weight", "custom object", "without a word", "objects"])
def test_programs_that_make_torch_unpickle(case, nested, tmp_path):
    members = {
        "pickled weight": {"x_weights_config.json": tensor_table(use_pickle=True)},
        "custom object": {"x_constants_config.json": tensor_table(path_name="custom_obj_0")},
        "without a word": {"x_weights_config.json": {"config": {"w": {"path_name": "weight_0"}}}},
        "objects": {"data/weights/w.pt": saved(torch.nn.Linear(1, 1), tmp_path)},
    }[case]
    path = archive(tmp_path / "m.pt2", members)
    if nested:
        path = archive(tmp_path / "outer.pt2", {"extra/m.pt2": path.read_bytes()})
    with pytest.raises(
        FileError, match="is refused: .*(stores 'w' as a pickle|Linear', which torch would run)"
    ):
        looked_at(path)


def test_an_exchange_of_nothing():
    """In the place of the host's operator while a file is tried: features come back, as a copy."""
    kept = opening.exchange_of_nothing(
        "deepmd_gnn_test::border(Tensor a, Tensor b, Tensor c, Tensor d, Tensor e, Tensor rows, Tensor f) -> Tensor"
    )
    rows = torch.rand(3, 2)
    none = torch.zeros(1)
    found = torch.ops.deepmd_gnn_test.border(none, none, none, none, none, rows, none)
    assert torch.equal(found, rows)
    assert found.data_ptr() != rows.data_ptr()
    del kept


def test_programs_are_run_in_their_order(tmp_path, monkeypatch, capsys):
    """Names are said before each, so that the last one is known if the process ends."""

    class Loader:
        def __init__(self, path, *settings):
            assert "first: " in capsys.readouterr().out or path.endswith("first")
            self.factor = 2.0 if path.endswith("first") else 3.0

        def run(self, inputs):
            return [value * self.factor for value in inputs]

    monkeypatch.setattr(torch._C._aoti, "AOTIModelPackageLoader", Loader)
    x = torch.rand(3)
    request = {"operators": [], "device": "cpu", "programs": [("first", [x]), ("first: second", [x, x])]}
    torch.save(request, tmp_path / opening.REQUEST)
    monkeypatch.setattr(sys, "stdin", io.StringIO(str(tmp_path)))
    opening.main()
    first, second = torch.load(tmp_path / opening.ANSWER, weights_only=True)
    assert torch.equal(first[0], 2 * x)
    assert [torch.equal(value, 3 * x) for value in second] == [True, True]


# --- native files -----------------------------------------------------------------------------------------------


class MACE(torch.nn.Module):
    """As native's for a reader that goes by names: any state."""

    def __init__(self):
        super().__init__()
        self.r_max = 4.5
        self.readouts = torch.nn.ModuleList([torch.nn.Linear(2, 1), torch.nn.Linear(3, 1)])
        self.register_buffer("atomic_numbers", torch.tensor([1, 8]))


def module_of(model, tmp_path):
    torch.save(model, tmp_path / "x.model")
    return TorchFile(tmp_path / "x.model").content


def test_tree_of_a_native_file(tmp_path):
    model = MACE()
    module_of(model, tmp_path)
    found = read_native(tmp_path / "x.model")
    assert (found.name, found.settings["r_max"], found.trainable) == ("MACE", 4.5, set())
    names = {name: tuple(tensor.shape) for name, tensor in found.named_tensors()}
    assert names == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    first, second = found.layers("readouts")
    assert first.trainable == {"weight", "bias"}
    assert torch.equal(second.tensors["weight"], model.readouts[1].weight)
    assert found["readouts.1"] is second
    with pytest.raises(NotConvertible, match=r"The file's MACE has no part 'products\.0'"):
        _ = found["products.0"]


def test_a_module_with_two_parents_is_one(tmp_path):
    """Else a small file could hold endlessly many."""
    model = MACE()
    model.readouts[1] = model.readouts[0]
    found = NativeModule(module_of(model, tmp_path))
    assert found["readouts.0"] is found["readouts.1"]
    assert [name for name, _ in found.named_tensors() if "weight" in name] == ["readouts.0.weight"]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("les", "has 'les': long-range electrostatics"),
        ("joint_embedding", "has 'joint_embedding', an embedding of the total charge"),
        ("something", "has a part 'something' that mace-torch's energy models do not have"),
    ],
)
def test_parts_that_cannot_be_converted(part, words, tmp_path):
    model = MACE()
    refuse(module_of(model, tmp_path), "x.model")
    model.add_module(part, torch.nn.Linear(1, 1))
    with pytest.raises(NotConvertible, match=f"x.model {words}"):
        refuse(module_of(model, tmp_path), "x.model")


@pytest.mark.parametrize(
    ("value", "terms"),
    [
        ("16x0e+8x1o", [(16, 0, "e"), (8, 1, "o")]),
        (((16, (0, 1)), (8, (1, -1))), [(16, 0, "e"), (8, 1, "o")]),
        ([(4, (2, 1))], [(4, 2, "e")]),
    ],
)
def test_irreps(value, terms):
    assert irreps_of(value) == terms
    assert irreps_of(irreps_text(terms)) == terms


def test_irreps_that_are_none():
    endless = (1,)
    for _ in range(60):
        endless = (endless, endless)
    for value in ((1, 2), (), endless):
        with pytest.raises(FileError, match="irreps in the file could not be read"):
            irreps_of(value)


# --- imports ----------------------------------------------------------------------------------------------------


def test_slices_are_allowed_in_files(tmp_path):
    torch.save({"a": slice(1, 3)}, tmp_path / "x.pt")
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    with pytest.raises(Exception, match="slice"):
        torch.load(tmp_path / "x.pt", weights_only=True)
    allow_e3nn_constants()
    assert torch.load(tmp_path / "x.pt", weights_only=True) == {"a": slice(1, 3)}
    torch.serialization.add_safe_globals(before)


def test_mace_changes_a_copy_of_the_environment(monkeypatch):
    import_mace()
    monkeypatch.delitem(sys.modules, "mace")
    monkeypatch.delenv(FLAG, raising=False)
    import_mace()
    assert sys.modules["mace"].__version__
    assert FLAG not in os.environ
    assert vars(sys.modules["mace"])["os"].environ[FLAG] == "1"
    assert vars(sys.modules["mace"])["os"].path is os.path


def test_without_mace(monkeypatch):
    monkeypatch.delitem(sys.modules, "mace", raising=False)
    monkeypatch.setattr(import_order.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ModuleNotFoundError, match="mace-torch is missing; install it with pip install mace-torch"
    ):
        import_mace()
    assert "mace" not in sys.modules


def test_a_model_that_is_being_imported(monkeypatch):
    module = ModuleType("deepmd_gnn.mace")
    monkeypatch.setitem(sys.modules, "deepmd_gnn.mace", module)
    assert is_importing_model()
    module.MaceModel = object
    assert not is_importing_model()
    monkeypatch.delitem(sys.modules, "deepmd_gnn.mace")
    assert not is_importing_model()


def test_what_waits_for_an_import(monkeypatch):
    done = []
    import_order.once_imported(lambda: done.append(1))
    monkeypatch.setitem(sys.modules, "deepmd_gnn.nequip", ModuleType("deepmd_gnn.nequip"))
    import_order.once_imported(lambda: done.append(2))
    assert done == [1]
    for _ in range(2):
        import_order.run_waiting()
        assert done == [1, 2]
