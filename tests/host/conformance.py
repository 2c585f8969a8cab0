"""What every model of the host has to do, whatever its network. A test module subclasses :class:`Conformance`."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from helpers import assert_close, extended, folded, our_results, random_frame, rotation, self_send
from lammps_cases import freeze
from lammps_runner import run_lammps, write_data
from tolerances import FINITE_DIFFERENCE, NATIVE, RANKS

from deepmd_gnn.graph.builders import make_graph
from deepmd_gnn.graph.neighbor_search import NeighborPairs

EXACT = NATIVE["float64"]
KEYS = ("energy", "atom_energy", "force", "virial", "atom_virial")


def assert_equal(found, expected, tolerance=EXACT, keys=KEYS):
    for key in keys:
        assert_close(np.asarray(found[key]), np.asarray(expected[key].detach()), tolerance, key)


def sampled(model, nframes=4):
    """Labelled frames as the host samples them; labels are the model's own, shifted by 2 eV per atom of type 1."""
    frames = [random_frame(seed=seed) for seed in range(nframes)]
    coord, atype, box = (torch.tensor(np.stack(part)) for part in zip(*frames, strict=True))
    box = box.reshape(nframes, 9)
    out = model(coord, atype, box)
    energy = out["energy"].detach() + 2.0 * (atype == 1).sum(dim=1, keepdim=True)
    counts = torch.stack([(atype == kind).sum(dim=1) for kind in range(2)], dim=1)
    natoms = torch.cat([torch.full((nframes, 2), atype.shape[1]), counts], dim=1)
    found = {f"find_{name}": np.float32(1.0) for name in ("energy", "force")}
    return {
        "coord": coord,
        "atype": atype,
        "box": box,
        "energy": energy,
        "force": out["force"].detach(),
        "natoms": natoms,
    } | found


