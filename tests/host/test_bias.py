"""E0 and the other statistics: what is given, what is fitted, what the stat file keeps, against least squares and counts by hand."""

import numpy as np
import pytest
import torch
from deepmd.utils.path import DPPath
from matscipy.neighbours import neighbour_list
from toy_network import ToyModel
from training_data import sampled_frames

from deepmd_gnn.host.bias import change_out_bias, given_bias, given_types, take_given
from deepmd_gnn.host.statistics import compute_or_load_stat
from deepmd_gnn.stat_compat import fitted_energies, observed_elements

QM_MM = {"type_map": ["O", "H", "HW"]}


def model_of(type_map=("O", "H"), **options):
    """A model that is built in no time: nothing here depends on the network."""
    return ToyModel(list(type_map), **{"avg_num_neighbors": 8.0, "scale": 1.3, **options}).eval()


def stat_path(folder):
    (folder / "stat").mkdir(exist_ok=True)
    return DPPath(str(folder / "stat"), "a")


def not_called():
    raise AssertionError("the stat file has the answer")


def plain(given):
    return (
        None if given is None else [None if value is None else float(value[0]) for value in given["energy"]]
    )


# --- given energies ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"atomic_energies": {"H": -1.5}}, [None, -1.5]),
        ({"atomic_energies": [-5.0, -1.0]}, [-5.0, -1.0]),
        ({"atomic_energies": "auto"}, None),
        ({"atomic_energies": "auto", "preset_out_bias": {"energy": [None, -13.6]}}, [None, -13.6]),
        (QM_MM, [None, None, 0.0]),
        ({**QM_MM, "atomic_energies": {"O": -3.0}}, [-3.0, None, 0.0]),
    ],
)
def test_given_energies_have_the_hosts_form(options, expected):
    assert plain(given_bias(model_of(**options))) == expected


def test_given_energies_that_do_not_fit():
    model = model_of(**QM_MM)
    model.preset_out_bias = {"energy": [1.0, 2.0]}
    with pytest.raises(ValueError, match="atomic_energies has 2 values, but type_map has 3 elements"):
        given_bias(model)
    model.preset_out_bias = {"energy": [1.0, 2.0, 0.5]}
    with pytest.raises(ValueError, match=r"atomic energy of the MM type HW is 0\.5 eV, but must be 0"):
        given_bias(model)


def test_only_given_energies_are_taken():
    model = model_of(**QM_MM)
    model.set_out_bias(torch.tensor([-9.0, -8.0, -7.0]))
    given = {"energy": [np.array([-3.0]), None, np.zeros(1)]}
    take_given(model, given)
    assert model.out_bias.flatten().tolist() == [-3.0, -8.0, 0.0]
    assert given_types(model, given) == ["O"]
    assert given_types(model, None) == []


# --- fitted energies --------------------------------------------------------------------------------------------


def counts_of(sample):
    return np.stack([(sample["atype"] == kind).sum(dim=1).numpy() for kind in range(2)], axis=1)


def test_fit_is_least_squares():
    """Energies over the numbers of atoms of each type; with one of them given, of what is left."""
    sample = sampled_frames()
    counts, energy = counts_of(sample), sample["energy"].numpy()[:, 0]
    expected = np.linalg.lstsq(counts, energy, rcond=None)[0]
    found = fitted_energies(lambda: [sample], 2)
    assert found.shape == (2, 1)
    np.testing.assert_allclose(found.flatten(), expected, rtol=1e-10)
    preset = {"energy": [None, np.array([-1.0])]}
    found = fitted_energies(lambda: [sample], 2, preset_bias=preset).flatten()
    rest = np.linalg.lstsq(counts[:, :1], energy + counts[:, 1], rcond=None)[0]
    np.testing.assert_allclose(found, [rest[0], -1.0], rtol=1e-10)


