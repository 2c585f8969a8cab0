"""Models are known to the host's backends, and what opens files for it looks at them first."""

import importlib
import subprocess
import sys
import zipfile
from types import ModuleType

import pytest
import torch
from deepmd.backend.pt_expt import PyTorchExportableBackend
from deepmd.backend.pytorch import PyTorchBackend
from deepmd.dpmodel.descriptor.base_descriptor import BaseDescriptor as PortableDescriptor
from deepmd.pt.model.descriptor import BaseDescriptor
from deepmd.pt.model.model import get_model
from deepmd.pt.model.model.model import BaseModel
from deepmd.pt_expt.descriptor.base_descriptor import BaseDescriptor as ExportableDescriptor
from deepmd.pt_expt.model.model import BaseModel as ExportableModel
from deepmd.utils.argcheck import model_args
from toy_network import ToyModel

from deepmd_gnn import backend, networks, pt, pt_expt
from deepmd_gnn.config.networks import CONFIGS
from deepmd_gnn.files.archives import FileError
from deepmd_gnn.files.import_order import run_waiting
from deepmd_gnn.host import classes, patches, registry
from deepmd_gnn.host.descriptor_answers import NotExported
from deepmd_gnn.host.interface import HostInterface
from deepmd_gnn.host.model import GraphModel
from deepmd_gnn.host.sharing import Descriptor
from deepmd_gnn.mace import MaceModel
from deepmd_gnn.mace_descriptor import MaceDescriptor

REGISTRIES = {
    BaseModel: MaceModel,
    ExportableModel: MaceModel,
    BaseDescriptor: MaceDescriptor,
    ExportableDescriptor: NotExported,
    PortableDescriptor: NotExported,
}


def test_the_host_builds_a_model_of_a_section():
    model = get_model({"type": "toy", "type_map": ["H", "O"], "r_max": 3.5})
    assert type(model) is ToyModel
    assert (model.get_type_map(), model.get_rcut(), model.type_name) == (["H", "O"], 3.5, "toy")


@pytest.mark.parametrize("registry_of_host", REGISTRIES, ids=lambda kind: kind.__module__)
def test_all_registries_know_the_type(registry_of_host):
    assert registry_of_host.get_class_by_type("mace") is REGISTRIES[registry_of_host]


@pytest.mark.parametrize("registry_of_host", [BaseDescriptor, ExportableDescriptor])
def test_multi_task_training_finds_what_a_network_shares(registry_of_host):
    """Of a network that is no descriptor of the host's own models."""
    assert registry_of_host.get_class_by_type("nequip") is Descriptor


def test_a_new_type_is_entered_everywhere(monkeypatch):
    applied = []
    monkeypatch.setattr(patches, "apply", applied.append)

    class Another(HostInterface):
        pass

    assert registry.register("another")(Another) is Another
    for host in (BaseModel, ExportableModel):
        assert host.get_class_by_type("another") is Another
    for host in (BaseDescriptor, ExportableDescriptor):
        assert host.get_class_by_type("another") is Descriptor
    assert classes.find("another") is Another
    assert set(applied) == {"deepmd.pt", "deepmd.pt_expt"}
    for table in (BaseModel, ExportableModel, BaseDescriptor, ExportableDescriptor):
        del table.get_plugins()["another"]
    del classes._classes["another"]


def test_classes_by_the_type_of_a_section():
    assert classes.find("mace") is MaceModel
    assert classes.all_classes()["toy"] is ToyModel
    assert classes.is_ours({"type": "toy"})
    for section in ({"type": "standard"}, {}, {"type": ["mace"]}, "mace", None):
        assert not classes.is_ours(section)
    model = ToyModel(["O", "H"], layers=3, avg_num_neighbors=2.0, scale=3.0)
    again = classes.model_of(model.serialize())
    assert type(again) is ToyModel
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="no model of type 'dpa3' is registered"):
        classes.model_of({"type": "dpa3"})


def test_a_copy_of_the_table_changes_nothing():
    classes.all_classes().clear()
    assert classes.find("mace") is MaceModel


def test_a_subclass_says_what_it_has():
    """A network without options, or without itself, is refused where it is built."""
    with pytest.raises(NotImplementedError):
        GraphModel(["O"])


# --- entry points -----------------------------------------------------------------------------------------------


@pytest.fixture
def half_imported(monkeypatch):
    """The model is being imported: its module is there, the class is not yet."""
    monkeypatch.setitem(sys.modules, "deepmd_gnn.mace", ModuleType("deepmd_gnn.mace"))


def test_entry_point_of_the_pytorch_backend(monkeypatch):
    applied = []
    monkeypatch.setattr(patches, "apply", applied.append)
    pt._register()
    assert applied == ["deepmd.pt"]


def test_entry_point_of_the_exportable_backend(monkeypatch):
    """What has been taken from the registry of the host is entered again."""
    monkeypatch.delitem(ExportableModel.get_plugins(), "mace")
    pt_expt._register()
    assert ExportableModel.get_class_by_type("mace") is MaceModel


@pytest.mark.usefixtures("half_imported")
def test_an_import_that_is_under_way_is_left_alone(monkeypatch):
    """Else the model would be imported a second time from within itself; the entry point follows its registration."""
    applied = []
    monkeypatch.setattr(patches, "apply", applied.append)
    monkeypatch.setattr(registry, "enter_exportable", None)
    pt_expt._register()
    importlib.reload(pt)
    assert not applied
    run_waiting()
    assert applied == ["deepmd.pt"]


@pytest.mark.slow
def test_who_imports_one_network_first_has_all():
    code = """
import deepmd_gnn.nequip
from deepmd.pt.model.model.model import BaseModel
print(*(BaseModel.get_class_by_type(kind).__name__ for kind in ("mace", "nequip")))
import deepmd.pt_expt.model.model as exportable
print(*(exportable.BaseModel.get_class_by_type(kind).__name__ for kind in ("mace", "nequip")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == ["MaceModel NequipModel"] * 2


def test_every_network_with_options_is_registered():
    assert set(CONFIGS) <= set(classes.all_classes())
    assert all(hasattr(networks.deepmd_gnn, kind) for kind in CONFIGS)


@pytest.mark.parametrize("module", [pt, pt_expt])
def test_e3nn_can_be_imported_after_an_entry_point(module):
    """torch refuses the slices in its file of constants otherwise."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    importlib.reload(module)
    assert slice in torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(before)


def test_every_dp_knows_the_keys_of_the_input():
    section = {"type": "mace", "type_map": ["O"], "r_max": 4.0}
    normal = model_args().normalize_value({"model": section}["model"])
    assert normal["num_interactions"] == 2
    with pytest.raises(ValueError, match="num_interactions"):
        model_args().check_value({**section, "num_interactions": 0}, strict=False)


@pytest.mark.parametrize("kind", [PyTorchBackend, PyTorchExportableBackend])
def test_both_backends_look_at_files_first(kind, tmp_path):
    """A file with a MACE model whose members are not what was written, before anything of it is read."""
    backend.load()
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", "mace" * 100)
    content = bytearray(path.read_bytes())
    content[60] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"mace model: .*model.pth: is damaged"):
        kind().serialize_hook(str(path))
