"""Charges of atoms: their sum, their energy by an independent formula, derivatives, and training."""

import numpy as np
import pytest
import torch
from helpers import assert_close, our_results, random_frame, tiny_model
from tolerances import FINITE_DIFFERENCE, NATIVE, NOTICEABLE, TRAINING_GRADIENT

from deepmd_gnn.nn.charges import COULOMB, ChargeEmbedding, bounded_inverse

CUTOFF = 5.5
OPTIONS = {"use_coulomb_term": True, "coulomb_cutoff": CUTOFF}


def charged_model(**options):
    """With charges of some tenths."""
    model = tiny_model(**OPTIONS, **options)
    with torch.no_grad():
        for layer in model.energy_model.partial_charges.layers:
            layer.weight.mul_(50.0)
    return model


def inputs(coord, atype, cell, charge):
    box = None if cell is None else torch.tensor(cell.reshape(1, 9))
    return (
        torch.tensor(coord[None]),
        torch.tensor(atype[None]),
        box,
        torch.tensor([[charge]], dtype=torch.float64),
    )


def physnet(r):
    """PhysNet's 1/r (Unke and Meuwly 2019), switched between 0 and 5 Å."""
    x = r / 5.0
    switch = np.where(x < 1.0, 1 - 6 * x**5 + 15 * x**4 - 10 * x**3, 0.0)
    return switch / np.sqrt(r**2 + 1.0) + (1.0 - switch) / r


def energy_of_charges(coord, charges, cell, cutoff):
    """Half the sum over all pairs of images, and the field of each charge on itself."""
    steps = [np.zeros(3)] if cell is None else [np.array(s) - 2 for s in np.ndindex(5, 5, 5)]
    total = -1.5 / cutoff * (charges**2).sum()
    for step in steps:
        shift = np.zeros(3) if cell is None else step @ cell
        r = np.linalg.norm(coord[:, None] - coord[None] + shift, axis=2)
        pairs = (r < cutoff) & (r > 0)
        r = np.where(pairs, r, 1.0)
        potential = physnet(r) + r**2 / (2 * cutoff**3) - 1.5 / cutoff
        total += (np.where(pairs, potential, 0.0) * charges[:, None] * charges).sum()
    return 0.5 * 14.399645 * total


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("charge", [0.0, -1.0])
def test_energy_and_sum(periodic, charge):
    """Without charges the same network gives the rest of the energy."""
    model, coord, atype, cell = charged_model(), *random_frame(natoms=8, box_length=6.5)
    frame = inputs(coord, atype, cell if periodic else None, charge)
    charges = model.forward_charges(*frame)[0].numpy()
    assert abs(charges.sum() - charge) < 1e-12
    assert np.ptp(charges) > 0.1
    plain = tiny_model()
    state = model.energy_model.state_dict()
    plain.energy_model.load_state_dict(
        {k: v for k, v in state.items() if not k.startswith("partial_charges")}
    )
    found = float(model(*frame)["energy"].detach() - plain(*frame[:3])["energy"].detach())
    expected = energy_of_charges(coord, charges, cell if periodic else None, CUTOFF)
    assert abs(expected) > NOTICEABLE
    assert abs(found - expected) < 1e-6 * abs(
        expected
    )  # of the constant, which is written with eight digits above


def test_constant():
    """Elementary charge over 4π times the vacuum permittivity, to the digits of mlip's (CODATA: 14.399645)."""
    assert abs(COULOMB - 14.399645) < 3e-6
    r = torch.tensor([1e-6, 0.5, 2.0, 4.99, 5.0, 9.0], dtype=torch.float64)
    assert_close(bounded_inverse(r, 5.0).numpy(), physnet(r.numpy()), 1e-12)


@pytest.mark.parametrize("periodic", [True, False])
def test_finite_differences(periodic):
    model, coord, atype, cell = charged_model(), *random_frame(natoms=5, box_length=5.6)
    box = cell if periodic else None
    values = torch.tensor([[1.0]], dtype=torch.float64)
    result = our_results(model, coord, atype, box, fparam=values, do_atomic_virial=True)
    h = 1e-4

    def energy(x, c):
        return our_results(model, x, atype, c, fparam=values)["energy"][0]

    numeric = np.zeros_like(coord)
    for place in np.ndindex(*coord.shape):
        step = np.zeros_like(coord)
        step[place] = h
        numeric[place] = -(energy(coord + step, box) - energy(coord - step, box)) / (2 * h)
    assert_close(result["force"], numeric, FINITE_DIFFERENCE, "force")
    assert_close(result["atom_virial"].sum(axis=0), result["virial"], NATIVE["float64"])
    if not periodic:
        return
    virial = np.zeros((3, 3))
    for place in np.ndindex(3, 3):
        strain = np.zeros((3, 3))
        strain[place] = h
        up, down = (
            energy(coord @ (np.eye(3) + s * strain).T, cell @ (np.eye(3) + s * strain).T) for s in (1, -1)
        )
        virial[place] = -(up - down) / (2 * h)
    assert_close(result["virial"].reshape(3, 3), virial, FINITE_DIFFERENCE, "virial")


