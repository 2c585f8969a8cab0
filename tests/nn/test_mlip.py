"""Whole networks of the library mlip, their random weights copied into ours: energies, forces, virials and charges.

The reference was computed by that library, see ``tests/data/mlip/make_reference.py``.
"""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from deepmd.pt.model.model import get_model
from tolerances import NATIVE, NOTICEABLE

REFERENCE = Path(__file__).parents[1] / "data/mlip/reference.npz"
COMMON = {
    "type": "mace", "type_map": ["H", "O"], "r_max": 4.0, "scale": 1.0, "avg_num_neighbors": 8.0, "seed": 1,
    "atomic_energies": [-1.25, -5.0],
}  # fmt: skip


@functools.cache
def reference():
    with np.load(REFERENCE) as file:
        return {
            name: torch.tensor(value) if value.dtype.kind in "fi" else value for name, value in file.items()
        }


def part(name):
    """What the file says about a case."""
    return {
        key.removeprefix(f"{name}/"): value
        for key, value in reference().items()
        if key.startswith(f"{name}/")
    }


def set_blocks(linear, blocks):
    """Fill an equivariant linear map: for each path its matrix (elements, outputs, inputs), or without elements."""
    with torch.no_grad():
        for path, factor, block in zip(linear.paths, linear.factors, blocks, strict=True):
            _, _, _, offset, inputs, width = path
            if inputs == 0:
                continue
            kinds = max(1, linear.ntypes)
            matrix = block.reshape(kinds, width, inputs).permute(2, 0, 1) / factor
            linear.weight[offset : offset + inputs * kinds * width] = matrix.flatten()


def weight(given, stem, ell):
    """mlip's matrix of one degree; None if it has none."""
    sign = 1 if ell % 2 == 0 else -1
    return given.get(f"weights/{stem}/weight{ell}_{ell}_{sign}")


def degree(path):
    return (path[2] - 1) // 2


def set_radial(network, given, stem, gain):
    with torch.no_grad():
        for number, layer in enumerate(network.children()):
            value = given[f"weights/{stem}/layers_{number}/kernel"] * layer.weight.shape[0] ** 0.5
            layer.weight.copy_(value * (gain / network.gain if number else 1.0))


def set_convolution(interaction, given, layer):
    """Paths in mlip's order of ours, and the map behind, which takes up the factors of the couplings."""
    theirs, irreps = given[f"couplings/{layer}"], str(given[f"message_irreps/{layer}"])
    convolution = interaction.conv_tp
    ours = convolution.coupling.value.split(convolution.widths, dim=1)
    begins = np.cumsum([0, *convolution.input_dims])
    channels = interaction.linear_up.channels
    matrices, order = [], []
    for coupling, (irrep, dim_out) in zip(ours, convolution.paths, strict=True):
        found = None
        for path, other in enumerate(theirs):
            rows = torch.nonzero(other.abs().sum(dim=(0, 1)) > 0).flatten()
            block = other[:, :, rows]
            if len(rows) != dim_out or block[begins[irrep] : begins[irrep + 1]].abs().sum() == 0:
                continue
            mine = coupling.view(coupling.shape[0], -1, dim_out).transpose(0, 1)
            block = block[begins[irrep] : begins[irrep + 1]]
            factor = (block * mine).sum() / mine.square().sum()
            if (block - factor * mine).abs().max() < 1e-6:
                found = path, factor, place(irreps, int(rows[0]))
        assert found is not None
        path, factor, (ell, slot, mul) = found
        full = weight(given, f"layers_{layer}/interaction_block/linear_out", ell).view(
            channels, channels, mul
        )
        matrices.append(factor * full[:, :, slot])
        order.append(path)
    set_blocks(interaction.linear, matrices)
    last = list(interaction.conv_tp_weights.children())[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight.view(-1, len(order), channels)[:, order].flatten(1))


