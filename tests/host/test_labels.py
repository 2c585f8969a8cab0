"""Labels that are absent or no numbers: E0 stay, and a bad frame is named."""

import logging

import numpy as np
import pytest
import torch
from deepmd.utils.data_system import DeepmdDataSystem
from deepmd.utils.path import DPPath
from helpers import tiny_model
from training_data import composition_frames, sampled_frames, write_mixed_system, write_system

from deepmd_gnn.host.data_types import check_atom_types
from deepmd_gnn.host.labels import check_files
from deepmd_gnn.mace import MaceModel

FREE = {"atomic_energies": "auto", "scale": "auto", "avg_num_neighbors": "auto"}


def forces_only(absent=True):
    """As the host samples data without energies: no label, or zeros and a note beside them."""
    frames = sampled_frames()
    if absent:
        return {key: value for key, value in frames.items() if key not in ("energy", "find_energy")}
    return {**frames, "energy": torch.zeros(2, 1, dtype=torch.float64), "find_energy": np.float32(0.0)}


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("mode", ["change-by-statistic", "set-by-statistic"])
def test_energies_stay_without_labels(mode, absent, caplog):
    model = tiny_model(atomic_energies="auto")
    model.set_out_bias(torch.tensor([-3.0, -1.0]))
    with caplog.at_level(logging.WARNING):
        model.change_out_bias([forces_only(absent)], mode)
    assert model.out_bias.flatten().tolist() == [-3.0, -1.0]
    assert caplog.text.count("the data has no energies to fit them to; they stay as they are") == 1


@pytest.mark.parametrize("absent", [True, False])
def test_a_new_model_needs_no_energies(absent, tmp_path, caplog):
    (tmp_path / "e0.json").write_text('{"O": -7.0}')
    for given, expected in (("auto", [0.0, 0.0]), (str(tmp_path / "e0.json"), [-7.0, 0.0])):
        model = tiny_model(**{**FREE, "atomic_energies": given})
        (tmp_path / "stat").mkdir(exist_ok=True)
        model.compute_or_load_stat(lambda: [forces_only(absent)], DPPath(str(tmp_path / "stat"), "a"))
        assert model.out_bias.flatten().tolist() == expected
        assert float(model.energy_model.scale) == pytest.approx(
            float(sampled_frames()["force"].square().mean() ** 0.5)
        )
    assert "no energies" in caplog.text


@pytest.mark.parametrize("absent", [True, False])
def test_systems_with_energies_count(absent):
    """Whatever stands first: the host looks at the labels of the first system only."""
    alone, mixed = tiny_model(), tiny_model()
    alone.change_out_bias([sampled_frames()])
    mixed.change_out_bias([forces_only(absent), sampled_frames()])
    assert torch.equal(alone.out_bias, mixed.out_bias)


