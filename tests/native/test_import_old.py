"""Files of older versions of MACE, and of other makes."""

import numpy as np
import pytest
import torch
from e3nn.util import jit
from import_checks import assert_imported, frame
from mace.calculators.lammps_mace import LAMMPS_MACE
from mace.modules.blocks import EquivariantProductBasisBlock, LinearReadoutBlock
from native_models import default_dtype, native, native_evaluation, o3

from deepmd_gnn import export_native, load_mace
from deepmd_gnn.cli import main
from deepmd_gnn.files.native_file import NotConvertible


def widened(model, irreps):
    """A model with one layer as MACE up to 0.3.14 saves it: the product keeps irreps that no readout reads."""
    old, wide = model.products[0], o3.Irreps(irreps)
    with default_dtype():
        product = EquivariantProductBasisBlock(
            o3.Irreps(str(old.symmetric_contractions.irreps_in)),
            wide,
            2,
            num_elements=3,
            use_sc=old.use_sc,
            use_reduced_cg=False,
        )
        readout = LinearReadoutBlock(wide, o3.Irreps("1x0e"))
    product.symmetric_contractions.contractions[0].load_state_dict(
        old.symmetric_contractions.contractions[0].state_dict()
    )
    model.products[0], model.readouts[0] = product, readout
    model.interactions[0].hidden_irreps = wide
    return model


@pytest.mark.parametrize("irreps", ["4x0e + 4x1o", "4x0e + 4x1o + 4x2e"])
@pytest.mark.parametrize("form", ["pickled", "compiled"])
def test_one_layer_with_vectors(irreps, form, tmp_path):
    original = widened(native(num_interactions=1, hidden_irreps=irreps), irreps)
    coord, symbols, cell = frame()
    expected = native_evaluation(original, coord, symbols, cell)
    with default_dtype():
        save = (
            torch.save if form == "pickled" else lambda model, path: torch.jit.save(jit.compile(model), path)
        )
        save(original, tmp_path / "x.model")
    model = load_mace(tmp_path / "x.model")
    assert_imported(model, expected, coord, symbols, cell)
    export_native(model, tmp_path / "back.model")
    assert_imported(load_mace(tmp_path / "back.model"), expected, coord, symbols, cell)


class SoftTransform(torch.nn.Module):
    """Of MACE 0.3.5 to 0.3.8, written anew: another function of the same name."""

    def __init__(self, radii):
        super().__init__()
        self.register_buffer("covalent_radii", radii)
        self.register_buffer("a", torch.tensor(0.25))
        self.register_buffer("b", torch.tensor(3.0))

    def forward(self, x, node_attrs, edge_index, atomic_numbers):
        numbers = atomic_numbers[torch.argmax(node_attrs, dim=1)].unsqueeze(-1)
        r_0 = (self.covalent_radii[numbers[edge_index[0]]] + self.covalent_radii[numbers[edge_index[1]]]) / 4
        return x + torch.tanh(-(x / r_0) - self.a * (x / r_0) ** self.b) / 2 + 0.5


def test_the_older_soft_transform(tmp_path):
    original = native(distance_transform="Soft")
    today = original.radial_embedding.distance_transform
    original.radial_embedding.distance_transform = SoftTransform(today.covalent_radii)
    coord, symbols, cell = frame()
    expected = native_evaluation(original, coord, symbols, cell)
    torch.save(original, tmp_path / "x.model")
    model = load_mace(tmp_path / "x.model")
    assert model.config.distance_transform == "OldSoft"
    assert_imported(model, expected, coord, symbols, cell)
    copy = type(model).deserialize(model.serialize())
    assert_imported(copy, expected, coord, symbols, cell)
    torch.jit.script(model)
    with pytest.raises(ValueError, match="Soft transform of MACE 0.3.5 to 0.3.8"):
        export_native(model, tmp_path / "back.model")


