"""`dp --pt train` and everything a DeePMD-kit user does with it."""

import numpy as np
import pytest
import torch
from deepmd.infer import DeepPot
from deepmd_run import base_input, run_dp
from helpers import tiny_model
from training_data import composition_frames, write_mixed_system, write_system

from deepmd_gnn.host.counts import average_num_neighbors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    return {
        "a": write_system(root / "a", composition_frames(8, 8, 0, box_length=5.0)),
        "b": write_system(root / "b", composition_frames(6, 6, 100, box_length=4.5)),
        "free": write_system(root / "free", composition_frames(7, 4, 200, box_length=5.0), periodic=False),
        "mixed": write_mixed_system(
            root / "mixed",
            [*composition_frames(5, 2, 300, box_length=5.0), *composition_frames(8, 2, 400, box_length=5.0)],
        ),
    }


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A finished training run with two systems, validation data, EMA and full validation."""
    folder = tmp_path_factory.mktemp("trained")
    config = base_input([data["a"], data["b"]], [data["b"]], steps=80, lr=0.02)
    config["training"].update(enable_ema=True, ema_decay=0.9, stat_file=str(folder / "stat.hdf5"))
    config["validating"] = {
        "full_validation": True,
        "validation_freq": 40,
        "save_best": True,
        "validation_metric": "F:RMSE",
    }
    run_dp(folder, "train", config)
    return folder


def weights(path):
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def lcurve(folder):
    return np.genfromtxt(folder / "lcurve.out", names=True)


def test_loss_falls_and_files_are_there(trained):
    curve = lcurve(trained)
    assert curve["rmse_f_trn"][-1] < 0.5 * curve["rmse_f_trn"][0]
    assert np.isfinite(curve["rmse_v_val"]).all()
    names = {p.name for p in trained.iterdir()}
    assert {"model.ckpt.pt", "model.ckpt-80.pt"} <= names
    assert any("ema" in name for name in names)
    assert any("best" in name for name in names)


def test_statistics_come_from_the_data(trained, data):
    state = weights(trained / "model.ckpt.pt")
    sampled, forces = [], []
    for key in ("a", "b"):
        coord = np.load(f"{data[key]}/set.000/coord.npy")
        atype = np.loadtxt(f"{data[key]}/type.raw", dtype=int)
        box = np.load(f"{data[key]}/set.000/box.npy")
        sampled.append({"coord": coord, "atype": np.tile(atype, (len(coord), 1)), "box": box})
        forces.append(np.load(f"{data[key]}/set.000/force.npy").ravel())
    average = float(state["model.Default.descriptor.avg_num_neighbors"])
    assert average == pytest.approx(average_num_neighbors(sampled, 4.0), rel=1e-6)
    assert average == pytest.approx(brute_force_neighbors(sampled, 4.0), rel=1e-6)
    rms = float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))
    assert float(state["model.Default.fitting_net.scale"]) == pytest.approx(rms, rel=1e-6)
    log = (trained / "train.log").read_text()
    assert "MACE avg_num_neighbors" in log
    assert "MACE scale" in log
    assert "MACE atomic energy E0 of O" in log


def brute_force_neighbors(sampled, r_max):
    from matscipy.neighbours import neighbour_list

    edges = atoms = 0
    for system in sampled:
        for x, cell in zip(system["coord"], system["box"], strict=True):
            i = neighbour_list(
                "i", positions=x.reshape(-1, 3), cell=cell.reshape(3, 3), pbc=[True] * 3, cutoff=r_max
            )
            edges, atoms = edges + len(i), atoms + len(np.unique(i))
    return edges / atoms


def test_given_statistics_are_kept(data, tmp_path):
    config = base_input([data["a"]], None, steps=1)
    config["model"].update(avg_num_neighbors=3.5, scale=2.5, atomic_energies={"O": -7.0, "H": -1.0})
    run_dp(tmp_path, "train", config)
    state = weights(tmp_path / "model.ckpt.pt")
    assert float(state["model.Default.descriptor.avg_num_neighbors"]) == 3.5
    assert float(state["model.Default.fitting_net.scale"]) == 2.5
    assert state["model.Default.out_bias"].flatten().tolist() == [-7.0, -1.0]


def test_partly_given_energies_fit_the_rest(data, tmp_path):
    config = base_input([data["a"], data["b"]], None, steps=1)
    config["model"]["atomic_energies"] = {"O": -5.5}
    run_dp(tmp_path, "train", config)
    bias = weights(tmp_path / "model.ckpt.pt")["model.Default.out_bias"].flatten().tolist()
    counts, energies = [], []
    for key in ("a", "b"):
        energy = np.load(f"{data[key]}/set.000/energy.npy").ravel()
        atype = np.loadtxt(f"{data[key]}/type.raw", dtype=int)
        counts += [[np.sum(atype == 0), np.sum(atype == 1)]] * len(energy)
        energies += list(energy)
    oxygen, hydrogen = np.array(counts, dtype=float).T
    rest = np.array(energies) + 5.5 * oxygen
    assert bias[0] == pytest.approx(-5.5)
    assert bias[1] == pytest.approx((rest @ hydrogen) / (hydrogen @ hydrogen), rel=1e-6)


def test_stat_file_is_read_back(trained, data, tmp_path):
    config = base_input([data["free"]], None, steps=1)  # other data: the numbers must come from the file
    config["training"]["stat_file"] = str(trained / "stat.hdf5")
    run_dp(tmp_path, "train", config)
    old, new = weights(trained / "model.ckpt.pt"), weights(tmp_path / "model.ckpt.pt")
    for name in ("descriptor.avg_num_neighbors", "fitting_net.scale"):
        assert float(new["model.Default." + name]) == float(old["model.Default." + name])


def test_restart_continues_and_keeps_statistics(trained, data, tmp_path):
    config = base_input([data["free"]], None, steps=82)
    config["training"]["disp_freq"] = 1
    run_dp(tmp_path, "train", config, "--restart", str(trained / "model.ckpt.pt"))
    old, new = weights(trained / "model.ckpt.pt"), weights(tmp_path / "model.ckpt.pt")
    for name in ("descriptor.avg_num_neighbors", "fitting_net.scale", "out_bias"):
        assert torch.equal(new["model.Default." + name], old["model.Default." + name])
    name = "model.Default.descriptor.interactions.0.linear_up.weight"
    assert not torch.equal(new[name], old[name])
    assert lcurve(tmp_path)["step"].tolist() == [81, 82]


def test_init_model(trained, data, tmp_path):
    config = base_input([data["a"]], None, steps=1, lr=1e-12)
    run_dp(tmp_path, "train", config, "--init-model", str(trained / "model.ckpt.pt"))
    assert_same_energy(trained / "model.ckpt.pt", tmp_path / "model.ckpt.pt")


def test_init_model_with_its_own_script(trained, data, tmp_path):
    config = base_input([data["a"]], None, steps=1, lr=1e-12)
    config["model"] = {"type_map": ["O", "H"], "type": "mace"}
    run_dp(tmp_path, "train", config, "--init-model", str(trained / "model.ckpt.pt"), "--use-pretrain-script")
    assert_same_energy(trained / "model.ckpt.pt", tmp_path / "model.ckpt.pt")


def test_init_frozen_model(trained, data, tmp_path):
    run_dp(trained, "freeze", None, "-o", str(tmp_path / "start.pth"))
    config = base_input([data["a"]], None, steps=1, lr=1e-12)
    run_dp(tmp_path, "train", config, "--init-frz-model", str(tmp_path / "start.pth"))
    assert_same_energy(trained / "model.ckpt.pt", tmp_path / "model.ckpt.pt")


@pytest.mark.parametrize("type_map", [["O", "H"], ["C", "H", "O"]])
def test_finetune(trained, data, tmp_path, type_map):
    """Same and other elements: weights and normalisations are the old ones, E0 fits the new data."""
    config = base_input([data["b"]], None, steps=1, lr=1e-12)
    config["model"]["type_map"] = type_map
    run_dp(tmp_path, "train", config, "--finetune", str(trained / "model.ckpt.pt"))
    old, new = weights(trained / "model.ckpt.pt"), weights(tmp_path / "model.ckpt.pt")
    for name in ("descriptor.avg_num_neighbors", "fitting_net.scale"):
        assert torch.equal(new["model.Default." + name], old["model.Default." + name])
    coord, cell = np.load(f"{data['b']}/set.000/coord.npy"), np.load(f"{data['b']}/set.000/box.npy")
    label, atype = np.load(f"{data['b']}/set.000/energy.npy"), np.loadtxt(f"{data['b']}/type.raw", dtype=int)
    before = DeepPot(str(trained / "model.ckpt.pt")).eval(coord, cell, atype)
    renamed = [type_map.index(("O", "H")[t]) for t in atype]
    after = DeepPot(str(tmp_path / "model.ckpt.pt")).eval(coord, cell, renamed)
    np.testing.assert_allclose(after[1], before[1], atol=1e-8)
    assert abs((after[0].ravel() - label.ravel()).mean()) < 1e-6


def assert_same_energy(first, second):
    coord, atype, cell = composition_frames(8, 1, 900, box_length=5.0)[0]
    energies = [DeepPot(str(p)).eval(coord[None], cell[None], atype)[0].item() for p in (first, second)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)


def test_same_seed_same_model(data, tmp_path):
    states = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run_dp(tmp_path / name, "train", base_input([data["a"], data["b"]], None, steps=3))
        states.append(weights(tmp_path / name / "model.ckpt.pt"))
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][key]), key
    other = base_input([data["a"], data["b"]], None, steps=3)
    other["model"]["seed"] = 5
    (tmp_path / "three").mkdir()
    run_dp(tmp_path / "three", "train", other)
    name = "model.Default.descriptor.interactions.0.linear_up.weight"
    assert not torch.equal(weights(tmp_path / "three" / "model.ckpt.pt")[name], states[0][name])


@pytest.mark.parametrize("systems", [["mixed"], ["free"], ["a", "free"]])
def test_other_kinds_of_data(data, tmp_path, systems):
    config = base_input([data[s] for s in systems], [data[systems[0]]], steps=4, batch_size=2)
    config["loss"].update(start_pref_v=0, limit_pref_v=0)
    run_dp(tmp_path, "train", config)
    assert np.isfinite(lcurve(tmp_path)["rmse_f_trn"]).all()


def test_padding_does_not_change_the_loss(data, tmp_path):
    """A mixed-type batch gives each frame the energy and forces it has alone."""
    model = tiny_model()
    coord = torch.tensor(np.load(f"{data['mixed']}/set.000/coord.npy"))
    types = torch.tensor(np.load(f"{data['mixed']}/set.000/real_atom_types.npy"))
    box = torch.tensor(np.load(f"{data['mixed']}/set.000/box.npy"))
    batch = model(coord, types, box)
    for k in range(len(types)):
        real = types[k] >= 0
        alone = model(coord[k].view(1, -1, 3)[:, real], types[k][real][None], box[k][None])
        torch.testing.assert_close(batch["energy"][k], alone["energy"][0], rtol=0, atol=1e-10)
        torch.testing.assert_close(batch["force"][k][real], alone["force"][0], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "float32"},
        {"num_interactions": 1, "sel": 20},
        {
            "interaction": "RealAgnosticDensityResidual",
            "pair_repulsion": True,
            "distance_transform": "Agnesi",
            "sel": "auto:1.2",
        },
        {"apply_cutoff": False, "radial_type": "gaussian", "num_interactions": 3, "max_L": 2},
        # Every documented key of the existing plugin.
        {
            "std": 1,
            "sel": "auto",
            "num_radial_basis": 8,
            "num_cutoff_basis": 5,
            "max_ell": 3,
            "interaction": "RealAgnosticResidualInteractionBlock",
            "num_interactions": 2,
            "hidden_irreps": "4x0e + 4x1o",
            "pair_repulsion": False,
            "distance_transform": "None",
            "correlation": 3,
            "gate": "silu",
            "MLP_irreps": "16x0e",
            "radial_type": "bessel",
            "radial_MLP": [64, 64, 64],
        },
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_train_and_freeze(data, tmp_path, options):
    config = base_input([data["a"]], None, steps=2)
    config["model"].update(options)
    run_dp(tmp_path, "train", config)
    run_dp(tmp_path, "freeze", None, "-o", "m.pth")
    coord, atype, cell = composition_frames(8, 1, 900, box_length=5.0)[0]
    frozen, checkpoint = (
        DeepPot(str(tmp_path / n)).eval(coord[None], cell[None], atype) for n in ("m.pth", "model.ckpt.pt")
    )
    for x, y in zip(frozen, checkpoint, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-9 if options.get("precision") != "float32" else 1e-5)


def test_skipped_neighbor_statistics(data, tmp_path):
    config = base_input([data["a"]], None, steps=1)
    run_dp(tmp_path, "train", config, "--skip-neighbor-stat")
    assert (tmp_path / "model.ckpt.pt").exists()


def test_builtin_models_still_train(data, tmp_path):
    """The e3nn repair keeps DeePMD-kit's own models usable in the same environment."""
    config = base_input([data["a"]], None, steps=2)
    config["model"] = {
        "type_map": ["O", "H"],
        "descriptor": {
            "type": "se_e2_a",
            "sel": [20, 20],
            "rcut": 4.0,
            "rcut_smth": 0.5,
            "neuron": [4, 8],
            "axis_neuron": 4,
        },
        "fitting_net": {"neuron": [8, 8]},
    }
    run_dp(tmp_path, "train", config)
    assert (tmp_path / "model.ckpt.pt").exists()


