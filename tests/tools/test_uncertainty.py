"""From frames with labels to error bars of files of all kinds, in Python and in ASE."""

import numpy as np
import pytest
import torch
from ase import Atoms
from helpers import random_frame, tiny_model
from nequip_models import tiny_nequip
from training_data import composition_frames, write_system

from deepmd_gnn import uncertainty
from deepmd_gnn.datasets.frames import DataError
from deepmd_gnn.datasets.sources import read_frames
from deepmd_gnn.native.conversion import save_checkpoint
from deepmd_gnn.tools.alike_frames import evaluated_alike, inputs_of
from deepmd_gnn.tools.evaluation import load_potential
from deepmd_gnn.tools.posterior import PosteriorMaker
from deepmd_gnn.tools.uncertain_checkpoint import store, write_members
from deepmd_gnn.tools.uncertainty import has_uncertainty, last_layer_features


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint, frames of two sizes, and the checkpoint with the posterior that they give."""
    folder = tmp_path_factory.mktemp("uncertain")
    for name, size in (("small", 6), ("large", 9)):
        write_system(folder / "data" / name, composition_frames(size, 12, seed=size))
    save_checkpoint(tiny_model(), folder / "plain.pt")
    maker = PosteriorMaker(load_potential(folder / "plain.pt"), draws=4)
    held = maker.add_and_hold_out(read_frames(folder / "data"))
    posterior = maker.finish(held, held_out=True)
    store(folder / "plain.pt", folder / "sure.pt", None, posterior)
    return folder, maker, posterior, held


def frame_inputs(seed=4):
    coord, types, cell = random_frame(seed=seed)
    return coord[None], cell.reshape(1, 9), types


def test_covariance_is_that_of_autograd(made):
    """Of the frames that were not held out: gradients of their energies by the weights of the last layer."""
    folder, maker, posterior, held = made
    model = tiny_model()
    weights = dict(model.energy_model.named_parameters())
    chosen = [weights[name] for name in model.energy_model.last_layer()]
    expected, count = np.zeros((8, 8)), 0
    for place, frame in enumerate(read_frames(folder / "data")):
        if place % 10 == 9:
            continue
        types = torch.tensor([["O", "H"].index({8: "O", 1: "H"}[n]) for n in frame.numbers.tolist()])
        graph = model.graphs.of_frames(
            torch.tensor(frame.positions[None]), types[None], torch.tensor(frame.cell.reshape(1, 9))
        )
        energy = model.network_energies(graph, None)[1:].sum()
        row = torch.cat([one.flatten() for one in torch.autograd.grad(energy, chosen)]).numpy()
        expected += np.outer(row, row)
        count += 1
    np.testing.assert_allclose(maker.covariance.matrix, expected, rtol=1e-10)
    assert posterior.description["frames"] == count == 24 - len(held) == 22
    assert posterior.description["calibrated_on"] == "training frames"


def test_calibrated_frames_have_errors_of_their_deviation(made):
    folder, _, posterior, held = made
    potential = load_potential(folder / "sure.pt")
    ratios = []
    for frame in held:
        inputs = inputs_of([frame], potential, [])
        error = frame.info["REF_energy"] - potential.eval(*inputs.arrays)[0][0, 0]
        ratios.append(error / uncertainty(potential, *inputs.arrays)["energy_std"][0, 0])
    assert np.sqrt(np.mean(np.square(ratios))) == pytest.approx(1.0)
    assert posterior.force_scale != 1.0


def test_files_of_all_kinds_agree(made, tmp_path):
    folder, *_ = made
    first = load_potential(folder / "sure.pt")
    scripted = first.deep_eval.dp.model["Default"]
    scripted.save(str(tmp_path / "sure.pth"))
    second = load_potential(tmp_path / "sure.pth")

    class Exported:
        """What the host's inference of a .pt2 has: the model rebuilt from plain data, in training mode."""

        class deep_eval:
            _dpmodel = tiny_model()

    state = {k.removeprefix("model.Default."): v for k, v in torch.load(folder / "sure.pt", weights_only=True)["model"].items() if k != "_extra_state"}  # fmt: skip
    Exported.deep_eval._dpmodel.load_state_dict(state)
    Exported.deep_eval._dpmodel = type(tiny_model()).deserialize(Exported.deep_eval._dpmodel.serialize())
    found = [
        uncertainty(one, *frame_inputs(), forces=True, gradient=True) for one in (first, second, Exported)
    ]
    assert found[0]["force_std"].shape == (1, 12, 1)
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_allclose(value, other[name], rtol=1e-9, atol=1e-12)