class Conformance:
    """Tests of a model; a subclass has the fixture ``make``, which builds one for types O and H, float64, in eval mode."""

    # The message passing of a model with these options has a second layer.
    LAYERED: ClassVar = {}

    @pytest.fixture
    def model(self, make):
        return make(**self.LAYERED)

    # --- derivatives ---

    def test_forces_and_virial(self, model):
        """Central differences of energies in positions and strain."""
        coord, atype, cell = random_frame(natoms=6, box_length=4.5)
        found = our_results(model, coord, atype, cell, do_atomic_virial=True)
        step = 1e-4

        def slope(moved):
            energies = [float(our_results(model, *moved(sign * step))["energy"][0]) for sign in (1, -1)]
            return (energies[0] - energies[1]) / (2 * step)

        for atom, axis in ((0, 0), (3, 2)):
            unit = np.zeros_like(coord)
            unit[atom, axis] = 1.0
            difference = -slope(lambda h, unit=unit: (coord + h * unit, atype, cell))
            assert (
                abs(difference - found["force"][atom, axis])
                <= FINITE_DIFFERENCE * np.abs(found["force"]).max()
            )
        for a, b in ((0, 0), (1, 2)):
            strain = np.zeros((3, 3))
            strain[a, b] = 1.0
            difference = -slope(
                lambda h, s=strain: (coord @ (np.eye(3) + h * s), atype, cell @ (np.eye(3) + h * s))
            )
            assert (
                abs(difference - found["virial"].reshape(3, 3)[a, b])
                <= FINITE_DIFFERENCE * np.abs(found["virial"]).max()
            )
        assert_close(found["atom_virial"].sum(axis=0), found["virial"], EXACT)

    def test_atomic_virial(self, model):
        """In a cluster the atomic virials, like the total, are moments of forces: Σ_i r_i ⊗ F_i."""
        coord, atype, _ = random_frame(natoms=8)
        found = our_results(model, coord, atype, None, do_atomic_virial=True)
        moments = np.einsum("ia,ib->ab", found["force"], coord).reshape(9)
        assert_close(found["virial"], moments, EXACT)
        assert_close(found["atom_virial"].sum(axis=0), moments, EXACT)

    def test_atomic_virial_of_each_atom(self, model):
        """Central differences: strain the edges to one neighbour, to which the host gives the whole term of an edge."""
        coord, atype, cell = (torch.from_numpy(part) for part in random_frame(natoms=6, box_length=4.5))
        found = our_results(model, coord.numpy(), atype.numpy(), cell.numpy(), do_atomic_virial=True)
        center, neighbor, vectors = NeighborPairs(model.get_rcut())(coord[None], atype[None], cell[None])
        index = torch.stack([neighbor, center])
        step = 1e-4

        def energy(strained, strain):
            moved = vectors + (neighbor == strained).unsqueeze(1) * (vectors @ strain)
            graph = make_graph(atype, atype, *index, moved, index, model.get_rcut())
            return float(model.atom_energies(model.graphs.arranged(graph), atype, None).detach().sum())

        for atom, a, b in ((0, 0, 0), (0, 1, 2), (2, 2, 1), (5, 1, 1)):
            strain = torch.zeros(3, 3, dtype=torch.float64)
            strain[b, a] = step
            difference = -(energy(atom, strain) - energy(atom, -strain)) / (2 * step)
            error = abs(difference - found["atom_virial"][atom].reshape(3, 3)[a, b])
            assert error <= FINITE_DIFFERENCE * np.abs(found["atom_virial"]).max()

    # --- invariances ---

    @pytest.mark.parametrize("inverted", [False, True])
    def test_rotation(self, model, inverted):
        coord, atype, cell = random_frame()
        turn = rotation() * (-1 if inverted else 1)
        before = our_results(model, coord, atype, cell, do_atomic_virial=True)
        after = our_results(model, coord @ turn.T, atype, cell @ turn.T, do_atomic_virial=True)
        assert_close(after["energy"], before["energy"], EXACT)
        assert_close(after["force"], before["force"] @ turn.T, EXACT)
        for key in ("virial", "atom_virial"):
            turned = turn @ before[key].reshape(-1, 3, 3) @ turn.T
            assert_close(after[key].reshape(-1, 3, 3), turned, EXACT, key)

    def test_translation_permutation_and_lattice_vectors(self, model):
        coord, atype, cell = random_frame()
        rng = np.random.default_rng(1)
        order = rng.permutation(len(atype))
        moved = (coord + [0.3, -7.0, 11.0] + rng.integers(-3, 4, (len(atype), 3)) @ cell)[order]
        before = our_results(model, coord, atype, cell, do_atomic_virial=True)
        after = our_results(model, moved, atype[order], cell, do_atomic_virial=True)
        for key in KEYS:
            same = before[key] if key in ("energy", "virial") else before[key][order]
            assert_close(after[key], same, EXACT, key)

    def test_smooth_at_the_cutoff(self, model):
        """Energy and force of a pair that comes into the cutoff begin at nothing."""
        r_max = model.get_rcut()
        inside, outside = (
            our_results(
                model, np.array([[0.0, 0, 0], [1.1, 0, 0], [0, r_max + shift, 0]]), np.array([0, 1, 1]), None
            )
            for shift in (-1e-3, 1e-3)
        )
        assert_close(inside["energy"], outside["energy"], 1e-7)
        assert_close(inside["force"], outside["force"], 1e-5)

    # --- the host's interfaces ---

    def test_answers(self, model):
        assert model.get_type_map() == ["O", "H"]
        assert (model.get_ntypes(), model.get_rcut(), model.get_dim_fparam(), model.get_dim_aparam()) == (
            2,
            4.0,
            0,
            0,
        )
        assert model.get_nsel() == model.get_nnei() == sum(model.get_sel())
        assert model.model_output_type() == ["energy"]
        assert model.mixed_types()
        assert model.has_message_passing() == (model.nlayers > 1)
        assert model.get_sel_type() == [0, 1]
        assert {"energy", "force", "virial", "atom_energy", "atom_virial"} <= set(
            model.translated_output_def()
        )
        assert model.atomic_output_def().keys() == {"energy", "mask"}

    @pytest.mark.parametrize("skin", [0.0, 1.5])
    @pytest.mark.parametrize("nf", [1, 2])
    def test_shuffled_list(self, model, skin, nf):
        whole, (coord, atype, owner, nlist) = extended(
            [random_frame(seed=s) for s in range(nf)], model.get_rcut() + skin
        )
        shuffled = nlist[:, :, torch.randperm(nlist.shape[2])]
        out = model.forward_lower(coord, atype, shuffled, owner, do_atomic_virial=True)
        assert_equal(folded(out, owner, nlist.shape[1]), model(*whole, do_atomic_virial=True))

    @pytest.mark.parametrize("scripted", [False, True])
    def test_exchange_with_oneself(self, model, scripted):
        """Ghosts whose features come through the host's operator are their owners; the mapping is not read."""
        whole, (coord, atype, owner, nlist) = extended([random_frame()], model.get_rcut())
        kept, comm = self_send(nlist.shape[1], owner)
        runner = torch.jit.script(model) if scripted else model
        out = runner.forward_lower(coord, atype, nlist, owner + 10**6, None, None, True, comm, None)
        assert_equal(folded(out, owner, nlist.shape[1]), model(*whole, do_atomic_virial=True))
        assert len(kept) > 0

    @pytest.mark.optimised
    def test_torchscript(self, model, tmp_path):
        whole, _ = extended([random_frame(seed=s) for s in range(2)], model.get_rcut())
        torch.jit.script(model).save(str(tmp_path / "model.pth"))
        loaded = torch.jit.load(str(tmp_path / "model.pth"))
        out = {key: value.detach() for key, value in loaded(*whole, None, None, True).items()}
        assert_equal(out, model(*whole, do_atomic_virial=True))

    def test_no_atoms(self, model):
        for box in (None, torch.eye(3, dtype=torch.float64).reshape(1, 9) * 5):
            out = model(torch.zeros(1, 0, 3, dtype=torch.float64), torch.zeros(1, 0, dtype=torch.int64), box)
            assert out["energy"].tolist() == [[0.0]]
            assert out["force"].shape == (1, 0, 3)
            assert not out["virial"].any()

    def test_lone_atom(self, model):
        model.set_out_bias(torch.tensor([[[-5.0], [-1.25]]]))
        found = our_results(model, np.zeros((1, 3)), np.array([1]), None)
        assert_close(found["energy"], [-1.25], EXACT)

    def test_padding(self, model):
        """Atoms of type −1 are not there."""
        coord, atype, cell = random_frame()
        expected = our_results(model, coord, atype, cell)
        padded = our_results(model, np.vstack([coord, [[0.1, 0.2, 0.3]]]), np.append(atype, -1), cell)
        for key in ("energy", "virial"):
            assert_close(padded[key], expected[key], EXACT, key)
        assert_close(padded["force"][:-1], expected["force"], EXACT)
        assert not padded["force"][-1].any()
        assert padded["mask"].tolist() == [1] * len(atype) + [0]

    # --- storage and statistics ---

    def test_round_trip(self, model):
        whole, _ = extended([random_frame()], model.get_rcut())
        again = type(model).deserialize(model.serialize()).eval()
        assert_equal(
            {k: v.detach() for k, v in again(*whole, do_atomic_virial=True).items()},
            model(*whole, do_atomic_virial=True),
            0.0,
        )

    def test_statistics(self, make):
        """Neighbours per atom, size of forces and E0 of the data become part of the model."""
        sample = sampled(make(**self.LAYERED))
        model = make(**self.LAYERED, avg_num_neighbors="auto", scale="auto", atomic_energies="auto")
        model.compute_or_load_stat(lambda: [sample])
        assert_close(float(model.energy_model.scale), sample["force"].square().mean().sqrt().item(), EXACT)
        pairs = [torch.cdist(frame, frame) for frame in sample["coord"]]
        assert float(model.energy_model.avg_num_neighbors) > float((torch.stack(pairs) < 4.0).sum() / 48 - 1)
        assert model.get_observed_type_list() == ["O", "H"]
        assert model.get_out_bias().abs().min() > 0

    def test_change_bias(self, model):
        before = model.get_out_bias().clone()
        model.change_out_bias([sampled(model)])
        assert_close((model.get_out_bias() - before).flatten().numpy(), [0.0, 2.0], 1e-8)

    def test_other_elements(self, model):
        """Elements in another order, with one more, keep their energies."""
        coord, atype, cell = random_frame()
        model.set_out_bias(torch.tensor([[[-5.0], [-1.25]]]))
        expected = our_results(model, coord, atype, cell)
        model.change_type_map(["H", "C", "O"])
        found = our_results(model, coord, np.where(atype == 1, 0, 2), cell)
        for key in ("energy", "force", "virial"):
            assert_close(found[key], expected[key], EXACT, key)

    def test_excluded_types(self, make):
        """Pairs that do not see each other, and types without energy."""
        coord, atype, cell = random_frame()
        model = make(**self.LAYERED, pair_exclude_types=[[0, 1]])
        parts = [
            our_results(model, coord[atype == kind], atype[atype == kind], cell)["energy"] for kind in (0, 1)
        ]
        assert_close(our_results(model, coord, atype, cell)["energy"], sum(parts), EXACT)
        mute = our_results(make(**self.LAYERED, atom_exclude_types=[1]), coord, atype, cell)
        assert not mute["atom_energy"][atype == 1].any()

    def test_training_step(self, make):
        """The gradient of a loss on forces exists for every trained parameter."""
        model = make(**self.LAYERED).train()
        whole, _ = extended([random_frame()], model.get_rcut())
        out = model(*whole)
        (out["energy"].sum() + out["force"].square().sum() + out["virial"].square().sum()).backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad and p.numel())
        assert any(p.grad.abs().max() > 0 for p in model.parameters() if p.grad is not None)


