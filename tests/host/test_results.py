"""From a graph to the dictionaries that the host reads, by way of every form of its input, for a network of few numbers."""

import numpy as np
import pytest
import torch
from helpers import assert_close, extended, random_frame
from matscipy.neighbours import neighbour_list
from tolerances import FINITE_DIFFERENCE, NATIVE
from toy_network import ToyModel

from deepmd_gnn.host.edge_lower import evaluate_edges
from deepmd_gnn.host.evaluation import Evaluation
from deepmd_gnn.host.hessian import hessian
from deepmd_gnn.host.inputs import GraphBuilder
from deepmd_gnn.host.padded_lower import evaluate_slots
from deepmd_gnn.host.results import internal_results, mask_of, public_results, results_of_frames

EXACT = NATIVE["float64"]


def model_of(**options):
    model = ToyModel(["O", "H"], **{"avg_num_neighbors": 8.0, "scale": 1.3, **options}).eval()
    model.set_out_bias(torch.tensor([-5.0, -1.25]))
    return model


def frames(number=2):
    parts = zip(*(random_frame(natoms=9, seed=seed) for seed in range(number)), strict=True)
    coord, atype, cell = (torch.tensor(np.stack(part)) for part in parts)
    return coord, atype, cell.reshape(number, 9)


# --- dictionaries -----------------------------------------------------------------------------------------------


def numbers(nf=2, natoms=3):
    random = torch.Generator().manual_seed(0)
    return [torch.rand(nf, natoms, width, generator=random, dtype=torch.float64) for width in (1, 3, 9)]


def test_totals_are_sums_over_the_atoms_of_a_frame():
    energy, force, virial = numbers()
    inner = results_of_frames(energy, force, virial)
    shapes = {name: tuple(value.shape) for name, value in inner.items()}
    assert shapes == {
        "energy": (2, 3, 1),
        "energy_redu": (2, 1),
        "energy_derv_r": (2, 3, 1, 3),
        "energy_derv_c": (2, 3, 1, 9),
        "energy_derv_c_redu": (2, 1, 9),
    }
    np.testing.assert_allclose(inner["energy_redu"], np.sum(energy.numpy(), axis=1))
    np.testing.assert_allclose(inner["energy_derv_c_redu"][:, 0], np.sum(virial.numpy(), axis=1))
    assert torch.equal(inner["energy_derv_r"][:, :, 0], force)


@pytest.mark.parametrize(("prefix", "force", "virial"), [
    ("", "force", "atom_virial"), ("extended_", "extended_force", "extended_virial")
])  # fmt: skip
def test_public_names(prefix, force, virial):
    values = numbers()
    totals = torch.tensor([[1.0], [2.0]]), torch.arange(18.0).view(2, 9)
    mask = mask_of(torch.tensor([[0, 1, -1], [1, 1, 0]]))
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    inner = internal_results(*values, *totals)
    public = public_results(inner, mask, prefix, True)
    expected = {
        "atom_energy": values[0], force: values[1], virial: values[2],
        "energy": totals[0], "virial": totals[1], "mask": mask,
    }  # fmt: skip
    assert public.keys() == expected.keys()
    assert all(torch.equal(public[name], value) for name, value in expected.items())
    assert set(public_results(inner, mask, prefix, False)) == set(expected) - {virial}


def test_hessian_of_a_quartic():
    """E = Σ |x|⁴ / 4 has the Hessian |x|² + 2 x xᵀ for each atom, and nothing between atoms."""

    def evaluate(coord):
        square = coord.square().sum(dim=2, keepdim=True)
        return {"force": -square * coord, "energy": square.square().sum(dim=1) / 4}

    coord = torch.tensor(np.random.default_rng(0).normal(size=(2, 3, 3)))
    found = hessian(evaluate, coord.reshape(2, 9), training=False)
    assert not found["hessian"].requires_grad
    expected = np.zeros((2, 9, 9))
    for frame, atom in np.ndindex(2, 3):
        x = coord[frame, atom].numpy()
        part = slice(3 * atom, 3 * atom + 3)
        expected[frame, part, part] = x @ x * np.eye(3) + 2 * np.outer(x, x)
    np.testing.assert_allclose(found["hessian"], expected, atol=1e-14)
    assert hessian(evaluate, coord, training=True)["hessian"].requires_grad  # for the loss