@pytest.mark.parametrize("form", ["pickled", "compiled"])
def test_head_of_a_file_for_lammps(form, tmp_path):
    """The file was made for one head; another one can be asked for."""
    original = native(heads=["a", "b", "c"])
    coord, symbols, cell = frame()
    expected = [native_evaluation(original, coord, symbols, cell, index) for index in range(3)]
    with default_dtype():
        wrapped = LAMMPS_MACE(original, head="b")
        save = (
            torch.save if form == "pickled" else lambda model, path: torch.jit.save(jit.compile(model), path)
        )
        save(wrapped, tmp_path / "x.model-lammps.pt")
    assert_imported(load_mace(tmp_path / "x.model-lammps.pt"), expected[1], coord, symbols, cell)
    assert_imported(load_mace(tmp_path / "x.model-lammps.pt", head="c"), expected[2], coord, symbols, cell)


class Strange:
    """Pickled where something else belongs."""


def _wrong(path, value):
    def change(model):
        *parents, name = path.split(".")
        module = model
        for part in parents:
            module = module[int(part)] if part.isdigit() else getattr(module, part)
        module.__dict__.pop(name, None)
        for group in (module._buffers, module._modules, module._parameters):
            group.pop(name, None)
        module.__dict__[name] = value

    return change


CHANGES = {
    "heads": _wrong("heads", Strange()),
    "irreps": _wrong("interactions.1.node_feats_irreps", Strange()),
    "irreps of a number": _wrong("interactions.1.node_feats_irreps", 3.5),
    "neighbours": _wrong("interactions.0.avg_num_neighbors", "many"),
    "numbers": _wrong("atomic_numbers", torch.tensor([1, 6, 300])),
    "other numbers": _wrong("atomic_numbers", torch.tensor([1, 6])),
    "energies": _wrong("atomic_energies_fn", torch.nn.Identity()),
    "cutoff": _wrong("r_max", torch.tensor([4.3, 5.0])),
    "power": _wrong("radial_embedding.cutoff_fn.p", torch.tensor([1, 2])),
    "products": lambda m: m.products.__delitem__(1),
    "contractions": lambda m: m.products[0].symmetric_contractions.contractions.__delitem__(1),
    "widths": _wrong("interactions.0.conv_tp_weights.hs", None),
    "parameters": lambda m: m.interactions[0].__dict__.update(_parameters=Strange()),
    "transform": lambda m: m.radial_embedding.add_module("distance_transform", Empty()),
}


class Empty(torch.nn.Module):
    """A transform without constants."""


Empty.__name__ = Empty.__qualname__ = "SoftTransform_without"


@pytest.mark.parametrize("name", CHANGES)
def test_no_error_of_python_reaches_a_user(name, tmp_path, capsys):
    model = native()
    CHANGES[name](model)
    if name == "transform":
        Empty.__name__ = Empty.__qualname__ = "Empty"
    torch.save(model, tmp_path / "x.model")
    with pytest.raises((NotConvertible, ValueError)) as caught:
        load_mace(tmp_path / "x.model")
    text = str(caught.value)
    for word in ("zip()", "object", "NoneType", "Error", "argument", "index", "Record", "tensor"):
        assert word not in text, text
    assert main(["convert", str(tmp_path / "x.model"), "-o", str(tmp_path / "x.pt")]) == 1
    message = capsys.readouterr().err
    assert message.startswith("deepmd-gnn: error: ")
    assert message.count("\n") == 1
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("command", ["info", "check", "bench", "freeze", "export"])
@pytest.mark.parametrize("name", ["x.model", "x.pt", "x.pth"])
def test_native_files_are_sent_to_convert(command, name, tmp_path, capsys):
    torch.save(native(), tmp_path / name)
    output = ["-o", str(tmp_path / "out.model")] if command == "export" else []
    output = ["-o", str(tmp_path / "out.pth")] if command == "freeze" else output
    described = command == "info"  # which says what the file holds, and that next
    assert main([command, str(tmp_path / name), *output]) == (0 if described else 1)
    shown = capsys.readouterr()
    assert "deepmd-gnn convert" in (shown.out if described else shown.err)
    assert np.all([path.name == name for path in tmp_path.iterdir()])
