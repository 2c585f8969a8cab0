"""What cannot be converted is refused before any work, with its name and the reason; nothing is written."""

import pytest
import torch
from helpers import tiny_model
from native_models import native

from deepmd_gnn import convert, load_mace
from deepmd_gnn.cli import main
from deepmd_gnn.files.native_file import NotConvertible
from deepmd_gnn.files.safe_pickle import FileError


class MACELES(torch.nn.Module):
    pass


class PolarMACE(torch.nn.Module):
    pass


class AtomicDipolesMACE(torch.nn.Module):
    pass


class BOTNet(torch.nn.Module):
    pass


class LoRALinear(torch.nn.Module):
    pass


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (MACELES, "MACELES.*long-range"),
        (PolarMACE, "PolarMACE.*polarisation"),
        (AtomicDipolesMACE, "AtomicDipolesMACE.*no energy"),
        (BOTNet, "BOTNet.*not one of MACE, ScaleShiftMACE"),
    ],
)
def test_other_models(kind, words, tmp_path):
    torch.save(kind(), tmp_path / "x.model")
    with pytest.raises(NotConvertible, match=words):
        convert(tmp_path / "x.model", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def changed(tmp_path, change, **options):
    model = native(**options)
    change(model)
    torch.save(model, tmp_path / "x.model")
    return tmp_path / "x.model"


def rename(module, name):
    module.__class__ = type(name, (type(module),), {"__module__": __name__})
    globals()[name] = type(module)


CHANGES = {
    "interaction": (lambda m: rename(m.interactions[1], "MyInteractionBlock"), "MyInteractionBlock"),
    "readout": (lambda m: rename(m.readouts[0], "MyReadoutBlock"), "MyReadoutBlock"),
    "basis": (lambda m: rename(m.radial_embedding.bessel_fn, "MyBasis"), "MyBasis"),
    "part": (lambda m: m.add_module("extra", torch.nn.Linear(1, 1)), "part 'extra'"),
    "lora": (lambda m: m.readouts.add_module("2", LoRALinear()), "LoRA"),
    "weight": (
        lambda m: m.interactions[0].register_parameter("extra", torch.nn.Parameter(torch.ones(2))),
        "1 weights .*interactions.0.extra",
    ),
    "shape": (
        lambda m: setattr(m.readouts[0].linear, "weight", torch.nn.Parameter(torch.ones(7))),
        "'readouts.0.linear.weight' has shape \\(7,\\)",
    ),
    "setting": (
        lambda m: m.interactions[0].__dict__.pop("avg_num_neighbors"),
        "x.model lacks .*avg_num_neighbors",
    ),
    "scale": (lambda m: m.scale_shift.scale.fill_(-1.0), "scale is -1.0"),
    "gate": (
        lambda m: setattr(m.readouts[1].non_linearity.acts[0], "f", torch.nn.functional.softplus),
        "softplus",
    ),
    "couplings": (
        lambda m: m.products[0].symmetric_contractions.contractions[0].U_matrix_2.add_(0.1),
        "couplings",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_models(name, tmp_path):
    change, words = CHANGES[name]
    with pytest.raises(NotConvertible, match=words):
        load_mace(changed(tmp_path, change))


def test_changed_gaussians(tmp_path):
    path = changed(
        tmp_path,
        lambda m: setattr(m.radial_embedding.bessel_fn, "coeff", -3.0),
        radial_type="gaussian",
        num_bessel=12,
    )
    with pytest.raises(NotConvertible, match="coefficient is -3.0"):
        load_mace(path)


def test_chebyshev(tmp_path):
    torch.save(native(radial_type="chebyshev"), tmp_path / "x.model")
    with pytest.raises(NotConvertible, match="ChebychevBasis"):
        load_mace(tmp_path / "x.model")


def test_checkpoint_of_deepmd(tmp_path):
    torch.save({"model": {"_extra_state": {}, "x": torch.ones(1)}}, tmp_path / "x.pt")
    with pytest.raises(FileError, match="not a MACE model"):
        load_mace(tmp_path / "x.pt")


def test_old_torch_format_needs_trust(tmp_path):
    original = native()
    torch.save(original, tmp_path / "old.model", _use_new_zipfile_serialization=False)
    with pytest.raises(FileError, match="old.model: is not a PyTorch archive.*--trust"):
        load_mace(tmp_path / "old.model")
    model = load_mace(tmp_path / "old.model", trust=True)
    weight = original.node_embedding.linear.weight.detach()
    torch.testing.assert_close(model.energy_model.node_embedding.linear.weight.detach(), weight)


def run(arguments):
    return main([str(argument) for argument in arguments])


def test_commands_do_their_work(tmp_path, capsys):
    source, checkpoint, back = (tmp_path / name for name in ("x.model", "x.pt", "back.model"))
    torch.save(native(heads=["a", "b"]), source)
    assert run(["convert", source, "-o", checkpoint, "--head", "b", "--elements", "O, H"]) == 0
    assert "elements O H, cutoff 4.3 Å, float64" in capsys.readouterr().out
    assert run(["export", checkpoint, "-o", back]) == 0
    assert load_mace(back).type_map == ["O", "H"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["convert", "missing.model", "-o", "x.pt"], "missing.model"),
        (["convert", "missing.model", "-o", "x.pb"], "x.pb' must end in one of .pt, .pth, .pt2"),
        (["convert", "missing.model", "-o", "nowhere/x.pt"], "folder of the output"),
        (["export", "missing.pt", "-o", "x.model"], "missing.pt"),
        (["export", __file__, "-o", "x.model"], "is not a PyTorch archive"),
    ],
)
def test_commands_report_errors_in_one_line(arguments, words, capsys):
    assert run(arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith("deepmd-gnn: error: ")
    assert message.count("\n") == 1
    assert words in message


def test_export_of_excluded_types(tmp_path):
    from deepmd_gnn import export_native

    with pytest.raises(ValueError, match="pair_exclude_types"):
        export_native(tiny_model(pair_exclude_types=[[0, 1]]), tmp_path / "x.model")


def test_no_readouts(tmp_path):
    torch.save(native(num_interactions=1, use_last_readout_only=True), tmp_path / "x.model")
    with pytest.raises(NotConvertible, match="no readouts"):
        load_mace(tmp_path / "x.model")
