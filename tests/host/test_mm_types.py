"""QM/MM models: MM types do not see each other, have no energy of their own, and share their element's number."""

import numpy as np
import pytest
import torch
from helpers import TINY, assert_close, native_graph, native_model, our_results, random_frame, tiny_model
from native_models import default_dtype
from tolerances import NATIVE

from deepmd_gnn.config.mm_types import element_of, is_mm, mm_pairs
from deepmd_gnn.host.counts import average_num_neighbors, count_forces
from deepmd_gnn.native.writer import native_from

TYPE_MAP = ["O", "H", "mH", "OW", "HW"]
QM_MM = {"type_map": TYPE_MAP, "atomic_energies": {"O": -5.0, "H": -1.25}, "scale": 30.0}
MM = np.array([is_mm(name) for name in TYPE_MAP])


def frame(natoms=20, seed=0):
    return random_frame(natoms, 7.0, seed=seed, ntypes=len(TYPE_MAP))


def test_names():
    assert [element_of(name) for name in TYPE_MAP] == ["O", "H", "H", "O", "H"]
    assert MM.tolist() == [False, False, True, True, True]
    assert not any(is_mm(name) for name in ("Mg", "Mo", "H", "m", "W"))
    assert mm_pairs(["HW", "O", "OW"]) == [[0, 0], [0, 2], [2, 2]]
    assert tiny_model(**QM_MM).energy_model.atomic_numbers.tolist() == [8, 1, 1, 8, 1]


@pytest.mark.parametrize(
    "options", [{}, {"pair_repulsion": True, "distance_transform": "Agnesi"}, {"num_interactions": 3}]
)
def test_equals_native_without_the_edges(options):
    """Native MACE with one element per type, on the graph from which the edges between MM atoms are removed."""
    model = tiny_model(**QM_MM, **options)
    coord, types, cell = frame()
    graph = native_graph(model, coord, types, cell)
    sender, receiver = graph["edge_index"]
    keep = torch.tensor(~(MM[types[sender]] & MM[types[receiver]]))
    assert 0 < int(keep.sum()) < len(keep)
    for key in ("unit_shifts", "shifts"):
        graph[key] = graph[key][keep]
    graph["edge_index"] = graph["edge_index"][:, keep]
    with default_dtype():
        native = native_model(model)(graph, compute_virials=True, compute_displacement=True)
    ours = our_results(model, coord, types, cell)
    energies = native["node_energy"].detach().numpy() + np.array([-5.0, -1.25, 0, 0, 0])[types]
    assert_close(ours["atom_energy"][:, 0], energies, NATIVE["float64"], "energy")
    assert_close(ours["force"], native["forces"].detach().numpy(), NATIVE["float64"], "force")
    assert_close(ours["virial"], native["virials"].detach().numpy().reshape(9), NATIVE["float64"], "virial")


@pytest.mark.parametrize("kind", ["eager", "scripted"])
def test_mm_atoms_alone_have_neither_energy_nor_forces(kind):
    model = tiny_model(**QM_MM)
    coord, types, cell = frame()
    types = np.where(MM[types], types, 3)
    runner = torch.jit.script(model) if kind == "scripted" else model
    out = our_results(runner, coord, types, cell)
    assert not out["atom_energy"].any()
    assert not out["force"].any()


def test_mm_atoms_beyond_the_cutoff_of_the_qm_atoms_change_nothing():
    """However many MM atoms a program hands over, the correction is that of those near the QM region."""
    model = tiny_model(**QM_MM)
    coord, types, _ = random_frame(12, 6.0, seed=2, ntypes=len(TYPE_MAP))
    far, far_types, _ = random_frame(9, 6.0, seed=3, ntypes=1)
    # Within reach of the MM atoms at the edge, but of no QM atom.
    types[np.argmax(coord[:, 0])] = 3
    qm = coord[~MM[types]]
    far = far + [qm[:, 0].max() + model.get_rcut() + 0.1 - far[:, 0].min(), 0.0, 0.0]
    assert np.linalg.norm(coord[MM[types]][:, None] - far[None], axis=2).min() < model.get_rcut()
    alone = our_results(model, coord, types, None)
    more = our_results(model, np.vstack([coord, far]), np.append(types, far_types + 4), None)
    assert_close(more["energy"], alone["energy"], NATIVE["float64"], "energy")
    assert_close(more["force"][: len(coord)], alone["force"], NATIVE["float64"], "force")
    assert not more["force"][len(coord) :].any()


def test_types_of_one_element_learn_separately():
    """HW is not H: other weights, so another energy in the same place."""
    model = tiny_model(**QM_MM)
    coord, cell = np.array([[0.0, 0, 0], [1.1, 0, 0]]), None
    quantum, water, other = (our_results(model, coord, [0, kind], cell)["energy"][0] for kind in (1, 4, 2))
    assert len({round(float(value), 6) for value in (quantum - -1.25, water, other)}) == 3