def place(irreps, row):
    """Degree, number among those of this degree, and their number, of a component of a message."""
    begin = 0
    for mul, ell in re.findall(r"(\d+)x(\d+)[eo]", irreps):
        size = int(mul) * (2 * int(ell) + 1)
        if row < begin + size:
            return int(ell), (row - begin) // (2 * int(ell) + 1), int(mul)
        begin += size
    raise AssertionError(row)


def set_product(product, given, layer):
    """The weights of our basis that give mlip's polynomials, by least squares at its points; it must be exact."""
    points, values = given[f"points/{layer}"], given[f"products/{layer}"]
    begin = 0
    contraction = product.symmetric_contractions
    for number, one in enumerate(contraction.contractions):
        tensors = [one.weights_max, *one.weights]
        nparam = sum(tensor.shape[1] for tensor in tensors)
        names = [
            f"contractions.{number}.weights_max",
            *(f"contractions.{number}.weights.{k}" for k in range(len(one.weights))),
        ]
        units = (
            torch.eye(nparam, dtype=torch.float64).unsqueeze(0).split([t.shape[1] for t in tensors], dim=1)
        )
        basis = PolynomialsOf(contraction, number)(dict(zip(names, units, strict=True)), points, nparam)
        dim = basis.shape[1]
        wanted = values[..., begin : begin + dim].permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
        solution = torch.linalg.lstsq(basis.flatten(0, 1), wanted, driver="gelsd").solution
        assert (basis.flatten(0, 1) @ solution - wanted).abs().max() < 1e-9 * wanted.abs().max()
        found = solution.view(nparam, tensors[0].shape[0], -1).transpose(0, 1)
        with torch.no_grad():
            for tensor, value in zip(tensors, found.split([t.shape[1] for t in tensors], dim=1), strict=True):
                tensor.copy_(value)
        begin += dim
    stem = f"layers_{layer}/expansion_block/linear_block"
    if product.gated:
        gate = f"weights/layers_{layer}/expansion_block/species_wise_gate"
        set_blocks(product.gate.linear, [given[f"{gate}_weights"].transpose(1, 2)])
        with torch.no_grad():
            product.gate.bias.copy_(given[f"{gate}_bias"])
    set_blocks(product.linear, [weight(given, stem, degree(path)) for path in product.linear.paths])


class PolynomialsOf(torch.nn.Module):
    """One irrep of a contraction with other weights than its own: a channel for each of them."""

    def __init__(self, contraction, number):
        super().__init__()
        self.contraction, self.number = contraction, number

    def forward(self, weights, points, nparam):
        features = points.unsqueeze(2).expand(-1, -1, nparam)
        graph = type("Graph", (), {"mode": "plain"})()
        types = torch.zeros(len(points), dtype=torch.int64)
        sizes = [len(one.coefficients.value) for one in self.contraction.contractions]
        others = {
            name: torch.zeros(1, value.shape[1], nparam, dtype=torch.float64)
            for name, value in self.contraction.named_parameters()
        }
        out = torch.func.functional_call(self.contraction, {**others, **weights}, (features, types, graph))
        return out.split(sizes, dim=1)[self.number]


def with_weights(name, **options):
    """Our model of a case, with mlip's weights."""
    given = part(name)
    theirs = json.loads(str(given["options"]))
    model = get_model({**COMMON, **theirs, **options}).eval()
    network = model.energy_model
    gains = {key: float(value) for key, value in part("gain").items()}
    with torch.no_grad():
        set_embedding(network, given)
    for number, (interaction, product) in enumerate(zip(network.interactions, network.products, strict=True)):
        stem = f"layers_{number}"
        up = interaction.linear_up
        set_blocks(
            up, [weight(given, f"{stem}/interaction_block/linear_in", degree(path)) for path in up.paths]
        )
        radial_gain = gains[model.config.radial_mlp_activation]
        set_radial(interaction.conv_tp_weights, given, f"{stem}/interaction_block/radial_mlp", radial_gain)
        set_convolution(interaction, given, number)
        skip = f"{stem}/residual_block" if interaction.residual else f"{stem}/linear_by_species_block"
        set_blocks(
            interaction.skip_tp, [weight(given, skip, degree(path)) for path in interaction.skip_tp.paths]
        )
        set_product(product, given, number)
        set_readout(network, given, number, gains[model.config.gate])
    return model