@pytest.mark.parametrize("key", ["energy", "force", "coord", "box"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_samples_are_named(key, value):
    frames = sampled_frames()
    frames[key].view(2, -1)[1, -1] = value
    message = f"mace model: {key} of a sampled frame in system 1 of the training data"
    for use in (
        lambda model, data: model.compute_or_load_stat(lambda: data, preset_observed_type=["O", "H"]),
        lambda model, data: model.change_out_bias(data),
        lambda model, data: model.change_out_bias(lambda: data, "set-by-statistic"),
    ):
        with pytest.raises(ValueError, match=message):
            use(tiny_model(**FREE), [sampled_frames(), frames])


def test_absent_labels_may_be_anything():
    frames = {**sampled_frames(), "virial": torch.full((2, 9), torch.nan), "find_virial": np.float32(0.0)}
    tiny_model(**FREE).change_out_bias([frames])


@pytest.mark.parametrize("name", ["energy", "force", "virial"])
def test_all_frames_of_the_files_are_read(name, tmp_path):
    write_system(tmp_path / "good", composition_frames(4, 2, 1, box_length=4.5))
    write_system(tmp_path / "bad", composition_frames(4, 3, 0, box_length=4.5))
    data = DeepmdDataSystem([str(tmp_path / "good"), str(tmp_path / "bad")], 1, 1, 4.0, type_map=["O", "H"])
    check_files(data)
    file = tmp_path / "bad" / "set.000" / f"{name}.npy"
    values = np.load(file)
    values.reshape(3, -1)[2, 0] = np.nan
    np.save(file, values)
    section = {"type": "mace", "type_map": ["O", "H"], "r_max": 3.0}
    with pytest.raises(
        ValueError, match=f"mace model: {name} of frame 2 .* in .*bad/set.000/{name}.npy is not finite"
    ):
        MaceModel.update_sel(data, ["O", "H"], section)


def section_of(system):
    data = DeepmdDataSystem([str(system)], 1, 1, 4.0, type_map=["O", "H"])
    MaceModel.update_sel(data, ["O", "H"], {"type": "mace", "type_map": ["O", "H"], "r_max": 3.0})


@pytest.mark.parametrize("wrong", ["-2", "0.5", "-1"])
def test_types_that_the_host_would_take_for_others(wrong, tmp_path):
    write_system(tmp_path / "s", composition_frames(4, 2, 0, box_length=4.5))
    (tmp_path / "s" / "type.raw").write_text(f"0\n1\n{wrong}\n1\n")
    with pytest.raises(ValueError, match=f"mace model: .*type.raw has atom type {float(wrong)}. "):
        section_of(tmp_path / "s")


def test_types_of_a_set_and_of_its_system(tmp_path):
    """One file for all sets, or one for each frame, where -1 is padding."""
    folder = tmp_path / "s" / "set.000"
    folder.mkdir(parents=True)
    check_atom_types(DPPath(str(folder)))  # the host says what is missing
    (tmp_path / "s" / "type.raw").write_text("0 1 1\n")
    np.save(folder / "real_atom_types.npy", np.array([[0, 1, -1], [1, 1, 0]]))
    check_atom_types(DPPath(str(folder)))
    for types, wrong in (([[0, 1, -2]], "-2"), ([[0.0, 1.5, 0.0]], "1.5"), ([[np.nan, 0.0, 0.0]], "nan")):
        np.save(folder / "real_atom_types.npy", np.array(types))
        with pytest.raises(ValueError, match=f"real_atom_types.npy has atom type {wrong}. Give each atom"):
            check_atom_types(DPPath(str(folder)))


def test_mixed_types_that_the_host_would_take_for_others(tmp_path):
    write_mixed_system(tmp_path / "s", composition_frames(4, 2, 0, box_length=4.5))
    file = tmp_path / "s" / "set.000" / "real_atom_types.npy"
    types = np.load(file)
    types[1, 2] = -2
    np.save(file, types)
    with pytest.raises(ValueError, match=r"mace model: .*real_atom_types.npy has atom type -2. "):
        section_of(tmp_path / "s")


def test_labels_that_are_no_numbers(tmp_path):
    write_system(tmp_path / "s", composition_frames(4, 2, 0, box_length=4.5))
    np.save(tmp_path / "s" / "set.000" / "energy.npy", np.array(["a", "b"]))
    with pytest.raises(
        ValueError, match=r"mace model: .*energy.npy is of type <U1, but must hold real numbers"
    ):
        section_of(tmp_path / "s")


def test_cells_that_are_not_there(tmp_path, caplog):
    """The exportable trainer has zeros in their place; a cell beside nopbc is said."""
    free = {**sampled_frames(), "box": np.zeros((2, 9)), "find_box": np.bool_(False)}
    none = {**free, "box": None}
    results = []
    for frames in (free, none):
        model = tiny_model(**FREE)
        model.compute_or_load_stat(lambda frames=frames: [frames])
        model.change_out_bias([frames])
        coord = frames["coord"].clone().requires_grad_()
        box = None if frames is none else torch.zeros(2, 9, dtype=torch.float64)
        results.append(
            (
                model.out_bias,
                model.energy_model.avg_num_neighbors,
                model(coord, frames["atype"], box)["energy"],
            )
        )
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
    system = write_system(tmp_path / "free", composition_frames(3, 1, 0), periodic=False)
    data = DeepmdDataSystem([system], 1, 1, 4.0, type_map=["O", "H"])
    MaceModel.update_sel(data, ["O", "H"], {"type": "mace", "type_map": ["O", "H"], "r_max": 3.0})
    assert "has nopbc and box.npy" in caplog.text


def test_data_without_pairs(tmp_path):
    """What is filled in for `sel` passes the check of what a user writes."""
    coord, types, cell = composition_frames(3, 1, 0)[0]
    coord = np.arange(3)[:, None] * np.array([20.0, 0.0, 0.0]) + coord[:1]
    system = write_system(tmp_path / "gas", [(coord, types, cell)], periodic=False)
    data = DeepmdDataSystem([system], 1, 1, 4.0, type_map=["O", "H"])
    section = {"type": "mace", "type_map": ["O", "H"], "r_max": 4.0, "num_channels": 2}
    for kind in (section, {**section, "sel": 7}, {**section, "descriptor": {"max_ell": 1}}):
        filled, _ = MaceModel.update_sel(data, ["O", "H"], kind)
        assert MaceModel(**{k: v for k, v in filled.items() if k != "type"}).get_sel() == [
            7 if "sel" in kind else 1
        ]