def test_frames_in_batches(made):
    """As many as there are, of the same or of different types."""
    potential = load_potential(made[0] / "sure.pt")
    coord, cell, types = frame_inputs()
    frames = np.repeat(coord, 130, axis=0) + np.random.default_rng(0).normal(0, 0.02, (130, 12, 3))
    cells = np.repeat(cell, 130, axis=0)
    together = uncertainty(potential, frames, cells, types)["energy_std"]
    mixed = uncertainty(potential, frames, cells, np.tile(types, (130, 1)))["energy_std"]
    np.testing.assert_array_equal(together, mixed)
    alone = uncertainty(potential, frames[99:100], cells[99:100], types)["energy_std"]
    np.testing.assert_allclose(together[99:100], alone, rtol=1e-10)


def test_it_grows_outside_the_data(made):
    """Atoms of the training data pushed together: features that no frame has had."""
    folder, _, _, held = made
    potential = load_potential(folder / "sure.pt")
    coord, cell, types = inputs_of(held[:1], potential, []).arrays
    near = uncertainty(potential, coord, cell, types)["energy_std"][0, 0]
    far = uncertainty(potential, 0.75 * coord, 0.75 * cell, types)["energy_std"][0, 0]
    assert far > 2.0 * near


def test_in_ase(made):
    from deepmd.calculator import DP

    folder, *_ = made
    coord, types, cell = random_frame(seed=4)
    atoms = Atoms([["O", "H"][t] for t in types], positions=coord, cell=cell, pbc=True)
    atoms.calc = DP(folder / "sure.pt")
    atoms.get_potential_energy()
    expected = uncertainty(load_potential(folder / "sure.pt"), *frame_inputs(), forces=True)
    assert atoms.calc.results["energy_std"] == pytest.approx(expected["energy_std"][0, 0])
    np.testing.assert_allclose(atoms.calc.results["energies_std"], expected["atom_energy_std"][0, :, 0])
    assert "forces_std" not in atoms.calc.results  # costs more, so only where it is asked for
    np.testing.assert_allclose(atoms.calc.get_property("forces_std", atoms), expected["force_std"][0, :, 0])
    for calculator in (DP(folder / "sure.pt", uncertainty=False), DP(folder / "plain.pt")):
        atoms.calc = calculator
        atoms.get_potential_energy()
        assert "energy_std" not in calculator.results


def test_members_are_models_with_other_last_layers(made, tmp_path):
    folder, _, posterior, _ = made
    names = tiny_model().energy_model.last_layer()
    files = write_members(folder / "sure.pt", tmp_path / "members", None, posterior, names)
    first = load_potential(folder / "sure.pt")
    features = last_layer_features(first, *frame_inputs()).sum(axis=1)[0]
    before = first.eval(*frame_inputs())[0][0, 0]
    assert [path.name for path in files] == [f"member_{k}.pt" for k in range(1, 5)]
    member = load_potential(files[2])
    assert not has_uncertainty(member)
    expected = features @ posterior.members[2]
    assert member.eval(*frame_inputs())[0][0, 0] - before == pytest.approx(expected, abs=1e-9)


def test_what_is_refused(made, tmp_path):
    folder, maker, *_ = made
    plain = load_potential(folder / "plain.pt")
    with pytest.raises(
        ValueError, match="no uncertainty is stored with this model: run `deepmd-gnn uncertainty"
    ):
        uncertainty(plain, *frame_inputs())
    torch.jit.script(tiny_nequip()).save(str(tmp_path / "nequip.pth"))
    nequip = load_potential(tmp_path / "nequip.pth")
    assert not has_uncertainty(nequip)
    with pytest.raises(ValueError, match="a nequip model does not tell the features before its last layer"):
        uncertainty(nequip, *frame_inputs())
    with pytest.raises(DataError, match="0 frames with a reference energy to calibrate"):
        maker.finish([], held_out=False)


def test_frames_are_evaluated_in_their_order(made):
    frames = list(read_frames(made[0] / "data"))
    frames = [frame for pair in zip(frames[:12], frames[12:], strict=True) for frame in pair]
    sizes = []

    def natoms(batch):
        sizes.append(len(batch))
        return [frame.natoms for frame in batch]

    found = list(evaluated_alike(frames, natoms, 5, "refuse"))
    assert [one for one, _ in found] == frames
    assert [number for _, number in found] == [frame.natoms for frame in frames]
    assert sizes == [5, 5, 2, 5, 5, 2]