def set_embedding(network, given):
    table = next(
        value for key, value in given.items() if key.endswith("embed/embedding") and "charge_" not in key
    )
    if network.activates_embedding:
        stem = "weights/embedding_block/node_embedding_block"
        first, second = given[f"{stem}/joint_embedding_projection/kernel"].chunk(2)
        charges = given[f"{stem}/charge_embedder/embed/embedding"] @ second
        network.joint_embedding.weight[torch.tensor([49, 50, 52])] = charges[1:]
        table = table @ first
    network.node_embedding.linear.weight.copy_((table * network.ntypes**0.5).flatten())


def set_readout(network, given, layer, gain):
    readout, stem = network.readouts[layer], f"layers_{layer}/readout_block/ReadoutBlock_0"
    with torch.no_grad():
        if readout.is_linear:
            results = weight(given, f"{stem}/Linear_0", 0) * readout.channels**0.5
            readout.linear.weight.copy_(results[0])
        else:
            hidden = weight(given, f"{stem}/Linear_0", 0).T * readout.channels**0.5
            readout.linear_1.weight.copy_(hidden.flatten())
            width = readout.linear_2.weight.shape[0]
            results = weight(given, f"{stem}/Linear_1", 0) * (gain / readout.gain * width**0.5)
            readout.linear_2.weight.copy_(results[0])
        if network.has_charges:
            network.partial_charges.layers[layer].weight.copy_(results[1])


def evaluated(model, kind, charge):
    frame = part("frame")
    box = frame["cell"].view(1, 9) if kind == "periodic" else None
    values = torch.tensor([[charge]], dtype=torch.float64) if model.get_dim_fparam() else None
    inputs = frame["positions"][None], frame["types"][None], box, values
    out = model(*inputs)
    return out, model.forward_charges(*inputs) if model.energy_model.has_charges else None


def assert_equal(found, expected, what, tolerance=NATIVE["float64"]):
    size = expected.abs().max()
    assert size > 0.01 * NOTICEABLE  # features that are limited give small stresses
    assert (found.reshape(-1) - expected.reshape(-1)).abs().max() <= tolerance * size, what


@pytest.mark.parametrize("kind", ["free", "periodic"])
@pytest.mark.parametrize("name", ["default", "residual", "radial", "gated"])
def test_whole_network(name, kind):
    given, (out, _) = part(name), evaluated(with_weights(name), kind, 0)
    # mlip takes the root mean square of its radial functions at distances in single precision.
    tolerance = NATIVE["float32" if name == "radial" else "float64"]
    assert_equal(out["energy"], given[f"{kind}/0/energy"], "energy", tolerance)
    assert_equal(out["force"], given[f"{kind}/0/forces"], "forces", tolerance)
    if kind == "periodic":
        volume = torch.linalg.det(part("frame")["cell"])
        assert_equal(-out["virial"] / volume, given[f"{kind}/0/stress"], "stress", tolerance)


def test_charges_and_their_energy():
    """mlip's energy ends with a jump, ours in a conductor, which is far away here."""
    given, model = part("charges"), with_weights("charges", coulomb_cutoff=1e12)
    for charge in (-1, 0, 2):
        out, charges = evaluated(model, "free", charge)
        assert_equal(charges, given[f"free/{charge}/partial_charges"], "charges")
        assert_equal(out["energy"], given[f"free/{charge}/energy"], "energy")
        assert_equal(out["force"], given[f"free/{charge}/forces"], "forces")
        assert abs(float(charges.sum()) - charge) < 1e-12