# --- graphs -----------------------------------------------------------------------------------------------------


def rows(sender, receiver, vectors):
    table = np.column_stack([sender, receiver, np.round(np.asarray(vectors), 8)])
    return table[np.lexsort(table.T)]


def edges_of(graph):
    """Sender, receiver and vector of every edge, atoms counted from 0; the guard's edge is no edge."""
    real = graph.edge_index[1] > 0
    sender, receiver = (graph.edge_index[:, real] - 1).numpy()
    return sender, receiver, graph.edge_vec[real].detach().numpy()


@pytest.mark.parametrize("pairs", [[], [[0, 1]], [[1, 1]]])
def test_graphs_have_the_pairs_that_see_each_other(pairs):
    builder = GraphBuilder(["O", "H"], 4.0, 2, 10**6, pairs)
    coord, atype, box = frames(1)
    kinds, cell = atype[0].numpy(), box[0].reshape(3, 3).numpy()
    i, j, vectors = neighbour_list("ijD", positions=coord[0].numpy(), cell=cell, pbc=[True] * 3, cutoff=4.0)
    kept = np.array([sorted((kinds[a], kinds[b])) not in pairs for a, b in zip(i, j, strict=True)])
    # From the receiver to the sender's image.
    expected = rows(j[kept], i[kept], vectors[kept])
    found = builder.without_excluded_pairs(builder.of_frames(coord, atype, box))
    np.testing.assert_allclose(rows(*edges_of(found)), expected, atol=1e-7)
    assert kept.all() == (not pairs)
    # The same from a list of atoms with ghosts.
    _, (extended_coord, types, owner, nlist) = extended([random_frame(natoms=9, seed=0)], 4.0)
    listed = builder.of_list(extended_coord, types, nlist, owner, False)
    np.testing.assert_allclose(rows(*edges_of(builder.without_excluded_pairs(listed))), expected, atol=1e-7)


def test_lists_without_owners_are_refused():
    _, (coord, types, owner, nlist) = extended([random_frame(natoms=9, seed=0)], 4.0)
    builder = GraphBuilder(["O", "H"], 4.0, 2, 10**6, [])
    with pytest.raises(ValueError, match="ghost atoms need a mapping"):
        builder.of_list(coord, types, nlist, None, False)
    with pytest.raises(ValueError, match="exactly one frame"):
        builder.of_list(coord.repeat(2, 1, 1), types.repeat(2, 1), nlist.repeat(2, 1, 1), None, True)
    # A single layer asks no ghost for features.
    alone = GraphBuilder(["O", "H"], 4.0, 1, 10**6, [])
    assert torch.equal(
        alone.of_list(coord, types, nlist, None, False).edge_vec,
        builder.of_list(coord, types, nlist, owner, False).edge_vec,
    )


# --- evaluation -------------------------------------------------------------------------------------------------


def test_energies_and_derivatives_of_a_graph():
    """E0 on top of the network, nothing from padding; forces are slopes of the energy."""
    model = model_of()
    coord, atype, box = frames(1)
    atype[0, 4] = -1

    def energies(positions):
        return Evaluation.evaluate(model, model.graphs.of_frames(positions, atype, box), atype, 9, 9, None)

    energy, force, virial = energies(coord)
    assert energy[0, 4].item() == 0.0
    graph = model.graphs.of_frames(coord, atype, box)
    bare = model.energy_model(graph, None)[0][1:].detach()
    bias = torch.tensor([-5.0, -1.25], dtype=torch.float64)[atype[0].clamp(min=0)]
    assert_close(energy[0, :, 0].numpy(), torch.where(atype[0] < 0, 0.0, bare + bias).numpy(), EXACT)
    step = 1e-4
    for atom, axis in ((0, 1), (7, 2)):
        move = torch.zeros_like(coord)
        move[0, atom, axis] = step
        slope = (energies(coord + move)[0].sum() - energies(coord - move)[0].sum()) / (2 * step)
        assert abs(float(slope + force[0, atom, axis])) <= FINITE_DIFFERENCE * float(force.abs().max())
    assert not any(value.requires_grad for value in (energy, force, virial))
    assert energies(coord.requires_grad_())[1].requires_grad  # for second derivatives


