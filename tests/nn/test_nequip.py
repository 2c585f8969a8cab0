"""NequIP against the package ``nequip`` 0.6: stored numbers, and the package itself where it is installed."""

import functools
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_close, our_results, random_frame
from tolerances import NATIVE

from deepmd_gnn.config.nequip import NequipConfig
from deepmd_gnn.nequip import NequipModel
from deepmd_gnn.nequip_network import build_energy
from deepmd_gnn.nn.nequip import NequipEnergy
from deepmd_gnn.nn.nequip_names import package_name, take_weights
from deepmd_gnn.nn.nequip_parts import RadialBasis

DATA = Path(__file__).parents[1] / "data" / "nequip"
EXACT = NATIVE["float64"]
KEYS = ("energy", "atom_energy", "force", "virial")


@functools.cache
def reference():
    """Arrays of all cases by "case/name"."""
    with np.load(DATA / "reference.npz") as file:
        return dict(file)


CASES = sorted(name.removesuffix("/options") for name in reference() if name.endswith("/options"))


def part(prefix):
    return {k.removeprefix(prefix): v for k, v in reference().items() if k.startswith(prefix)}


def model_of(case, **options):
    """Our model of a case with the package's weights."""
    section = {**json.loads(str(reference()[f"{case}/options"])), **options}
    return with_weights(NequipModel(["O", "H"], **section), part(f"{case}/weights/"))


def with_weights(model, state):
    energies = take_weights(model.energy_model, {k: torch.as_tensor(v) for k, v in state.items()})
    model.set_out_bias(energies)
    return model.eval()


@pytest.mark.parametrize("case", CASES)
def test_numbers_of_the_package(case):
    frame = part("frame/")
    found = our_results(model_of(case), frame["coord"], frame["atype"], frame["cell"])
    for key in KEYS:
        assert_close(found[key], reference()[f"{case}/{key}"], EXACT, key)


def test_single_precision():
    frame = part("frame/")
    found = our_results(
        model_of("l_max 2", precision="float32"), *(frame[k] for k in ("coord", "atype", "cell"))
    )
    for key in KEYS:
        assert_close(found[key], reference()[f"l_max 2/{key}"], NATIVE["float32"], key)


@pytest.mark.skipif(
    importlib.util.find_spec("nequip") is None,
    reason="the extra nequip is not installed: stored numbers only",
)
@pytest.mark.parametrize("case", ["l_max 2", "norm", "explicit irreps"])
def test_package_itself(case, monkeypatch):
    """Another structure; the stored numbers are those of the package that is installed."""
    monkeypatch.syspath_prepend(DATA)
    import make_reference

    before = torch.get_default_dtype()
    try:
        package = make_reference.package_model(case)
        coord, atype, cell = random_frame(natoms=9, seed=8)
        expected = make_reference.package_results(package, coord, atype, cell)
    finally:
        torch.set_default_dtype(before)  # noqa: TID251 - the package builds in the default dtype
    found = our_results(with_weights(model_of(case), package.state_dict()), coord, atype, cell)
    for key in KEYS:
        assert_close(found[key], expected[key], EXACT, key)
    del sys.modules["make_reference"]


def test_envelope_and_basis():
    """As in DimeNet: (2/r_c) sin(n π r / r_c) / r, and an envelope whose first two derivatives vanish at the cutoff."""
    basis = RadialBasis(5.0, 3, trainable=False, power=6.0)
    lengths = torch.tensor([[1.0], [4.999], [5.0], [7.0]], dtype=torch.float64, requires_grad=True)
    found = basis.basis(lengths)
    expected = 0.4 * torch.sin(torch.arange(1, 4, dtype=torch.float64) * torch.pi * lengths / 5.0) / lengths
    assert_close(found.detach().numpy(), expected.detach().numpy(), EXACT)
    envelope = basis.envelope(lengths)
    (slope,) = torch.autograd.grad(envelope.sum(), lengths)
    assert envelope[1] < 1e-8
    assert slope[1].abs() < 1e-5
    assert not envelope[2:].any()
    assert not basis(lengths, lengths, lengths, lengths)[0][2:].any()


def test_weights_have_the_package_names():
    """Of a model that is built from a configuration."""
    network = build_energy(NequipConfig(l_max=1, num_features=4, num_layers=2, seed=1), [8, 1])
    assert isinstance(network, NequipEnergy)
    names = {package_name(name) for name, _ in network.named_parameters()}
    stored = {name.partition("func.")[2] for name in part("default/weights/")}
    assert names <= stored
    assert stored - names <= {"", "per_species_rescale.shifts"}