def test_wrong_input_is_explained(data, tmp_path):
    config = base_input([data["a"]], None, steps=1)
    config["model"]["radial_type"] = "chebyshev"
    with pytest.raises(Exception, match="radial_type.*chebyshev.*one of bessel, gaussian"):
        run_dp(tmp_path, "train", config)


def test_stat_files_do_not_mix_type_maps(trained, data, tmp_path):
    """The same file, other elements: E0 and the rest are those of the own data, element by element."""
    config = base_input([data["a"], data["b"]], None, steps=1)
    config["model"]["type_map"] = ["C", "H", "O"]
    (tmp_path / "shared").mkdir()
    config["training"]["stat_file"] = str(trained / "stat.hdf5")
    run_dp(tmp_path / "shared", "train", config)
    old = weights(trained / "model.ckpt.pt")["model.Default.out_bias"].flatten()
    new = weights(tmp_path / "shared" / "model.ckpt.pt")["model.Default.out_bias"].flatten()
    torch.testing.assert_close(new[[2, 1]], old, rtol=0.05, atol=1.0)
    assert new[0] == 0


def test_energies_from_a_file_stay_in_the_checkpoint(data, tmp_path):
    (tmp_path / "e0.json").write_text('{"O": -7.0, "1": -1.0}')
    config = base_input([data["a"]], None, steps=1)
    config["model"]["atomic_energies"] = str(tmp_path / "e0.json")
    run_dp(tmp_path, "train", config)
    (tmp_path / "e0.json").unlink()
    state = torch.load(tmp_path / "model.ckpt.pt", weights_only=True)["model"]
    assert state["model.Default.out_bias"].flatten().tolist() == [-7.0, -1.0]
    assert state["_extra_state"]["model_params"]["atomic_energies"] == {"O": -7.0, "H": -1.0}
    run_dp(tmp_path, "freeze", None, "-o", "m.pth")