def test_lone_atoms_have_their_energy():
    assert model_of().lone_energies().tolist() == [-5.0, -1.25]
    assert model_of(atom_exclude_types=[0]).lone_energies().tolist() == [0.0, -1.25]


@pytest.mark.parametrize("do_atomic_virial", [True, False])
def test_edge_list_of_frames(do_atomic_virial):
    """All frames on one axis: the host's numbers per frame and per atom are those of ``forward``."""
    model = model_of()
    coord, atype, box = frames()
    graph = model.graphs.of_frames(coord, atype, box)
    sender, receiver, vectors = map(torch.from_numpy, edges_of(graph))
    count = torch.tensor([9, 9])
    edges = torch.stack([sender, receiver]), vectors, torch.ones(len(sender), dtype=torch.bool)
    found = evaluate_edges(model, atype.reshape(-1), count, count, edges, None, do_atomic_virial, None)
    expected = model(coord, atype, box, do_atomic_virial=True)
    names = {
        "energy": expected["atom_energy"].reshape(18, 1),
        "energy_redu": expected["energy"],
        "energy_derv_r": expected["force"].reshape(18, 1, 3),
        "energy_derv_c_redu": expected["virial"].reshape(2, 1, 9),
        "energy_derv_c": expected["atom_virial"].reshape(18, 1, 9),
    }
    if not do_atomic_virial:
        del names["energy_derv_c"]
    assert found.keys() == names.keys()
    for name, value in names.items():
        assert found[name].shape == value.shape
        assert_close(found[name].numpy(), value.detach().numpy(), EXACT, name)


def test_edge_list_of_a_rank():
    """Owned atoms are nodes, ghosts are there to be pushed; without communication of features in one layer."""
    model = model_of(layers=1)
    whole, (coord, atype, owner, nlist) = extended([random_frame(natoms=9, seed=0)], model.get_rcut())
    listed = model.graphs.of_list(coord, atype, nlist, owner, False)
    real = listed.edge_index[1] > 0
    index, vectors = listed.edge_atoms[:, real] - 1, listed.edge_vec[real]
    edges = index, vectors.detach(), torch.ones(index.shape[1], dtype=torch.bool)
    total = atype.shape[1]
    none = {"nlocal": torch.tensor(9)}  # not read by a single layer
    found = evaluate_edges(model, atype[0], torch.tensor([total]), torch.tensor([9]), edges, None, True, none)
    expected = model(*whole, do_atomic_virial=True)
    assert not found["energy"][9:].any()
    home = torch.zeros(9, 3, dtype=torch.float64).index_add(0, owner[0], found["energy_derv_r"][:, 0])
    assert_close(home.numpy(), expected["force"][0].detach().numpy(), EXACT)
    assert_close(found["energy_derv_c_redu"][0].numpy(), expected["virial"].detach().numpy(), EXACT)


def test_unknown_types_of_an_edge_list_get_no_number():
    """Where no operator checks the input."""
    model = model_of()
    # What the host adds to every list, so that none is empty.
    guard = torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, 3).double(), torch.zeros(2, dtype=torch.bool)
    count = torch.tensor([3])
    energy = evaluate_edges(model, torch.tensor([1, 2, -1]), count, count, guard, None, False, None)["energy"]
    np.testing.assert_equal(energy[:, 0].numpy(), [-1.25, np.nan, 0.0])


@pytest.mark.parametrize("do_atomic_virial", [True, False])
def test_padded_list(do_atomic_virial):
    """Slots without a neighbour count for nothing, wherever they stand."""
    model = model_of()
    whole, (coord, atype, owner, nlist) = extended([random_frame(natoms=9, seed=s) for s in (0, 1)], 4.0)
    shuffled = nlist[:, :, torch.randperm(nlist.shape[2])]
    found = evaluate_slots(model, do_atomic_virial, coord, atype, shuffled, owner)
    expected = model(*whole)
    assert ("energy_derv_c" in found) == do_atomic_virial
    assert_close(found["energy_redu"].numpy(), expected["energy"].detach().numpy(), EXACT)
    home = torch.zeros(2, 9, 3, dtype=torch.float64)
    home = home.scatter_add(1, owner.unsqueeze(2).expand(-1, -1, 3), found["energy_derv_r"].squeeze(2))
    assert_close(home.numpy(), expected["force"].detach().numpy(), EXACT)