def sampled(frames, labels=None):
    coord, types, cell = (np.stack([one[k] for one in frames]) for k in range(3))
    system = {
        "coord": torch.tensor(coord),
        "atype": torch.tensor(types),
        "box": torch.tensor(cell.reshape(-1, 9)),
    }
    counts = np.stack([np.bincount(row, minlength=len(TYPE_MAP)) for row in types])
    natoms = np.hstack([np.full((len(frames), 2), types.shape[1]), counts])
    system["natoms"] = torch.tensor(natoms)
    if labels is not None:
        system |= {key: torch.tensor(value) for key, value in labels.items()}
        system |= {"find_energy": 1.0, "find_force": 1.0}
    return [system]


def test_statistics():
    """E0 of MM types is zero whatever the data say; neighbours and forces are counted where the model has edges."""
    from matscipy.neighbours import neighbour_list

    frames = [frame(seed=seed) for seed in range(8)]
    data = sampled(frames)
    natoms = data[0]["natoms"][:, 2:].numpy()
    rng = np.random.default_rng(0)
    force = rng.normal(size=(8, 20, 3))
    energy = natoms @ np.array([-7.0, -2.0, 5.0, 6.0, 7.0])
    data = sampled(frames, {"energy": energy[:, None], "force": force})
    model = tiny_model(**{**QM_MM, "atomic_energies": "auto", "scale": "auto", "avg_num_neighbors": "auto"})
    model.compute_or_load_stat(lambda: data)
    expected = np.linalg.lstsq(natoms[:, :2].astype(float), energy, rcond=None)[0]
    assert_close(model.out_bias.flatten().numpy(), np.append(expected, [0, 0, 0]), 1e-8, "E0")
    edges, atoms = 0, 0
    for coord, types, cell in frames:
        i, j = neighbour_list("ij", positions=coord, cell=cell, pbc=[True] * 3, cutoff=TINY["r_max"])
        i = i[~(MM[types[i]] & MM[types[j]])]
        edges, atoms = edges + len(i), atoms + len(set(i))
    assert float(model.energy_model.avg_num_neighbors) == pytest.approx(edges / atoms)
    assert average_num_neighbors(data, TINY["r_max"]) > edges / atoms
    quantum = np.concatenate([f[~MM[types]] for f, (_, types, _) in zip(force, frames, strict=True)])
    assert float(model.energy_model.scale) == pytest.approx(float(np.sqrt(np.mean(quantum**2))))
    squares, components = count_forces(data)
    assert (squares / components) ** 0.5 != pytest.approx(float(model.energy_model.scale))
    for mode in ("change-by-statistic", "set-by-statistic"):
        model.change_out_bias(data, mode)
        assert model.out_bias[0, 2:, 0].abs().max() == 0


def test_statistics_are_not_taken_from_a_file_with_other_exclusions(tmp_path):
    from deepmd.utils.path import DPPath

    data = sampled(
        [frame(seed=seed) for seed in range(2)], {"energy": np.zeros((2, 1)), "force": np.ones((2, 20, 3))}
    )
    found = []
    for pairs in ([], [[0, 0]], []):
        model = tiny_model(**{**QM_MM, "avg_num_neighbors": "auto"}, pair_exclude_types=pairs)
        model.compute_or_load_stat(lambda: data, DPPath(str(tmp_path), "a"))
        found.append(float(model.energy_model.avg_num_neighbors))
    assert found[1] < found[0] == found[2]


def test_fine_tuning_takes_mm_types_up():
    model = tiny_model()
    coord, types, cell = random_frame()
    before = our_results(model, coord, types, cell)
    model.change_type_map(["H", "HW", "O"])
    after = our_results(model, coord, np.where(types == 0, 2, 0), cell)
    assert_close(after["force"], before["force"], NATIVE["float64"])
    assert not our_results(model, coord, np.ones_like(types), cell)["atom_energy"].any()


def test_excluded_pairs_follow_their_elements():
    """After a change of the type map, the pair that was excluded is still the excluded one."""
    model = tiny_model(pair_exclude_types=[[1, 1]])
    coord, types, cell = random_frame()
    before = our_results(model, coord, types, cell)
    model.change_type_map(["C", "H", "O"])
    assert model.pair_exclude_types == [[1, 1]]
    model.change_type_map(["H", "O"])
    assert model.pair_exclude_types == [[0, 0]]
    assert_close(our_results(model, coord, 1 - types, cell)["force"], before["force"], NATIVE["float64"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"interaction_first": "RealAgnosticResidual"}, "interaction_first"),
        ({"readout_cls": "NonLinearBiasReadoutBlock"}, "readout_cls"),
        ({"type_map": ["OW", "HW"], "atomic_energies": "auto"}, "no MM type"),
        ({"type_map": ["O", "mXx"]}, "mXx"),
        ({"atomic_energies": {"O": -5.0, "HW": -1.0}}, "MM type HW"),
    ],
)
def test_refused(options, words):
    with pytest.raises(ValueError, match=words):
        tiny_model(**{**QM_MM, **options})


def test_native_export_is_refused():
    with pytest.raises(ValueError, match="MM types"):
        native_from(tiny_model(**QM_MM))