def test_energy_is_smooth_at_the_cutoff():
    """Two ions that leave each other: neither energy nor force jumps."""
    model = charged_model()
    found = []
    for distance in CUTOFF + np.array([-1e-5, 1e-5]):
        coord = np.array([[0.0, 0, 0], [distance, 0, 0]])
        found.append(our_results(model, coord, np.array([0, 1]), None, fparam=torch.tensor([[1.0]])))
    assert abs(found[0]["energy"] - found[1]["energy"]) < 1e-8
    assert np.abs(found[0]["force"] - found[1]["force"]).max() < 1e-4


def test_frames_of_a_batch_and_virtual_atoms():
    """Each frame has its own charge; padding has none and changes nothing."""
    model = charged_model()
    frames = [random_frame(natoms=6, seed=seed) for seed in range(2)]
    coord, atype, box = (np.stack(parts) for parts in zip(*frames, strict=True))
    padded = np.concatenate([atype, [[-1], [-1]]], axis=1)
    more = np.concatenate([coord, np.zeros((2, 1, 3))], axis=1)
    values = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    tensors = torch.tensor(more), torch.tensor(padded), torch.tensor(box.reshape(2, 9)), values
    both, charges = model(*tensors), model.forward_charges(*tensors)
    assert_close(charges.sum(dim=1).numpy(), values[:, 0].numpy(), NATIVE["float64"])
    assert (charges[:, -1] == 0).all()
    for number, frame in enumerate(frames):
        alone = our_results(model, *frame, fparam=values[number : number + 1])
        assert_close(both["energy"][number].detach().numpy(), alone["energy"], NATIVE["float64"])
        assert_close(both["force"][number, :-1].detach().numpy(), alone["force"], NATIVE["float64"])


def test_torchscript_and_defaults(tmp_path):
    model = charged_model(precision="float32")
    frame = inputs(*random_frame(natoms=6), 0.0)
    torch.jit.script(model).save(str(tmp_path / "model.pth"))
    loaded = torch.jit.load(str(tmp_path / "model.pth"))
    assert loaded.get_rcut() == CUTOFF
    expected = model(*frame)["force"].detach().numpy()
    assert_close(loaded(*frame)["force"].detach().numpy(), expected, 1e-6)
    assert_close(loaded(*frame[:3])["force"].detach().numpy(), expected, 1e-6)
    assert_close(loaded.forward_charges(*frame).numpy(), model.forward_charges(*frame).numpy(), 1e-5)


def test_training_gradient():
    """Of a loss on energies and forces, by the weights that charges have: against finite differences."""
    model = charged_model().train()
    frame = inputs(*random_frame(natoms=5, box_length=5.6), 1.0)

    def loss():
        out = model(*frame)
        return out["energy"].sum() + out["force"].square().sum() + out["virial"].square().sum()

    loss().backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    for layer in model.energy_model.partial_charges.layers:
        gradient = layer.weight.grad.clone()
        numeric = torch.zeros_like(gradient)
        with torch.no_grad():
            for k in range(len(gradient)):
                values = []
                for h in (1e-5, -1e-5):
                    layer.weight[k] += h
                    values.append(float(loss()))
                    layer.weight[k] -= h
                numeric[k] = (values[0] - values[1]) / 2e-5
        assert_close(gradient.numpy(), numeric.numpy(), max(TRAINING_GRADIENT, FINITE_DIFFERENCE))


def test_embedding_of_the_total_charge():
    """Features of an element and a charge: the activation of a sum; a charge that there is not is refused."""
    model = tiny_model(use_total_charge_embedding=True, embed_activation="tanh")
    coord, atype, cell = random_frame(natoms=5)
    network, values = model.energy_model, torch.tensor([[-2.0]], dtype=torch.float64)
    rows = network.node_embedding.linear.weight.view(2, -1) * 2**-0.5 + network.joint_embedding.weight[48]
    frame = inputs(coord, atype, cell, -2.0)
    graph = model.with_frame_values(model.graphs.of_frames(*frame[:3]), values, 1)
    features, kinds = network.first_features(graph)
    assert torch.allclose(features[kinds][1:, 0], torch.tanh(rows)[torch.as_tensor(atype)], atol=1e-14)
    assert torch.isnan(ChargeEmbedding(torch.zeros(3, 2))(torch.tensor([[2.0]]))).all()
    with pytest.raises(ValueError, match="total_charge is 51"):
        model(*inputs(coord, atype, cell, 51.0))
    assert model.get_dim_fparam() == 1