class ConformanceOfFiles:
    """Frozen files of a model in Python and in LAMMPS; a subclass has the fixture ``model``."""

    def frozen(self, model, kind, request):
        """A file of the model."""
        path = request.getfixturevalue("tmp_path") / f"model{kind}"
        freeze(model, path)
        return path

    @pytest.mark.lammps
    @pytest.mark.parametrize("kind", [".pth", pytest.param(".pt2", marks=pytest.mark.slow)])
    def test_file_on_two_ranks(self, model, kind, tmp_path, request):
        """A frozen file on two ranks, on one and in Python gives the numbers of the model."""
        from deepmd.infer import DeepPot

        path = self.frozen(model, kind, request)
        coord, atype, cell = random_frame(40, 8.0, seed=4)
        expected = our_results(model, coord, atype, cell)
        energy, force, virial = DeepPot(str(path)).eval(coord.reshape(1, -1), cell.reshape(1, 9), atype)
        for key, value in (("energy", energy[0]), ("force", force[0]), ("virial", virial[0])):
            assert_close(value, expected[key], EXACT, key)
        for ranks in (1, 2):
            folder = tmp_path / str(ranks)
            folder.mkdir()
            write_data(folder / "data.lmp", coord, atype, cell, ntypes=2)
            run_lammps(folder, LAMMPS.format(model=path), ranks).check()
            found = np.loadtxt(folder / "dump.txt", skiprows=9)
            assert np.abs(found[:, 1:] - expected["force"]).max() <= RANKS["float64"], f"{ranks} ranks"


LAMMPS = """\
units metal
atom_style atomic
atom_modify map yes
read_data data.lmp
pair_style deepmd {model}
pair_coeff * * O H
neighbor 1.5 bin
dump out all custom 1 dump.txt id fx fy fz
dump_modify out sort id format float %.17g
run 0
"""