@pytest.mark.parametrize("mode", ["change-by-statistic", "set-by-statistic"])
def test_changed_energies_explain_the_labels(mode):
    """Two frames of two compositions: E0 fit exactly, to the labels or to what the prediction lacks of them."""
    model, sample = model_of(atomic_energies="auto"), sampled_frames()
    change_out_bias(model, [sample], mode)
    energies = counts_of(sample) @ model.out_bias.flatten().numpy()
    if mode == "change-by-statistic":
        energies = model(sample["coord"], sample["atype"], sample["box"])["energy"].detach().numpy()[:, 0]
    np.testing.assert_allclose(energies, sample["energy"].numpy()[:, 0], rtol=1e-9)


def test_other_modes_are_refused():
    with pytest.raises(ValueError, match="bias_adjust_mode is 'all', but must be one of .*set-by-statistic"):
        change_out_bias(model_of(), [sampled_frames()], "all")


def test_mm_types_stay_without_energy():
    model = model_of(**QM_MM)
    sample = sampled_frames()
    sample["atype"] = torch.where(sample["atype"] == 1, 2, sample["atype"])  # O and HW
    counts = torch.stack([(sample["atype"] == kind).sum(dim=1) for kind in range(3)], dim=1)
    sample["natoms"] = torch.cat([sample["natoms"][:, :2], counts], dim=1)
    change_out_bias(model, lambda: [sample], "set-by-statistic")
    assert model.out_bias[0, 2].item() == 0.0
    assert model.out_bias[0, 0].item() != 0.0


# --- all statistics ---------------------------------------------------------------------------------------------


def expected_neighbors(sample, model, seen=lambda kinds: kinds >= 0):
    """Neighbours per atom that has any, by another program."""
    edges = atoms = 0
    for coord, kinds, box in zip(*(sample[key].numpy() for key in ("coord", "atype", "box")), strict=True):
        i, j = neighbour_list(
            "ij", positions=coord, cell=box.reshape(3, 3), pbc=[True] * 3, cutoff=model.rcut
        )
        kept = seen(kinds[i] + 10 * kinds[j])
        edges, atoms = edges + kept.sum(), atoms + len(set(i[kept]))
    return edges / atoms


def test_statistics_are_counted_once(tmp_path):
    free = {"avg_num_neighbors": "auto", "scale": "auto", "atomic_energies": "auto"}
    first, second = model_of(**free), model_of(**free)
    sample = sampled_frames()
    compute_or_load_stat(first, lambda: [sample], stat_path(tmp_path))
    assert float(first.energy_model.avg_num_neighbors) == pytest.approx(expected_neighbors(sample, first))
    assert float(first.energy_model.scale) == pytest.approx(float(sample["force"].square().mean().sqrt()))
    assert first.observed_type == ["O", "H"]
    compute_or_load_stat(second, not_called, stat_path(tmp_path))
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value) or name.split(".")[0] == "network_options", name


def test_pairs_that_do_not_count_have_numbers_of_their_own(tmp_path):
    """The stat file of the model without exclusions is not read for one with them."""
    sample = sampled_frames()
    for pairs in ([], [[0, 0]]):
        model = model_of(avg_num_neighbors="auto", pair_exclude_types=pairs)
        compute_or_load_stat(model, lambda: [sample], stat_path(tmp_path), ["O", "H"])
        expected = expected_neighbors(sample, model, (lambda kinds: kinds > 0) if pairs else lambda k: k >= 0)
        assert float(model.energy_model.avg_num_neighbors) == pytest.approx(expected)


def test_without_forces_the_scale_is_one(caplog):
    model, sample = model_of(scale="auto"), sampled_frames()
    sample["force"] *= 0
    compute_or_load_stat(model, lambda: [sample], None, ["O", "H"])
    assert float(model.energy_model.scale) == 1.0
    assert "no forces or only zero forces; using 1" in caplog.text


def test_observed_elements_are_kept(tmp_path):
    """By atomic number, as the host sorts them; the second time from the file."""
    sample = sampled_frames()
    assert observed_elements(lambda: [sample], stat_path(tmp_path), ["O", "H", "C"]) == ["H", "O"]
    assert observed_elements(not_called, stat_path(tmp_path), ["O", "H", "C"]) == ["H", "O"]
    sample["atype"] *= 0
    assert observed_elements(lambda: [sample], None, ["O", "H"]) == ["O"]
