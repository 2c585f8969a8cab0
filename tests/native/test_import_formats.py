"""Files that hold the same native model in another form: for LAMMPS, from a GPU, from older releases, of foundation size."""

import struct
import zipfile

import numpy as np
import pytest
import torch
from e3nn.util import jit
from import_checks import DENSITY, MH_LIKE, assert_imported, frame
from native_models import default_dtype, native, native_evaluation

from deepmd_gnn import load_mace

OLD = "RealAgnosticResidualInteractionBlock"


def assert_numbers(path, expected, **options):
    coord, symbols, cell = frame()
    assert_imported(load_mace(path, **options), expected, coord, symbols, cell)


def expected_of(model, head=0):
    coord, symbols, cell = frame()
    return native_evaluation(model, coord, symbols, cell, head)


def test_file_for_pair_mace(tmp_path):
    from mace.calculators import LAMMPS_MACE

    original = native(heads=["a", "b"])
    expected = expected_of(original, 1)
    with default_dtype():
        jit.compile(LAMMPS_MACE(original, head="b")).save(tmp_path / "x.model-lammps.pt")
    assert_numbers(tmp_path / "x.model-lammps.pt", expected, head="b")


def test_file_for_mliap(tmp_path):
    from mace.calculators.lammps_mliap_mace import LAMMPS_MLIAP_MACE

    original = native(heads=["a", "b"])
    expected = expected_of(original, 1)
    torch.save(LAMMPS_MLIAP_MACE(original, head="b"), tmp_path / "x.model-mliap_lammps.pt")
    assert_numbers(tmp_path / "x.model-mliap_lammps.pt", expected, head="b")


def test_file_from_a_gpu(tmp_path, monkeypatch):
    original = native(**DENSITY)
    expected = expected_of(original)
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(original, tmp_path / "x.model")
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "x.model", weights_only=False)
    assert_numbers(tmp_path / "x.model", expected)


def test_torchscript_from_a_gpu(tmp_path):
    """The string that says where the tensors were is all that differs in a file from a GPU."""
    original = native()
    expected = expected_of(original)
    with default_dtype():
        torch.jit.save(jit.compile(original), tmp_path / "cpu.model")
    with (
        zipfile.ZipFile(tmp_path / "cpu.model") as old,
        zipfile.ZipFile(tmp_path / "gpu.model", "w") as new,
    ):
        moved = 0
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/data.pkl"):
                moved += data.count(_string("cpu"))
                data = data.replace(_string("cpu"), _string("cuda:0"))
            new.writestr(name, data)
    assert moved
    assert_numbers(tmp_path / "gpu.model", expected)


def _string(text):
    """A string as pickles spell it."""
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def make_old(model):
    """Take away what a model of mace-torch 0.3.0 did not have: heads and everything that came with them or later."""
    for name in ("heads", "apply_cutoff", "use_agnostic_product", "use_so3", "use_reduced_cg", "edge_irreps"):
        model.__dict__.pop(name, None)
    model.__dict__.pop("use_last_readout_only", None)
    model.radial_embedding.__dict__.pop("apply_cutoff")
    energies = model.atomic_energies_fn
    energies.atomic_energies = energies.atomic_energies.reshape(-1)
    for name in ("scale", "shift"):
        setattr(model.scale_shift, name, getattr(model.scale_shift, name).reshape(()))
    for block in model.interactions:
        for name in ("edge_irreps", "cueq_config", "oeq_config", "radial_MLP", "irreps_out"):
            block.__dict__.pop(name, None)
        block.avg_num_neighbors = np.float32(block.avg_num_neighbors)
    for product in model.products:
        for name in ("use_agnostic_product", "cueq_config", "oeq_config"):
            product.__dict__.pop(name, None)
        for contraction in product.symmetric_contractions.contractions:
            for name in [name for name in contraction._buffers if name.endswith("_zeroed")]:
                del contraction._buffers[name]
    for readout in model.readouts:
        readout.__dict__.pop("num_heads", None)
    basis = model.radial_embedding.bessel_fn
    basis.bessel_weights = torch.nn.Parameter(basis._buffers.pop("bessel_weights"))
    model.radial_embedding.cutoff_fn.p = model.radial_embedding.cutoff_fn.p.double()


def test_before_heads(tmp_path):
    original = native(interaction_cls_first=OLD, hidden_irreps="4x0e + 4x1o + 4x2e")
    expected = expected_of(original)
    make_old(original)
    torch.save(original, tmp_path / "x.model")
    assert_numbers(tmp_path / "x.model", expected)


FOUNDATIONS = {
    "MP-0a": {"interaction_cls_first": OLD, "num_bessel": 10},
    "MP-0b3, MPA, OMAT": {**DENSITY, "pair_repulsion": True, "distance_transform": "Agnesi"},
    "MH": {**MH_LIKE, "heads": ["omat_pbe", "omol"]},
}


@pytest.mark.parametrize("name", FOUNDATIONS)
def test_eighty_nine_elements(name, tmp_path):
    """Three of all elements, in another order: the tables shrink, the numbers stay."""
    heads = FOUNDATIONS[name].get("heads", ["Default"])
    numbers = list(range(1, 90))
    energies = np.random.default_rng(1).uniform(-20.0, -1.0, (len(heads), 89))
    original = native(num_elements=89, atomic_numbers=numbers, atomic_energies=energies, **FOUNDATIONS[name])
    torch.save(original, tmp_path / "x.model")
    expected = expected_of(original, len(heads) - 1)
    head = heads[-1] if len(heads) > 1 else None
    assert_numbers(tmp_path / "x.model", expected, elements=["O", "H", "C"], head=head)
